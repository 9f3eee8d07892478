# SPDX-License-Identifier: Apache-2.0
"""Reads answers as the engine does, field by field, and says what it would lose. For golden-answer tests.

Each `check_*` takes the `result` member of an answer (after JSON) and returns it, or raises `Undecodable` with every
field that is wrong. The tables are the whole knowledge; add a field here when the engine reads it.
"""

from typing import Any

from tests.support.rules import (
    Rule,
    Undecodable,
    anything,
    bare_boolean,
    bare_integer,
    boolean,
    complaints_about,
    fraction,
    integer,
    list_of,
    map_of,
    nowhere_nan,
    obj,
    one_of,
    record,
    text,
    text_boolean,
    text_double,
    text_integer,
    uuid,
)

Table = dict[str, Rule]


def _check(what: str, answer: Any, must: Table, may: Table | None = None, extra: list[str] | None = None) -> Any:
    complaints = [*complaints_about(answer, must, may or {}), *nowhere_nan(answer), *(extra or [])]
    if complaints:
        raise Undecodable(what, complaints)
    return answer


# --- results without content ------------------------------------------------------------------------------------


def check_true(answer: Any) -> Any:
    """The result of a verb with nothing to say."""
    if answer is not True:
        raise Undecodable("result", [f"{answer!r}: true is needed"])
    return answer


def check_status(answer: Any) -> Any:
    """The status object that nine verbs return instead of true."""
    return _check("status", answer, {"code": bare_integer, "message": text})


def check_task_id(answer: Any) -> Any:
    wrong = uuid(answer)
    if wrong:
        raise Undecodable("task id", [wrong])
    return answer


# --- host -------------------------------------------------------------------------------------------------------

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
    return _check("capabilities", answer, CAPABILITIES_MUST, CAPABILITIES_MAY, extra)


def check_hardware(answer: Any) -> Any:
    """`Host.getHardwareInfo`: optional strings."""
    names = ("Manufacturer", "ProductName", "Version", "SerialNumber", "UUID", "Family")
    return _check("hardware info", answer, {}, {f"system{name}": text for name in names})


