# SPDX-License-Identifier: Apache-2.0
"""Starts that libvirt was asked for and whose answer nobody has: watched until it is known whether QEMU runs.

The caller died, or libvirtd did, or it froze; what it was asked it may do all the same, also when it goes on much
later. Told as Down, such a VM would be started elsewhere while its QEMU runs here; so it waits for its launch until
libvirt tells what has become of it, and, as a question may still stand in line, for some seconds of quiet after that.
"""

import contextlib
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator

import libvirt
from msgspec.structs import replace

from vdsm_mp.api.errors_virt import LibvirtUnavailable, NoSuchVm
from vdsm_mp.api.ports import Background
from vdsm_mp.common import clock, log, xml
from vdsm_mp.common.errors import Error
from vdsm_mp.virt import machine
from vdsm_mp.virt.connection import Connection, translate, translated
from vdsm_mp.virt.found import INACTIVE
from vdsm_mp.virt.keeping import with_devices
from vdsm_mp.virt.machine import UNSTARTED, Exit
from vdsm_mp.virt.metadata import Metadata
from vdsm_mp.virt.orphans import Orphans
from vdsm_mp.virt.records import VmRecord
from vdsm_mp.virt.registry import Vms
from vdsm_mp.virt.sampling import Sampler

logger = log.named(__name__)

#: A start that we asked for may reach QEMU so much later than the first answer of a libvirtd that was away.
_MAY_COME_S = 5.0
_LOOK_AGAIN_S = 0.25
#: Called once with the live XML when it runs, with None when it does not.
Then = Callable[[ET.Element | None], None]


class Unanswered(Exception):
    """libvirt was asked to run a VM, and went away: it may run."""


@contextlib.contextmanager
def answered(vm_id: str) -> Iterator[None]:
    """Around what makes QEMU run. Raises: Unanswered when libvirt goes away in it, libvirtError else."""
    try:
        yield
    except libvirt.libvirtError as error:
        ours = translate(error, vm_id)
        if isinstance(ours, LibvirtUnavailable):
            raise Unanswered(str(ours)) from error
        raise


class _Start:
    def __init__(self, vm_id: str, end: Exit, then: Then) -> None:
        self.vm_id = vm_id
        self.end = end
        self.then = then
        self.since_mono: float | None = None

    def may_come(self) -> bool:
        now = clock.mono_s()
        self.since_mono = now if self.since_mono is None else self.since_mono
        return now - self.since_mono < _MAY_COME_S


class Awaited:
    """Moves VMs that wait for their launch, or are being restored, to running or Down. Any thread."""

    def __init__(
        self, connection: Connection, vms: Vms, sampler: Sampler, orphans: Orphans, background: Background
    ) -> None:
        self._connection = connection
        self._vms = vms
        self._sampler = sampler
        self._orphans = orphans
        self._background = background

    def watch(self, vm_id: str, end: Exit, then: Then) -> None:
        """end: told when it turns out not to run. Returns at once."""
        self._later(_Start(vm_id, end, then), 0)

    def _later(self, start: _Start, delay_s: float) -> None:
        if not self._background.draining:
            self._background.later(delay_s, f"start of vm={start.vm_id}", lambda: self._look(start))

    def _look(self, start: _Start) -> None:
        record = self._vms.get(start.vm_id)
        live: ET.Element | None = None
        if record is not None and record.life.status in UNSTARTED:
            try:
                state, reason, domain = self._state(start.vm_id)
                undecided = domain is not None and self._undecided(start, state, reason)
                undecided = undecided or (state in INACTIVE and self._orphans.adopt(start.vm_id))
            except Error as error:
                logger.info("start of vm=%s: %s", start.vm_id, error)
                start.since_mono = None
                self._later(start, _LOOK_AGAIN_S)
                return
            if undecided:
                self._later(start, _LOOK_AGAIN_S)
                return
            live = None if state in INACTIVE else domain
            self._move(start, live, paused=state == libvirt.VIR_DOMAIN_PAUSED)
        start.then(live)

    def _state(self, vm_id: str) -> tuple[int, int, ET.Element | None]:
        try:
            dom = self._connection.domain(vm_id)
        except NoSuchVm:
            return libvirt.VIR_DOMAIN_SHUTOFF, 0, None
        with translated(vm_id):
            state, reason = dom.state()
            return state, reason, xml.parse(dom.XMLDesc(0))

    def _undecided(self, start: _Start, state: int, reason: int) -> bool:
        if state == libvirt.VIR_DOMAIN_PAUSED and reason == libvirt.VIR_DOMAIN_PAUSED_STARTING_UP:
            return True
        # The latter while memory is read, and for good when it is to wake up paused.
        reads = state == libvirt.VIR_DOMAIN_PAUSED and reason == libvirt.VIR_DOMAIN_PAUSED_MIGRATION
        return (state in INACTIVE or reads) and start.may_come()

    def _move(self, start: _Start, live: ET.Element | None, *, paused: bool) -> None:
        if live is None:
            self._vms.move(start.vm_id, lambda life: machine.on_start_failed(life, start.end))
            return
        self._vms.change(start.vm_id, lambda record: _as_it_runs(record, live))
        self._vms.move(start.vm_id, lambda life: machine.on_started(life, clock.mono_s(), paused=paused))
        self._sampler.soon(start.vm_id)


def _as_it_runs(record: VmRecord, domain: ET.Element) -> VmRecord:
    metadata = Metadata.of_domain(domain) or record.metadata
    started_wall = metadata.number("startTime") or record.started_wall
    return with_devices(replace(record, metadata=metadata, started_wall=started_wall), domain)
