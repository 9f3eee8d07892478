# SPDX-License-Identifier: Apache-2.0
"""When libvirt is asked for statistics, and how one stuck guest is kept from delaying the others.

A beat never waits for libvirt: it starts a round and returns. When a round's bulk call does not come back, it is left
behind with the connection it hangs on, the VM it hangs in shows by its busy control interface, and the rest are asked
again at once; so each VM that hangs costs one call and the others a second, in the first round only.
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
from vdsm_mp.virt.spare import Spare
from vdsm_mp.virt.stats import Sample, Stats

logger = log.named(__name__)

WHAT = (
    libvirt.VIR_DOMAIN_STATS_STATE
    | libvirt.VIR_DOMAIN_STATS_CPU_TOTAL
    | libvirt.VIR_DOMAIN_STATS_BALLOON
    | libvirt.VIR_DOMAIN_STATS_VCPU
    | libvirt.VIR_DOMAIN_STATS_INTERFACE
    | libvirt.VIR_DOMAIN_STATS_BLOCK
)
_NOWAIT = libvirt.VIR_CONNECT_GET_ALL_DOMAINS_STATS_NOWAIT
FLAGS = libvirt.VIR_CONNECT_GET_ALL_DOMAINS_STATS_ACTIVE | _NOWAIT
#: A command is under way, or none can be any more. A job alone (`CONTROL_JOB`) does not keep NOWAIT from answering.
_SPEECHLESS = (libvirt.VIR_DOMAIN_CONTROL_OCCUPIED, libvirt.VIR_DOMAIN_CONTROL_ERROR)
#: A VM's control interface counts as busy when it has been so for this long; every call makes it so for a moment.
_BUSY_MS = 1000
#: So often it is looked whether a call that has not come back hangs in a VM or is only slow.
_PATIENCE_S = 1.2
#: So many calls may hang at once. Each holds one of the workers of libvirtd, which has twenty.
_MAX_HANGING = 12
#: A VM that has just started is sampled this often and this soon, so that it is not shown empty until the next beat.
_FIRST_SAMPLES_S = (0.2, 1.2)


class Sampler:
    """Asks libvirt, fills `Stats`."""

    def __init__(self, connection: Connection, vms: Vms, stats: Stats, background: Background) -> None:
        self._connection = connection
        self._spare = Spare(connection)
        self._vms = vms
        self._stats = stats
        self._background = background
        self._lock = threading.Lock()
        self._in_round = False
        #: Seen hanging in the last round.
        self._busy: frozenset[str] = frozenset()
        self.skipped = 0

    @property
    def hanging(self) -> int:
        """Calls that have not come back."""
        return self._spare.hanging

    def hangs(self, vm_id: str) -> bool:
        """Does QEMU leave a command unanswered? Whoever asks it one more thing would wait, and others behind him."""
        if vm_id not in self._busy:
            return False
        with translated(vm_id):
            return not _free(self._connection.domain(vm_id))

    def beat(self) -> None:
        """Start one round; skipped while the last one is still busy with VMs that hang."""
        with self._lock:
            if self._in_round:
                self.skipped += 1
                return
            self._in_round = True
        # Not in the shared pool: what hangs here must not take its threads from others.
        threading.Thread(target=self._whole_round, name="sample", daemon=True).start()

    def soon(self, vm_id: str) -> None:
        """Sample one VM by itself, a few times after its start. Best effort: the next beat comes anyway."""
        for delay_s in _FIRST_SAMPLES_S:
            self._later(delay_s, f"sample {vm_id}", partial(self._guarded, partial(self._one, vm_id)))

    def all_soon(self) -> None:
        """The same for all VMs together, when many have become known at once."""
        self.beat()
        self._later(_FIRST_SAMPLES_S[-1], "sample all VMs", self.beat)

    def _later(self, delay_s: float, name: str, job: Callable[[], None]) -> None:
        try:
            self._background.later(delay_s, name, job)
        except Busy:
            self.skipped += 1

    def _guarded(self, job: Callable[[], None]) -> None:
        try:
            job()
        except (Error, libvirt.libvirtError) as error:
            logger.warning("sampling failed: %s", error)

    # -- all of them

    def _whole_round(self) -> None:
        try:
            self._guarded(self._round)
        finally:
            with self._lock:
                self._in_round = False

    def _round(self) -> None:
        busy: set[str] | None = None if self._spare.hanging == 0 else set()
        while self._spare.hanging < _MAX_HANGING:
            ask, hangs = partial(self._bulk, busy), partial(_more_busy, set() if busy is None else busy)
            if self._spare.ask("sample all VMs", ask, patience_s=_PATIENCE_S, hangs=hangs):
                return
            busy = set()
        if self._spare.hanging == _MAX_HANGING:
            self._spare.ask("look at all VMs", self._excused, patience_s=_PATIENCE_S)

    def _bulk(self, busy: set[str] | None, conn: Any) -> None:
        """busy: None when no VM is known to hang; otherwise those that do are left out, and written down there."""
        taken = clock.mono_s()
        if busy is None:
            self._take(taken, conn.getAllDomainStats(WHAT, FLAGS))
            self._busy = frozenset()
            return
        free = self._excused(conn, busy)
        self._busy = frozenset(busy)
        if free:
            self._take(taken, conn.domainListGetStats(free, WHAT, _NOWAIT))

    def _excused(self, conn: Any, busy: set[str] | None = None) -> list[Any]:
        """The domains that may be asked. Until they are, it is not their fault that nothing is heard of them."""
        free = []
        for dom in conn.listAllDomains(libvirt.VIR_CONNECT_LIST_DOMAINS_ACTIVE):
            if _free(dom):
                free.append(dom)
                self._stats.answered(dom.UUIDString())
            elif busy is not None:
                busy.add(dom.UUIDString())
        return free

    # -- one of them

    def _one(self, vm_id: str) -> None:
        record = self._vms.get(vm_id)
        if record is None or record.life.status is VmStatus.DOWN or self._spare.hanging >= _MAX_HANGING:
            return
        with translated(vm_id):
            self._spare.ask(f"sample {vm_id}", partial(self._single, vm_id), patience_s=_PATIENCE_S)

    def _single(self, vm_id: str, conn: Any) -> None:
        taken = clock.mono_s()
        dom = conn.lookupByUUIDString(vm_id)
        if _free(dom):
            self._take(taken, conn.domainListGetStats([dom], WHAT, _NOWAIT))

    def _take(self, taken: float, answer: list[tuple[Any, dict[str, Any]]]) -> None:
        for dom, raw in answer:
            record = self._vms.get(dom.UUIDString())
            if record is not None:
                # QEMU itself tells its disks' counters; libvirt leaves them out when it is busy.
                spoke = "block.0.rd.reqs" in raw or _free(dom)
                self._stats.put(record, Sample(taken, raw), answered=spoke)


def _more_busy(known: set[str], conn: Any) -> bool:
    """Does a VM hang of which that was not known?"""
    doms = conn.listAllDomains(libvirt.VIR_CONNECT_LIST_DOMAINS_ACTIVE)
    return any(dom.UUIDString() not in known and not _free(dom) for dom in doms)


def _free(dom: Any) -> bool:
    """Does QEMU answer, as far as libvirtd knows? It tells that from memory."""
    try:
        state, _, since_ms = dom.controlInfo()
    except libvirt.libvirtError:
        return False  # it ended meanwhile
    return not (state in _SPEECHLESS and since_ms >= _BUSY_MS)


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
