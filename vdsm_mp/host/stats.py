# SPDX-License-Identifier: Apache-2.0
"""Host.getStats from the last two samples, typed as engines read it.

Owns the two samples and the last answers of storage and virt. Domains and VM counts are asked at each call, because
an engine decides by them at once: a domain must vanish when its monitor stops, and a VM count of 0 lets a host go to
maintenance. When an owner is away its last answer stands in; a count that was never known is an error, never 0.
"""

import os
import time
from typing import Any

from vdsm_mp.api.internal import GetDomainVitals, GetNetworkCounters, GetVmCounts, VmCounts
from vdsm_mp.api.ports import Caller
from vdsm_mp.common import log
from vdsm_mp.common.clock import mono_s
from vdsm_mp.common.errors import Error
from vdsm_mp.host import ksm, memory, samples
from vdsm_mp.host.freespace import FreeSpace
from vdsm_mp.host.machine import Machine
from vdsm_mp.host.samples import CpuTimes, Sample

logger = log.named(__name__)

_OWNER_S = 1.0
#: A dead storage worker is back within seconds; after that its silence is the truth.
_STAND_IN_S = 60.0


class HostStats:
    """`first_sample` is called by the start, `sample` by the beat; `now` answers from memory and from the owners."""

    def __init__(self, call: Caller, machine: Machine, paths: tuple[str, ...]) -> None:
        self._call = call
        self._machine = machine
        self._free = FreeSpace(paths)
        self._ksmd = samples.process_named(machine, "ksmd")
        self._two: tuple[Sample, ...] = ()
        self._network: dict[str, Any] = {}
        self._domains: tuple[float, dict[str, dict[str, Any]]] | None = None
        self._counts: VmCounts | None = None

    def first_sample(self) -> None:
        """The start's: of this machine alone, the other workers may not be there yet."""
        agent = samples.pids_of_agent(self._machine)
        fresh = samples.take(self._machine, agent_pids=agent, ksmd_pid=self._ksmd, free_mib=self._free.mib())
        self._two = (*self._two, fresh)[-2:]

    def sample(self) -> None:
        """Take one sample and drop the oldest of three."""
        try:
            self._network = self._call.ask(GetNetworkCounters(), deadline_s=_OWNER_S)
        except Error as error:
            # Old counters keep their sampleTime: the engine sees that nothing is new.
            logger.warning("the network worker does not answer, its last counters are told: %s", error)
        self.first_sample()

    def free_mib(self) -> dict[str, int]:
        """{folder: MiB} of the last sample; {} before the first."""
        return dict(self._two[-1].free_mib) if self._two else {}

    def now(self) -> dict[str, Any]:
        """Raises: what virt's call raises, when virt has never answered."""
        began = mono_s()
        two = self._two
        answer = {**self._memory(), **self._counted(), "storageDomains": self._of_storage(), **_fixed()}
        if len(two) == 2:
            answer |= _rates(*two) | _levels(two[1]) | {"network": self._network}
        else:
            answer |= {"cpuUser": "0.00", "cpuSys": "0.00", "cpuIdle": "100.00"}
        answer["elapsedTime"] = f"{mono_s() - began:.3f}"
        return answer

    def _memory(self) -> dict[str, Any]:
        info, merging = memory.meminfo(self._machine), ksm.read(self._machine)
        total, available = info.get("MemTotal", 0), info.get("MemAvailable", 0)
        return {
            "memFree": available // 1024,
            "memAvailable": available // 1024,
            "memUsed": str(round(100 * (1 - available / total))) if total else "0",
            "swapTotal": info.get("SwapTotal", 0) // 1024,
            "swapFree": info.get("SwapFree", 0) // 1024,
            "memShared": merging.sharing_mib,
            "ksmState": merging.running,
            "ksmPages": merging.pages_to_scan,
            "ksmMergeAcrossNodes": merging.merge_across_nodes,
            "cpuLoad": next(iter(self._machine.text("/proc/loadavg").split()), "0.00"),
            "dateTime": time.strftime("%Y-%m-%dT%H:%M:%S GMT", time.gmtime()),
        }

    def _counted(self) -> dict[str, Any]:
        try:
            self._counts = self._call.ask(GetVmCounts(), deadline_s=_OWNER_S)
        except Error as error:
            if self._counts is None:
                raise
            logger.warning("virt does not answer, what it said last is told: %s", error)
        counts = self._counts
        assert counts is not None
        return {
            "vmCount": counts.count,
            "vmActive": counts.active,
            "vmMigrating": counts.migrating,
            "incomingVmMigrations": counts.incoming,
            "outgoingVmMigrations": counts.outgoing,
            # One that is not told counts as lost: those of before stand in while virt is away.
            "v2vJobs": counts.conversions,
        }

    def _of_storage(self) -> dict[str, dict[str, Any]]:
        try:
            domains: dict[str, dict[str, Any]] = self._call.ask(GetDomainVitals(), deadline_s=_OWNER_S)
        except Error as error:
            if self._domains is None or mono_s() - self._domains[0] > _STAND_IN_S:
                return {}
            logger.warning("storage does not answer, its last words are told: %s", error)
            return _aged(*self._domains)
        self._domains = mono_s(), domains
        return domains


