# SPDX-License-Identifier: Apache-2.0
"""Every field of Host.getCapabilities and Host.getStats has the JSON type that engines cast it to.

The tables repeat the casts of an engine: a string that must parse as a number, an integer that must not be a string,
a fraction that must be there. A field that is not in a table fails the test: somebody has to look up how it is read.
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from vdsm_mp.api.errors import PeerRestarted, StillStarting
from vdsm_mp.api.internal import (
    GetDomainVitals,
    GetHypervisorFacts,
    GetNetworkCounters,
    GetNetworkFacts,
    GetVmCounts,
    HypervisorFacts,
    VmCounts,
)
from vdsm_mp.api.managed_volume import GetConnectorInfo
from vdsm_mp.api.verb import Message
from vdsm_mp.common.errors import Error
from vdsm_mp.common.hooks import Hooks
from vdsm_mp.common.options import Config, House, Vars
from vdsm_mp.host.caps import Capabilities
from vdsm_mp.host.hardware import Hardware
from vdsm_mp.host.machine import Machine
from vdsm_mp.host.stats import HostStats

MACHINES = Path(__file__).resolve().parents[2] / "data/machines"
Check = Callable[[Any], bool]


def text(value: Any) -> bool:
    return isinstance(value, str)


def whole(value: Any) -> bool:
    return type(value) is int and -(2**31) <= value < 2**31


def flag(value: Any) -> bool:
    return isinstance(value, bool)


def fraction(value: Any) -> bool:
    return type(value) is float


def text_of_whole(value: Any) -> bool:
    return isinstance(value, str) and value.lstrip("-").isdigit()


def text_of_fraction(value: Any) -> bool:
    return isinstance(value, str) and "." in value and float(value) >= 0


def words(*allowed: str) -> Check:
    return lambda value: value in allowed


def many(check: Check) -> Check:
    return lambda value: isinstance(value, list) and all(check(item) for item in value)


def each(check: Check) -> Check:
    return lambda value: isinstance(value, dict) and all(text(k) and check(v) for k, v in value.items())


def record(**fields: Check) -> Check:
    return lambda value: (
        isinstance(value, dict) and set(value) == set(fields) and all(fields[k](value[k]) for k in value)
    )


def maybe(**fields: Check) -> Check:
    return lambda value: isinstance(value, dict) and all(fields[k](value[k]) for k in value)


CAPABILITIES: Mapping[str, Check] = {
    "HBAInventory": record(iSCSI=many(record(InitiatorName=text)), FC=many(record(wwpn=text, wwnn=text, model=text))),
    "clusterLevels": many(text),
    "packages2": each(record(version=text, release=text)),
    "supportedENGINEs": many(text),
    "kvmEnabled": words("true", "false"),
    "cpuFlags": text,
    "emulatedMachines": many(text),
    "rngSources": many(text),
    "networks": each(lambda v: True),
    "nics": each(lambda v: True),
    "bridges": each(lambda v: True),
    "vlans": each(lambda v: True),
    "bondings": each(lambda v: True),
    "cpuCores": text_of_whole,
    "cpuThreads": text_of_whole,
    "cpuSockets": text_of_whole,
    "cpuModel": text,
    "onlineCpus": text,
    "cpuSpeed": text_of_fraction,
    "cpuTopology": many(record(cpu_id=whole, core_id=whole, die_id=whole, socket_id=whole, numa_cell_id=whole)),
    "memSize": text_of_whole,
    "reservedMem": text_of_whole,
    "guestOverhead": text_of_whole,
    "numaNodes": each(
        record(cpus=many(whole), totalMemory=text_of_whole, hugepages=each(record(totalPages=text_of_whole)))
    ),
    "numaNodeDistance": each(many(whole)),
    "autoNumaBalancing": whole,
    "domain_versions": many(whole),
    "supported_block_size": each(many(whole)),
    "fipsEnabled": flag,
    "hostedEngineDeployed": flag,
    "additionalFeatures": many(text),
    "selinux": record(mode=text_of_whole),
    "ISCSIInitiatorName": text,
    "kdumpStatus": whole,
    "hostdevPassthrough": words("true", "false"),
    "kernelArgs": text,
    "kernelFeatures": each(whole),
    "hooks": each(lambda v: isinstance(v, dict)),
    "operatingSystem": record(name=text, version=text, release=text, pretty_name=text),
    "version_name": text,
    "software_version": text,
    "software_revision": text,
    "uuid": lambda value: value is None or text(value),
    "vncEncrypted": flag,
    "backupEnabled": flag,
    "coldBackupEnabled": flag,
    "clearBitmapsEnabled": flag,
    "tscFrequency": text_of_whole,
    "tscScaling": flag,
    "boot_uuid": text,
    "cd_change_pdiv": flag,
    "ovnConfigured": flag,
    "vdsmToCpusAffinity": many(whole),
    "connector_info": lambda value: isinstance(value, dict),
    "openstack_binding_host_ids": each(text),
    "nameservers": many(text),
    "netConfigDirty": words("True", "False"),
    "supportsIPv6": flag,
    "vmTypes": many(text),
    "liveSnapshot": words("true", "false"),
    "liveMerge": words("true", "false"),
    "realtimeKernel": flag,
    "nestedVirtualization": flag,
    "hugepages": many(whole),
    "deferred_preallocation": flag,
    "refresh_disk_supported": flag,
    "replicate_extend": flag,
    "measure_subchain": flag,
    "measure_active": flag,
    "mailbox_events": flag,
    "zerocopy_migrations": flag,
    "qemu_image_info_bitmaps": flag,
}
#: Without these an engine does not take the host.
VITAL = (
    *("HBAInventory", "clusterLevels", "packages2", "kvmEnabled", "cpuFlags", "emulatedMachines", "rngSources"),
    *("networks", "nics", "bridges", "vlans", "bondings", "cpuSpeed"),
)

_CPU = record(cpuUser=text_of_fraction, cpuSys=text_of_fraction, cpuIdle=text_of_fraction, nodeIndex=whole)
FROM_THE_START: Mapping[str, Check] = {
    "cpuUser": text_of_fraction,
    "cpuSys": text_of_fraction,
    "cpuIdle": text_of_fraction,
    "cpuLoad": text_of_fraction,
    "memFree": whole,
    "memAvailable": whole,
    "memUsed": text_of_whole,
    "swapTotal": whole,
    "swapFree": whole,
    "memShared": whole,
    "ksmPages": whole,
    "ksmState": flag,
    "ksmMergeAcrossNodes": flag,
    "vmCount": whole,
    "vmActive": whole,
    "vmMigrating": whole,
    "incomingVmMigrations": whole,
    "outgoingVmMigrations": whole,
    "storageDomains": each(
        record(code=whole, lastCheck=text, delay=text, valid=flag, version=whole, acquired=flag, actual=flag)
    ),
    "dateTime": text,
    "haStats": record(configured=flag, active=flag, globalMaintenance=flag, localMaintenance=flag, score=whole),
    "haScore": whole,
    "netConfigDirty": words("True", "False"),
    "momStatus": text,
    "elapsedTime": text_of_fraction,
    "v2vJobs": each(record(status=text, description=text, progress=whole)),
    "multipathHealth": each(record(valid_paths=whole)),
}
FROM_TWO_SAMPLES: Mapping[str, Check] = {
    "cpuUserVdsmd": text_of_fraction,
    "cpuSysVdsmd": text_of_fraction,
    "ksmCpu": whole,
    "thpState": words("always", "madvise", "never"),
    "anonHugePages": text_of_whole,
    "network": each(
        record(
            name=text,
            state=words("up", "down"),
            speed=text_of_whole,
            rx=text_of_whole,
            tx=text_of_whole,
            rxDropped=text_of_whole,
            txDropped=text_of_whole,
            rxErrors=text_of_whole,
            txErrors=text_of_whole,
            sampleTime=fraction,
        )
    ),
    "cpuStatistics": each(_CPU),
    "numaNodeMemFree": each(record(memFree=text_of_whole, memPercent=whole, hugepages=each(record(freePages=whole)))),
    "hugepages": each(each(whole)),
    "diskStats": each(record(free=text_of_whole)),
    "bootTime": text_of_whole,
}

_COUNTER = {
    **dict.fromkeys(("rx", "tx", "rxDropped", "txDropped", "rxErrors", "txErrors"), "0"),
    "name": "eth0",
    "state": "up",
    "speed": "1000",
    "sampleTime": 1.5,
}
_DOMAIN = {
    "code": 0,
    "lastCheck": "3.5",
    "delay": "0.000423",
    "valid": True,
    "version": 5,
    "acquired": True,
    "actual": True,
}
_NETWORK = {"networks": {}, "nics": {}, "bridges": {}, "vlans": {}, "bondings": {}, "nameservers": ["192.0.2.53"]}


class Others:
    """The other workers, as far as the host room asks them. away: owners that do not answer."""

    def __init__(self) -> None:
        self.away: set[str] = set()
        self.domains: dict[str, Any] = {"sd": dict(_DOMAIN)}
        self.connector: dict[str, Any] = {}
        self.conversion = {"status": "starting", "description": "", "progress": 0}

    def ask(self, message: Message, *, deadline_s: float | None = None) -> Any:
        owner, answer = {
            GetHypervisorFacts: (
                "virt",
                HypervisorFacts(machines=["pc-q35-7.2"], models=["Nehalem"], tsc_hz=2_000_000),
            ),
            GetVmCounts: (
                "virt",
                VmCounts(
                    count=2, active=1, migrating=0, incoming=0, outgoing=0, vms={}, conversions={"j": self.conversion}
                ),
            ),
            GetNetworkFacts: ("network", dict(_NETWORK)),
            GetNetworkCounters: ("network", {"eth0": _COUNTER}),
            GetDomainVitals: ("storage", self.domains),
            GetConnectorInfo: ("storage", dict(self.connector)),
        }[type(message)]
        if owner in self.away:
            raise PeerRestarted(owner, type(message).__name__)
        return answer


class Root:
    def do(self, operation: str, /, *, deadline_s: float = 30.0, **params: Any) -> Any:
        return {"systemUUID": "4c4c4544-0000-1111-2222-333333333333", "systemProductName": "R720"}


@pytest.fixture(params=["two-cpu-guest", "two-sockets"])
def machine(request: pytest.FixtureRequest) -> Machine:
    return Machine(MACHINES / request.param)


@pytest.fixture
def others() -> Others:
    return Others()


def capabilities(machine: Machine, others: Others, config: Config | None = None) -> Capabilities:
    hooks = Hooks("/nowhere", "/nowhere")
    return Capabilities(config or Config(), others, Hardware(Root(), machine), machine, hooks)


def stats(machine: Machine, others: Others, tmp_path: Path) -> HostStats:
    return HostStats(others, machine, (str(tmp_path),))


def check(answer: Mapping[str, Any], table: Mapping[str, Check]) -> None:
    wrong = {name: value for name, value in answer.items() if name not in table or not table[name](value)}
    assert not wrong
    json.dumps(answer, allow_nan=False)


def test_every_capability_has_its_type(machine: Machine, others: Others) -> None:
    caps = capabilities(machine, others)
    caps.learn()
    answer = caps.now()
    check(answer, CAPABILITIES)
    assert set(VITAL) <= set(answer)
    assert answer["packages2"]["vdsm"]["version"].startswith("4.50.")
    assert "packages" not in answer


@pytest.mark.parametrize("late", ["virt", "network"])
def test_a_host_is_never_told_to_have_nothing_because_nobody_was_asked_yet(
    machine: Machine, others: Others, late: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vdsm_mp.host.caps._NETWORK_BACK_S", 0.0)
    caps = capabilities(machine, others)
    others.away = {late}
    with pytest.raises(StillStarting):
        caps.now()
    others.away = set()
    answer = caps.now()
    check(answer, CAPABILITIES)
    assert set(VITAL) <= set(answer)
    assert answer["emulatedMachines"] and answer["nameservers"] and "model_" in answer["cpuFlags"]
    others.away = {late}
    assert caps.now() == answer


def test_what_os_brick_tells_is_there_when_os_brick_is(machine: Machine, others: Others) -> None:
    caps = capabilities(machine, others)
    others.away = {"storage"}
    caps.gather()
    assert "connector_info" not in caps.now()
    others.away = set()
    assert "connector_info" not in caps.now()
    others.connector = {"initiator": "iqn.test", "multipath": True}
    caps.learn()
    answer = caps.now()
    assert answer["connector_info"] == others.connector
    check(answer, CAPABILITIES)


def test_the_last_network_stands_in_for_a_worker_that_stays_away(
    machine: Machine, others: Others, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vdsm_mp.host.caps._NETWORK_BACK_S", 0.0)
    caps = capabilities(machine, others)
    assert caps.now()["nameservers"] == ["192.0.2.53"]
    others.away = {"network"}
    assert caps.now()["nameservers"] == ["192.0.2.53"]


def test_a_network_worker_that_died_is_waited_for(machine: Machine) -> None:
    """Before it died it had set networks up, and the engine that had them set up looks for them now."""
    answers: list[Any] = [dict(_NETWORK)]

    class Dying(Others):
        def ask(self, message: Message, *, deadline_s: float | None = None) -> Any:
            if not isinstance(message, GetNetworkFacts):
                return super().ask(message, deadline_s=deadline_s)
            answer = answers.pop(0)
            if isinstance(answer, Error):
                raise answer
            return answer

    caps = capabilities(machine, Dying())
    assert caps.now()["networks"] == {}
    changed = _NETWORK | {"networks": {"red": {}}}
    answers += [PeerRestarted("network", "internal.network_facts"), StillStarting(), StillStarting(), changed]
    assert caps.now()["networks"] == {"red": {}}


def test_a_server_with_two_sockets_is_told_as_it_is(others: Others) -> None:
    machine = Machine(MACHINES / "two-sockets")
    caps = capabilities(machine, others)
    caps.learn()
    answer = caps.now()
    counted = [answer[name] for name in ("cpuSockets", "cpuCores", "cpuThreads", "memSize")]
    assert counted == ["2", "4", "8", "65536"]
    assert answer["cpuSpeed"] == "1999.963"
    assert answer["numaNodes"]["1"]["cpus"] == [2, 3, 6, 7]
    assert answer["numaNodeDistance"] == {"0": [10, 21], "1": [21, 10]}
    assert answer["autoNumaBalancing"] == 1
    assert answer["kvmEnabled"] == "true"
    assert answer["rngSources"] == ["random", "urandom", "hwrng"]
    assert answer["cpuFlags"].split(",")[-1] == "model_Nehalem"
    assert answer["HBAInventory"]["FC"][0]["wwpn"] == "10000090fa123456"
    assert answer["ISCSIInitiatorName"] == "iqn.1994-05.com.redhat:abcdef"
    assert answer["uuid"] == "4c4c4544-0000-1111-2222-333333333333"
    assert answer["operatingSystem"]["pretty_name"] == "CentOS Stream 9"
    assert answer["selinux"] == {"mode": "1"}


def test_pretended_kvm_is_told_as_kvm(others: Others) -> None:
    machine = Machine(MACHINES / "two-cpu-guest")
    config = Config(vars=Vars(fake_kvm_support=True, fake_kvm_memory=4096))
    answer = capabilities(machine, others, config).now()
    assert answer["kvmEnabled"] == "true"
    assert answer["memSize"] == "4096"
    assert "vmx" in answer["cpuFlags"].split(",")
    assert capabilities(machine, others).now()["kvmEnabled"] == "false"


def test_the_administrators_id_goes_before_the_firmwares(others: Others, tmp_path: Path) -> None:
    machine = Machine(MACHINES / "two-cpu-guest")
    answer = capabilities(machine, others, Config(vdsm_mp=House(vdsm_id_file="/nowhere"))).now()
    assert answer["uuid"] == "4c4c4544-0000-1111-2222-333333333333"


def test_every_statistic_has_its_type(machine: Machine, others: Others, tmp_path: Path) -> None:
    host = stats(machine, others, tmp_path)
    host.first_sample()
    host.sample()
    answer = host.now()
    check(answer, {**FROM_THE_START, **FROM_TWO_SAMPLES})
    assert set(answer) == {*FROM_THE_START, *FROM_TWO_SAMPLES}


def test_before_two_samples_the_rest_is_absent_and_not_zero(machine: Machine, others: Others, tmp_path: Path) -> None:
    host = stats(machine, others, tmp_path)
    for _ in range(2):
        answer = host.now()
        check(answer, FROM_THE_START)
        assert set(answer) == set(FROM_THE_START)
        host.first_sample()


def test_a_host_whose_vms_are_not_known_does_not_say_that_it_has_none(
    machine: Machine, others: Others, tmp_path: Path
) -> None:
    host = stats(machine, others, tmp_path)
    others.away = {"virt"}
    with pytest.raises(PeerRestarted):
        host.now()
    others.away = set()
    host.now()
    others.away = {"virt"}
    assert host.now()["vmCount"] == 2
    assert host.now()["v2vJobs"] == {"j": others.conversion}


def test_a_domain_vanishes_with_its_monitor_and_stays_while_its_worker_is_away(
    machine: Machine, others: Others, tmp_path: Path
) -> None:
    host = stats(machine, others, tmp_path)
    assert set(host.now()["storageDomains"]) == {"sd"}
    others.away = {"storage"}
    stand_in = host.now()["storageDomains"]["sd"]
    assert float(stand_in["lastCheck"]) >= 3.5
    check({"storageDomains": {"sd": stand_in}}, FROM_THE_START)
    others.away, others.domains = set(), {}
    assert host.now()["storageDomains"] == {}
