# SPDX-License-Identifier: Apache-2.0
"""What an engine reads of a host. See `tests.support.decode`."""

from typing import Any

from tests.support.decoding import Table, check, check_whole
from tests.support.rules import (
    anything,
    bare_boolean,
    bare_integer,
    boolean,
    fraction,
    integer,
    list_of,
    map_of,
    obj,
    one_of,
    record,
    text,
    text_boolean,
    text_double,
    text_integer,
    uuid,
)

_ADDRESSES: Table = {
    "addr": text, "netmask": text, "ipv6addrs": list_of(text), "gateway": text, "ipv6gateway": text,
    "dhcpv4": bare_boolean, "dhcpv6": bare_boolean, "ipv6autoconf": bare_boolean, "mtu": integer,
}  # fmt: skip


_NIC = record(
    {"hwaddr": text, "speed": bare_integer}, {**_ADDRESSES, "permhwaddr": text, "ad_aggregator_id": text_integer}
)
_BOND = record(
    {"slaves": list_of(text)},
    {**_ADDRESSES, "hwaddr": text, "opts": map_of(text), "active_slave": text, "speed": bare_integer},
)
_VLAN = record({"vlanid": bare_integer, "iface": text}, _ADDRESSES)
_BRIDGE = record({"ports": list_of(text)}, _ADDRESSES)
_NETWORK = record(
    {"iface": text, "bridged": bare_boolean, "switch": one_of("legacy", "ovs")},
    {**_ADDRESSES, "ipv4defaultroute": bare_boolean, "hostQos": obj},
)
_NODE = record({"cpus": list_of(bare_integer), "totalMemory": text_integer}, {"hugepages": obj})


CAPABILITIES_MUST: Table = {
    "HBAInventory": obj,
    "clusterLevels": list_of(text),
    "packages2": map_of(record({"version": text, "release": text})),
    "kvmEnabled": text_boolean,
    "cpuFlags": text,
    "emulatedMachines": list_of(text),
    "rngSources": list_of(text),
    "networks": map_of(_NETWORK),
    "nics": map_of(_NIC),
    "bridges": map_of(_BRIDGE),
    "vlans": map_of(_VLAN),
    "bondings": map_of(_BOND),
    "cpuCores": text_integer,
    "cpuThreads": text_integer,
    "cpuSockets": text_integer,
    "cpuModel": text,
    "onlineCpus": text,
    "cpuSpeed": text_double,
    "memSize": text_integer,
    "reservedMem": text_integer,
    "guestOverhead": text_integer,
}


CAPABILITIES_MAY: Table = {
    "supportedENGINEs": list_of(text),
    "cpuTopology": list_of(
        record(dict.fromkeys(("cpu_id", "core_id", "die_id", "socket_id", "numa_cell_id"), bare_integer))
    ),
    "numaNodes": map_of(_NODE, text_integer),
    "numaNodeDistance": map_of(list_of(bare_integer), text_integer),
    "autoNumaBalancing": integer,
    "domain_versions": list_of(bare_integer),
    "supported_block_size": map_of(list_of(bare_integer)),
    "additionalFeatures": list_of(text),
    "selinux": record({"mode": text_integer}),
    "ISCSIInitiatorName": text,
    "kdumpStatus": integer,
    "operatingSystem": record({"name": text, "version": text, "release": text}, {"pretty_name": text}),
    "kernelArgs": text,
    "kernelFeatures": obj,
    "hooks": obj,
    "version_name": text,
    "software_version": text,
    "tscFrequency": text,
    "boot_uuid": text,
    "vdsmToCpusAffinity": list_of(bare_integer),
    "connector_info": obj,
    "openstack_binding_host_ids": obj,
    "nameservers": list_of(text),
    "netConfigDirty": text,
    "hostdevPassthrough": text_boolean,
    **dict.fromkeys(
        (
            "fipsEnabled",
            "hostedEngineDeployed",
            "vncEncrypted",
            "backupEnabled",
            "coldBackupEnabled",
            "tscScaling",
            "clearBitmapsEnabled",
            "cd_change_pdiv",
            "ovnConfigured",
            "supportsIPv6",
        ),
        boolean,
    ),
}  # fmt: skip


def check_caps(answer: Any) -> Any:
    """`Host.getCapabilities`: what keeps a host from Up, or loses the whole answer."""
    extra = []
    if isinstance(answer, dict):
        vdsm = (answer.get("packages2") or {}).get("vdsm") or {}
        if ".".join(str(vdsm.get("version", "")).split(".")[:2]) not in ("4.20", "4.30", "4.40", "4.50"):
            extra.append("packages2.vdsm.version: major.minor must be one of 4.20, 4.30, 4.40, 4.50")
        if "random" not in (answer.get("rngSources") or []):
            extra.append("rngSources: must contain random")
        if not str(answer.get("cpuFlags", "")).count("model_"):
            extra.append("cpuFlags: no model_… entry, the host has no CPU type")
        if "packages" in answer:
            extra.append("packages: with the old list, packages2 is not read")
        if not answer.get("emulatedMachines"):
            extra.append("emulatedMachines: empty")
        extra += [
            f"vlans.{name}: its base {vlan.get('iface')} is not listed"
            for name, vlan in (answer.get("vlans") or {}).items()
            if not any(vlan.get("iface") in (answer.get(k) or {}) for k in ("nics", "vlans", "bondings"))
        ]
    return check("capabilities", answer, CAPABILITIES_MUST, CAPABILITIES_MAY, extra)