def _aged(at_mono: float, domains: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The domains as they were, but honest about how long ago they were checked."""
    older = mono_s() - at_mono
    return {
        sd_id: {**vitals, "lastCheck": f"{float(vitals['lastCheck']) + older:.1f}"} for sd_id, vitals in domains.items()
    }


def _rates(old: Sample, new: Sample) -> dict[str, Any]:
    ticks_s = os.sysconf("SC_CLK_TCK") * max(new.at_mono - old.at_mono, 0.001)

    def share(before: int, after: int) -> float:
        return 100 * max(after - before, 0) / ticks_s

    nodes = {cpu: node.number for node in new.nodes for cpu in node.cpus}
    return {
        **_percentages(old.all_cpus, new.all_cpus),
        "cpuUserVdsmd": f"{share(old.agent_user, new.agent_user):.2f}",
        "cpuSysVdsmd": f"{share(old.agent_system, new.agent_system):.2f}",
        "ksmCpu": round(share(old.ksmd, new.ksmd)),
        "cpuStatistics": {
            str(cpu): {**_percentages(old.cpus[cpu], times), "nodeIndex": nodes.get(cpu, 0)}
            for cpu, times in new.cpus.items()
            if cpu in old.cpus
        },
    }


def _percentages(old: CpuTimes, new: CpuTimes) -> dict[str, str]:
    """Strings with a fraction: absent, null or a JSON integer loses the whole answer."""
    # Each for itself: the kernel's counts of waiting and idling go back at times, and the sum with them.
    spent = [max(after - before, 0) for before, after in zip(_parts(old), _parts(new), strict=True)]
    user, system = (100 * part / max(sum(spent), 1) for part in spent[:2])
    return {"cpuUser": f"{user:.2f}", "cpuSys": f"{system:.2f}", "cpuIdle": f"{max(0.0, 100 - user - system):.2f}"}


def _parts(times: CpuTimes) -> tuple[int, int, int, int]:
    return times.user, times.system, times.idle, times.total - times.user - times.system - times.idle


def _levels(new: Sample) -> dict[str, Any]:
    return {
        "thpState": new.thp,
        "anonHugePages": str(new.anon_huge_kib // 1024),
        "bootTime": str(new.boot_time_s),
        "hugepages": new.huge_pages,
        "diskStats": {path: {"free": str(free)} for path, free in new.free_mib.items()},
        "numaNodeMemFree": {
            str(node.number): {
                "memFree": str(node.free_kib // 1024),
                "memPercent": 100 - round(100 * node.free_kib / node.total_kib) if node.total_kib else 0,
                "hugepages": {size: {"freePages": free} for size, (_, free) in node.huge_pages.items()},
            }
            for node in new.nodes
        },
    }


def _fixed() -> dict[str, Any]:
    """What this host does not have, said in the form that engines expect."""
    return {
        "momStatus": "active",
        "netConfigDirty": "False",
        "multipathHealth": {},
        "haScore": 0,
        "haStats": {
            "configured": False,
            "active": False,
            "globalMaintenance": False,
            "localMaintenance": False,
            "score": 0,
        },
    }
