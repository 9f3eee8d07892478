# SPDX-License-Identifier: Apache-2.0
"""When libvirt is asked for statistics, and how one stuck guest is kept from delaying the others.

A beat never waits for libvirt: it starts a job and returns. While a bulk call hangs in a stuck QEMU, the next beats
ask only for the VMs whose control interface is free, and leave those that were not alone for a while.
"""

import threading
from collections.abc import Callable
from functools import partial
from typing import Any

import libvirt

from vdsm_mp.api.errors import Busy
from vdsm_mp.api.internal import SampleVms
from vdsm_mp.api.ports import Background
from vdsm_mp.api.verb import handles
from vdsm_mp.common import clock, log
from vdsm_mp.common.errors import Error
from vdsm_mp.virt.agent import Agents
from vdsm_mp.virt.connection import Connection, translated
from vdsm_mp.virt.externaldata import ExternalData
from vdsm_mp.virt.livemerge import Merges
from vdsm_mp.virt.machine import VmStatus
from vdsm_mp.virt.registry import Vms
from vdsm_mp.virt.stats import Sample, Stats

logger = log.named(__name__)

_WHAT = (
    libvirt.VIR_DOMAIN_STATS_STATE
    | libvirt.VIR_DOMAIN_STATS_CPU_TOTAL
    | libvirt.VIR_DOMAIN_STATS_BALLOON
    | libvirt.VIR_DOMAIN_STATS_VCPU
    | libvirt.VIR_DOMAIN_STATS_INTERFACE
    | libvirt.VIR_DOMAIN_STATS_BLOCK
)
_FLAGS = libvirt.VIR_CONNECT_GET_ALL_DOMAINS_STATS_ACTIVE | libvirt.VIR_CONNECT_GET_ALL_DOMAINS_STATS_NOWAIT
#: A VM whose control interface was busy is not asked again for so long.
_AVOID_S = 40.0
#: Its control interface counts as busy when it has been so for this long; every call makes it so for a moment.
_BUSY_MS = 1000
#: So many calls may hang at once; each holds a thread of its own. A stuck VM holds one, seldom two.
_MAX_HANGING = 16
#: A VM that has just started is sampled this often and this soon, so that it is not shown empty until the next beat.
_FIRST_SAMPLES_S = (0.2, 1.2)


class Sampler:
    """Asks libvirt, fills `Stats`."""

    def __init__(self, connection: Connection, vms: Vms, stats: Stats, background: Background) -> None:
        self._connection = connection
        self._vms = vms
        self._stats = stats
        self._background = background
        self._lock = threading.Lock()
        self._hanging = 0
        self._avoid_until: dict[str, float] = {}
        self.skipped = 0

    @property
    def hanging(self) -> int:
        """Calls that have not come back."""
        return self._hanging

    def beat(self) -> None:
        """Start one round; skipped when too many earlier ones still hang."""
        with self._lock:
            if self._hanging >= _MAX_HANGING:
                self.skipped += 1
                return
            careful = self._hanging > 0
        # Not in the shared pool: what hangs here must not take its threads from others.
        job = partial(self._counted, partial(self._round, careful))
        threading.Thread(target=job, name="sample", daemon=True).start()

    def soon(self, vm_id: str) -> None:
        """Sample one VM by itself, a few times after its start. Best effort: the next beat comes anyway."""
        for delay_s in _FIRST_SAMPLES_S:
            try:
                self._background.later(delay_s, f"sample {vm_id}", partial(self._counted, partial(self._one, vm_id)))
            except Busy:
                self.skipped += 1

    def _counted(self, job: Callable[[], None]) -> None:
        with self._lock:
            self._hanging += 1
        try:
            job()
        except (Error, libvirt.libvirtError) as error:
            logger.warning("sampling failed: %s", error)
        finally:
            with self._lock:
                self._hanging -= 1

    def _round(self, careful: bool) -> None:
        conn = self._connection.get()
        taken = clock.mono_s()
        if careful or self._avoided(taken):
            free = [dom for dom in conn.listAllDomains(libvirt.VIR_CONNECT_LIST_DOMAINS_ACTIVE) if self._free(dom)]
            if not free:
                return
            answer = conn.domainListGetStats(free, _WHAT, libvirt.VIR_CONNECT_GET_ALL_DOMAINS_STATS_NOWAIT)
        else:
            answer = conn.getAllDomainStats(_WHAT, _FLAGS)
        self._take(taken, answer)

    def _one(self, vm_id: str) -> None:
        record = self._vms.get(vm_id)
        if record is None or record.life.status is VmStatus.DOWN:
            return
        dom = self._connection.domain(vm_id)
        taken = clock.mono_s()
        with translated(vm_id):
            if self._free(dom):
                answer = self._connection.get().domainListGetStats(
                    [dom], _WHAT, libvirt.VIR_CONNECT_GET_ALL_DOMAINS_STATS_NOWAIT
                )
                self._take(taken, answer)

    def _take(self, taken: float, answer: list[tuple[Any, dict[str, Any]]]) -> None:
        for dom, raw in answer:
            record = self._vms.get(dom.UUIDString())
            if record is not None:
                # QEMU itself tells its disks' counters; libvirt leaves them out when it is busy.
                spoke = "block.0.rd.reqs" in raw or self._free(dom)
                self._stats.put(record, Sample(taken, raw), answered=spoke)

    def _avoided(self, now: float) -> bool:
        self._avoid_until = {vm_id: until for vm_id, until in self._avoid_until.items() if until > now}
        return bool(self._avoid_until)

    def _free(self, dom: Any) -> bool:
        """Is its control interface free? Asking that never blocks, libvirt answers it from memory."""
        vm_id = dom.UUIDString()
        if vm_id in self._avoid_until:
            return False
        try:
            state, _, since_ms = dom.controlInfo()
        except libvirt.libvirtError:
            return False  # it ended meanwhile
        if state != libvirt.VIR_DOMAIN_CONTROL_OK and since_ms >= _BUSY_MS:
            self._avoid_until[vm_id] = clock.mono_s() + _AVOID_S
            return False
        return True


@handles(SampleVms)
def sample_vms(sampler: Sampler, external: ExternalData, merges: Merges, agents: Agents, ask: SampleVms) -> None:
    """One beat of a kind; kinds that need no beat, because events tell all, are accepted."""
    if ask.kind == "bulk":
        sampler.beat()
    elif ask.kind == "jobs":
        merges.beat()
    elif ask.kind == "agent":
        agents.beat()
    elif ask.kind == "external_data":
        external.beat()