def check_hardware(answer: Any) -> Any:
    """`Host.getHardwareInfo`: optional strings."""
    names = ("Manufacturer", "ProductName", "Version", "SerialNumber", "UUID", "Family")
    return check("hardware info", answer, {}, {f"system{name}": text for name in names})


DOMAIN_REPORT = record(
    {"code": bare_integer, "lastCheck": text_double, "delay": text_double, "valid": bare_boolean},
    {"version": integer, "acquired": bare_boolean, "actual": bare_boolean},
)
_NIC_STATS = record(
    {"name": text, "state": one_of("up", "down"), "speed": integer, "sampleTime": fraction},
    dict.fromkeys(("rx", "tx", "rxDropped", "txDropped", "rxErrors", "txErrors"), anything),
)


HOST_STATS_MUST: Table = {
    "cpuUser": text_double, "cpuSys": text_double, "cpuIdle": text_double, "cpuLoad": text_double,
    **dict.fromkeys(
        (
            "memFree",
            "swapTotal",
            "swapFree",
            "vmCount",
            "vmActive",
            "vmMigrating",
            "incomingVmMigrations",
            "outgoingVmMigrations",
        ),
        bare_integer,
    ),
    "storageDomains": map_of(DOMAIN_REPORT, uuid),
    "dateTime": text,
}  # fmt: skip


HOST_STATS_MAY: Table = {
    "memShared": integer, "ksmPages": integer, "ksmCpu": integer, "ksmState": boolean,
    "thpState": one_of("always", "madvise", "never"),
    "anonHugePages": text_integer,
    "network": map_of(_NIC_STATS),
    "cpuStatistics": map_of(
        record({"cpuUser": text_double, "cpuSys": text_double, "cpuIdle": text_double, "nodeIndex": bare_integer}),
        text_integer,
    ),
    "numaNodeMemFree": map_of(
        record({"memFree": text_integer, "memPercent": bare_integer}, {"hugepages": obj}), text_integer
    ),
    "hugepages": map_of(obj, text_integer),
    "diskStats": map_of(record({"free": text_integer})),
    "bootTime": text_integer,
    "netConfigDirty": one_of("True", "False"),
    "haStats": record({"configured": boolean, "active": boolean, "score": bare_integer}),
    "haScore": bare_integer,
    "v2vJobs": map_of(record({"status": text, "progress": bare_integer})),
    "multipathHealth": map_of(record({"valid_paths": bare_integer})),
    "momStatus": text,
    "elapsedTime": text,
}  # fmt: skip


def check_host_stats(answer: Any) -> Any:
    """`Host.getStats`."""
    return check("host statistics", answer, HOST_STATS_MUST, HOST_STATS_MAY)


def check_hostdevs(answer: Any) -> Any:
    """`Host.hostdevListByCaps`: {} is fine; else each needs a capability and, but for `computer`, a parent."""
    extra = [
        f"{name}: no params.{need}"
        for name, device in (answer.items() if isinstance(answer, dict) else ())
        for need in ("capability", *(("parent",) if name != "computer" else ()))
        if not isinstance((device.get("params") or {}).get(need), str)
    ]
    return check("host device list", answer, {}, {}, extra)


def check_jobs(answer: Any) -> Any:
    """`Host.getJobs`: one unknown status breaks the poll for all jobs."""
    must: Table = {
        "id": uuid,
        "status": one_of("pending", "running", "done", "aborted", "failed"),
        "job_type": text,
        "description": text,
    }
    may: Table = {"progress": fraction, "error": record({"code": bare_integer, "message": text})}
    wrong = map_of(record(must, may), uuid)(answer)
    return check("job list", answer, {}, {}, [wrong] if wrong else [])


def check_dumpxmls(answer: Any) -> Any:
    """`Host.dumpxmls`: {vm id: libvirt XML with the metadata element}."""
    wrong = map_of(text, uuid)(answer)
    return check("dump of XML", answer, {}, {}, [wrong] if wrong else [])


def check_fence(answer: Any) -> Any:
    """`Host.fenceNode`."""
    power, operation = one_of("on", "off", "unknown"), one_of("initiated", "skipped")
    return check_whole("fence result", answer, {"power": power}, {"operationStatus": operation})