_DOMAIN_REPORT = record(
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
    "storageDomains": map_of(_DOMAIN_REPORT, uuid),
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
    return _check("host statistics", answer, HOST_STATS_MUST, HOST_STATS_MAY)


def check_hostdevs(answer: Any) -> Any:
    """`Host.hostdevListByCaps`: {} is fine; else each needs a capability and, but for `computer`, a parent."""
    extra = [
        f"{name}: no params.{need}"
        for name, device in (answer.items() if isinstance(answer, dict) else ())
        for need in ("capability", *(("parent",) if name != "computer" else ()))
        if not isinstance((device.get("params") or {}).get(need), str)
    ]
    return _check("host device list", answer, {}, {}, extra)


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
    return _check("job list", answer, {}, {}, [wrong] if wrong else [])


def check_dumpxmls(answer: Any) -> Any:
    """`Host.dumpxmls`: {vm id: libvirt XML with the metadata element}."""
    wrong = map_of(text, uuid)(answer)
    return _check("dump of XML", answer, {}, {}, [wrong] if wrong else [])


# --- virtual machines -------------------------------------------------------------------------------------------

VM_STATUSES = (
    "WaitForLaunch", "Powering up", "Up", "Paused", "Powering down", "RebootInProgress", "Saving State",
    "Restoring state", "Migration Source", "Migration Destination", "Down",
)  # fmt: skip
_VM_DISK = record(
    {},
    {
        "imageID": text, "lunGUID": text, "readRate": text_double, "writeRate": text_double,
        **dict.fromkeys(
            (
                "readOps",
                "writeOps",
                "truesize",
                "apparentsize",
                "readLatency",
                "writeLatency",
                "flushLatency",
            ),
            text_integer,
        ),
    },
)  # fmt: skip
_VM_NIC = record({"name": text, "macAddr": text}, dict.fromkeys(("rx", "tx", "rxDropped", "txDropped"), text_integer))
_VM_JOB = record({
    "id": uuid, "jobType": one_of("block"), "blockJobType": text, "bandwidth": bare_integer, "cur": text_integer,
    "end": text_integer, "imgUUID": uuid, "drive": text,
})  # fmt: skip
VM_STATS_MUST: Table = {"vmId": uuid, "status": one_of(*VM_STATUSES), "statusTime": text_integer}
VM_STATS_MAY: Table = {
    "cpuUser": text_double, "cpuSys": text_double, "elapsedTime": text_integer, "memUsage": text_integer,
    "hash": text, "vmName": text, "vmType": text, "kvmEnable": text_boolean, "acpiEnable": text_boolean,
    "monitorResponse": text_integer, "clientIp": text, "timeOffset": text_integer,
    "pauseCode": one_of("NOERR", "EIO", "ENOSPC", "EPERM", "EOTHER", "POSTCOPY"),
    "exitCode": one_of(0, 1, 2, "0", "1", "2"), "exitReason": integer, "exitMessage": text,
    "network": map_of(_VM_NIC), "disks": map_of(_VM_DISK),
    "displayInfo": list_of(record({"type": one_of("vnc", "spice"), "port": text, "tlsPort": text, "ipAddress": text})),
    "balloonInfo": record({}, {f"balloon_{k}": text_integer for k in ("cur", "max", "min", "target")}),
    "vmJobs": map_of(_VM_JOB, uuid),
    "guestFQDN": text, "guestIPs": text, "username": text,
    "session": one_of("Unknown", "UserLoggedOn", "Locked", "Active", "LoggedOff"),
    "guestCPUCount": bare_integer, "memoryStats": obj,
    "netIfaces": list_of(record({"name": text}, {"hw": text, "inet": list_of(text), "inet6": list_of(text)})),
    "appsList": list_of(text), "disksUsage": list_of(obj), "guestOs": text, "guestOsInfo": obj,
    "guestTimezone": record({"offset": bare_integer}, {"zone": text}), "guestName": text,
    "migrationProgress": bare_integer, "watchdogEvent": obj, "tpmHash": text, "nvramHash": text, "cdrom": text,
    "ioTune": list_of(obj), "vcpuCount": integer, "vcpuQuota": text, "vcpuPeriod": integer,
}  # fmt: skip
#: What a VM must report besides, while QEMU runs.
RUNNING_MUST = (
    "elapsedTime", "monitorResponse", "vmName", "vmType", "kvmEnable", "acpiEnable", "vmJobs", "cpuUser", "cpuSys",
    "memUsage", "username", "session", "guestCPUCount", "appsList", "guestIPs", "guestFQDN", "clientIp", "timeOffset",
    "pauseCode", "displayInfo",
)  # fmt: skip


def check_vm_stats(answer: Any, *, running: bool = False) -> Any:
    """One entry of `Host.getAllVmStats`. running: it must also carry what a running VM reports."""
    must = {**VM_STATS_MUST, **{name: VM_STATS_MAY[name] for name in RUNNING_MUST if running}}
    extra = []
    if isinstance(answer, dict) and answer.get("status") == "Down":
        extra = [f"{name}: missing in a VM that is Down" for name in ("exitCode", "exitReason") if name not in answer]
    return _check("VM report", answer, must, VM_STATS_MAY, extra)


def check_all_vm_stats(answer: Any) -> Any:
    """`Host.getAllVmStats` (and `VM.getStats`, which is a list of one)."""
    if not isinstance(answer, list):
        raise Undecodable("VM list", ["a list is needed"])
    for entry in answer:
        check_vm_stats(entry)
    return answer


def check_vm_created(answer: Any) -> Any:
    """`VM.create`: answered before QEMU runs."""
    return _check(
        "created VM", answer, {"vmId": uuid, "status": one_of("WaitForLaunch", "Restoring state")}, {"vmName": text}
    )


def check_vm_definition(answer: Any) -> Any:
    """`VM.changeCD`, `VM.updateDevice`: the VM's definition; only who it is matters."""
    return _check("VM definition", answer, {"vmId": uuid})


def check_vm_list(answer: Any) -> Any:
    """`Host.getVMList`: who is there, in what state."""
    wrong = list_of(record({"vmId": uuid, "status": one_of(*VM_STATUSES), "statusTime": text_integer}))(answer)
    return _check("VM list", {}, {}, {}, [wrong] if wrong else []) or answer


def check_vm_list_object(answer: Any) -> Any:
    """`VM.cont`, `VM.pause`: {"vmList": {}}."""
    return _check("answer", answer, {"vmList": obj})


_EVENT_MAY: Table = {k: v for k, v in VM_STATS_MAY.items() if k not in ("disks", "network")}


def check_vm_event(params: Any) -> Any:
    """`params` of a VM_status event: notify_time and VM ids, nothing else; another key loses the event."""
    extra = []
    for key, value in params.items() if isinstance(params, dict) else ():
        if key != "notify_time":
            wrong = uuid(key) or record({"status": one_of(*VM_STATUSES)}, _EVENT_MAY)(value)
            extra += [f"{key}: {wrong}"] if wrong else []
    return _check("VM_status event", params, {"notify_time": notify_time}, {}, extra)


def notify_time(value: Any) -> str | None:
    """A JSON integer, milliseconds of the monotonic clock + 2^31-1."""
    if not isinstance(value, int) or isinstance(value, bool):
        return "must be a JSON integer"
    return None if value >= 2**31 - 1 else f"{value} lacks the offset 2^31-1"


# --- storage ----------------------------------------------------------------------------------------------------


def check_connections(answer: Any) -> Any:
    """`StoragePool.connectStorageServer` and disconnect: an entry for every connection asked for."""
    wrong = list_of(record({"id": uuid, "status": bare_integer}))(answer)
    return _check("connection list", {}, {}, {}, [wrong] if wrong else []) or answer


def check_domain_info(answer: Any) -> Any:
    """`StorageDomain.getInfo`."""
    must: Table = {
        "uuid": uuid,
        "name": text,
        "type": text,
        "class": one_of("Data", "Iso", "Backup"),
        "role": one_of("Master", "Regular"),
        "version": text_integer,
        "pool": list_of(uuid),
    }
    may: Table = {"remotePath": text, "block_size": bare_integer, "alignment": bare_integer, "vguuid": text}
    return _check("domain info", answer, must, may)


def check_domain_stats(answer: Any) -> Any:
    """`StorageDomain.getStats`."""
    must: Table = {"disktotal": text_integer, "diskfree": text_integer}
    return _check("domain statistics", answer, must, {"alerts": list_of(record({"code": bare_integer}))})


def check_pool_info(answer: Any) -> Any:
    """`StoragePool.getInfo`. Whether every attached domain is listed, the caller must compare."""
    info = record(
        {"master_uuid": uuid, "master_ver": bare_integer, "name": text, "type": text, "version": integer,
         "lver": integer, "spm_id": bare_integer, "pool_status": text, "domains": text},
        {"isoprefix": text},
    )  # fmt: skip
    domain = record(
        {"status": one_of("Active", "Attached", "Unknown", "Locked")},
        {
            "diskfree": text_integer,
            "disktotal": text_integer,
            "alerts": list_of(obj),
            "version": bare_integer,
            "isoprefix": text,
        },
    )
    return _check("pool info", answer, {"info": info, "dominfo": map_of(domain, uuid)})


def check_spm_status(answer: Any) -> Any:
    """`StoragePool.getSpmStatus`: all three are required."""
    must: Table = {"spmStatus": one_of("SPM", "Contend", "Free"), "spmLver": integer, "spmId": bare_integer}
    return _check("SPM status", answer, must)


def check_volume_info(answer: Any) -> Any:
    """`Volume.getInfo`: one value that does not parse makes the volume not retrievable."""
    must: Table = {
        "uuid": uuid, "parent": uuid, "description": text, "status": one_of("OK", "ILLEGAL", "LOCKED", "INVALID"),
        "capacity": text_integer, "truesize": text_integer, "apparentsize": text_integer, "ctime": text_integer,
        "domain": uuid, "image": uuid, "type": one_of("SPARSE", "PREALLOCATED"), "format": one_of("COW", "RAW"),
        "voltype": one_of("LEAF", "INTERNAL", "SHARED"), "disktype": text,
        "legality": one_of("LEGAL", "ILLEGAL", "FAKE"),
        "children": list_of(uuid), "pool": text, "generation": bare_integer,
    }  # fmt: skip
    extra = []
    lease = answer.get("lease") if isinstance(answer, dict) else None
    if lease is not None:
        wrong = record({"owners": list_of(bare_integer)})(lease)
        extra = [f"lease: {wrong}"] if wrong else []
    return _check("volume info", answer, must, {"sequence": bare_integer, "mtime": text_integer}, extra)


_TASK_STATUS: Table = {
    "taskState": one_of("unknown", "init", "running", "finished", "aborting", "cleaning"),
    "taskResult": one_of("", "success", "cleanSuccess", "cleanFailure"),
    "code": bare_integer,
    "message": text,
}


def check_task_status(answer: Any) -> Any:
    """`Task.getStatus`; `code` as a string throws."""
    return _check("task status", answer, {**_TASK_STATUS, "taskID": uuid})


def check_all_task_statuses(answer: Any) -> Any:
    """`Host.getAllTasksStatuses`: all four members are mandatory in each."""
    wrong = map_of(record(_TASK_STATUS), uuid)(answer)
    return _check("task list", answer, {}, {}, [wrong] if wrong else [])


TASK_VERBS = (
    "createVolume", "deleteVolume", "deleteImage", "copyImage", "moveImage", "reduceImage", "mergeSnapshots",
    "cloneImageStructure", "syncImageData", "extendImageSize", "downloadImage", "uploadImageToStream",
    "downloadImageFromStream", "prepareMerge", "finalizeMerge", "addLease", "removeLease", "switchMaster",
)  # fmt: skip


def check_all_tasks_info(answer: Any) -> Any:
    """`Host.getAllTasksInfo`: other verbs are unknown to the engine."""
    wrong = map_of(record({"verb": one_of(*TASK_VERBS, "spmStart"), "id": uuid}), uuid)(answer)
    return _check("task list", answer, {}, {}, [wrong] if wrong else [])


# --- answers that an engine reads whole -------------------------------------------------------------------------
# It takes such an object for its own map of the answer, and a member `status` for what became of the call.


def _whole(what: str, answer: Any, must: Table, may: Table | None = None) -> Any:
    taken = ["status: an engine takes it for the outcome of the call"] if "status" in (answer or {}) else []
    return _check(what, answer, must, may or {}, taken)


def check_backup(answer: Any) -> Any:
    """`VM.start_backup`, `VM.backup_info`."""
    return _whole("backup", answer, {"disks": map_of(text, uuid)}, {"checkpoint": text})


def check_checkpoints(answer: Any) -> Any:
    """`VM.delete_checkpoints`, `VM.redefine_checkpoints`."""
    error = record({"code": bare_integer, "message": text})
    return _whole("checkpoint list", answer, {"checkpoint_ids": list_of(uuid)}, {"error": error})


def check_fence(answer: Any) -> Any:
    """`Host.fenceNode`."""
    power, operation = one_of("on", "off", "unknown"), one_of("initiated", "skipped")
    return _whole("fence result", answer, {"power": power}, {"operationStatus": operation})


# --- day 2 ------------------------------------------------------------------------------------------------------


def check_ids(answer: Any) -> Any:
    """A list of ids."""
    wrong = list_of(uuid)(answer)
    return _check("list of ids", {}, {}, {}, [wrong] if wrong else []) or answer


def check_text(answer: Any) -> Any:
    wrong = text(answer)
    return _check("text", {}, {}, {}, [wrong] if wrong else []) or answer


def check_measure(answer: Any) -> Any:
    """`Volume.measure`."""
    return _check("measure", answer, {"required": integer}, {"fully-allocated": integer, "bitmaps": integer})


def check_prepared(answer: Any) -> Any:
    """`Image.prepare`."""
    return _check("prepared image", answer, {"path": text})


def check_qemu_info(answer: Any) -> Any:
    """`Volume.getQemuImageInfo`."""
    may: Table = {"clustersize": integer, "compat": text, "backingfile": text, "bitmaps": list_of(obj)}
    return _check("QEMU's information", answer, {"format": text, "virtualsize": integer}, may)


def check_lease(answer: Any) -> Any:
    """`Lease.info`."""
    return _check("lease", answer, {"sd_id": uuid, "lease_id": uuid, "path": text, "offset": integer})


def check_lease_status(answer: Any) -> Any:
    """`Lease.status`."""
    return _check("lease status", answer, {"owners": list_of(bare_integer)}, {"metadata": obj})


def check_migration_status(answer: Any) -> Any:
    """`VM.getMigrationStatus`; `downtime` is cast to an integer."""
    return _check("migration status", answer, {}, {"progress": bare_integer, "downtime": bare_integer})


def check_repo_stats(answer: Any) -> Any:
    """`Host.getStorageRepoStats`."""
    wrong = map_of(_DOMAIN_REPORT, uuid)(answer)
    return _check("domain health", answer, {}, {}, [wrong] if wrong else [])


#: Verb name -> check of its result, for whoever drives the door by name.
CHECKS = {
    "Host.getCapabilities": check_caps,
    "Host.getHardwareInfo": check_hardware,
    "Host.getStats": check_host_stats,
    "Host.getAllVmStats": check_all_vm_stats,
    "Host.dumpxmls": check_dumpxmls,
    "Host.getJobs": check_jobs,
    "Host.getAllTasksInfo": check_all_tasks_info,
    "Host.getAllTasksStatuses": check_all_task_statuses,
    "Host.hostdevListByCaps": check_hostdevs,
    "Host.setMOMPolicyParameters": check_true,
    "Host.setSafeNetworkConfig": check_true,
    "Host.setupNetworks": check_status,
    "Host.ping2": check_true,
    "StoragePool.connectStorageServer": check_connections,
    "StoragePool.disconnectStorageServer": check_connections,
    "StoragePool.create": check_true,
    "StoragePool.destroy": check_true,
    "StoragePool.connect": check_true,
    "StoragePool.disconnect": check_true,
    "StoragePool.getInfo": check_pool_info,
    "StoragePool.getSpmStatus": check_spm_status,
    "StoragePool.spmStart": check_task_id,
    "StoragePool.spmStop": check_true,
    "StorageDomain.create": check_true,
    "StorageDomain.format": check_true,
    "StorageDomain.attach": check_true,
    "StorageDomain.detach": check_true,
    "StorageDomain.activate": check_true,
    "StorageDomain.deactivate": check_true,
    "StorageDomain.getInfo": check_domain_info,
    "StorageDomain.getStats": check_domain_stats,
    "Volume.create": check_task_id,
    "Volume.getInfo": check_volume_info,
    "Image.delete": check_task_id,
    "Task.getStatus": check_task_status,
    "Task.clear": check_true,
    "VM.create": check_vm_created,
    "VM.destroy": check_true,
    "VM.shutdown": check_true,
    "VM.getStats": check_all_vm_stats,
    "VM.cont": check_vm_list_object,
    "VM.pause": check_vm_list_object,
    "VM.changeCD": check_vm_definition,
    "VM.updateDevice": check_vm_definition,
    "Host.confirmConnectivity": check_true,
    "Host.ping": check_true,
    "Host.getVMList": check_vm_list,
    "Image.teardown": check_true,
    "VM.start_backup": check_backup,
    "VM.backup_info": check_backup,
    "VM.delete_checkpoints": check_checkpoints,
    "VM.redefine_checkpoints": check_checkpoints,
    "VM.list_checkpoints": check_ids,
    "VM.stop_backup": check_status,
    "VM.getMigrationStatus": check_migration_status,
    "VM.diskSizeExtend": check_text,
    "Host.fenceNode": check_fence,
    "Host.getConnectedStoragePools": check_ids,
    "Host.getStorageDomains": check_ids,
    "Host.getStorageRepoStats": check_repo_stats,
    "StorageDomain.getImages": check_ids,
    "StorageDomain.getVolumes": check_ids,
    "Image.getVolumes": check_ids,
    "Image.reconcileVolumeChain": check_ids,
    "Image.prepare": check_prepared,
    "Volume.measure": check_measure,
    "Volume.getQemuImageInfo": check_qemu_info,
    "Lease.info": check_lease,
    "Lease.status": check_lease_status,
    "NBD.start_server": check_text,
}
