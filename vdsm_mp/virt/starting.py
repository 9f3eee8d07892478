# SPDX-License-Identifier: Apache-2.0
"""VM.create: accepted when a placeholder with its metadata is defined, answered at once, started in the background.

From the answer on the VM survives us: dying in the middle leaves the placeholder, which recovery turns into Down.
Between the steps of a start a destroy request is looked for; each failure ends in Down with an event. But for one: when
libvirt goes away with the answer to the start itself, the VM waits for its launch until libvirt tells whether it runs.
"""

import threading
import xml.etree.ElementTree as ET
from collections.abc import Mapping
from functools import partial
from typing import Any

import libvirt
from msgspec.structs import replace

from vdsm_mp.api.errors import SystemRefused
from vdsm_mp.api.errors_virt import CannotCreateVm, MissingVmParameter, VmExists
from vdsm_mp.api.internal import PreparedDrive
from vdsm_mp.api.ports import Root
from vdsm_mp.api.verb import handles
from vdsm_mp.api.vm import CreateVm
from vdsm_mp.common import clock, log, xml
from vdsm_mp.common.errors import Error
from vdsm_mp.virt import (
    asleep,
    cpupool,
    displaynet,
    domxml_build,
    domxml_parse,
    externaldata,
    hibernation,
    leases,
    machine,
)
from vdsm_mp.virt.awaited import Awaited, Unanswered, answered
from vdsm_mp.virt.calling import under_way
from vdsm_mp.virt.connection import Connection, translate
from vdsm_mp.virt.definitions import define_placeholder, end_domain
from vdsm_mp.virt.domxml_build import Policy
from vdsm_mp.virt.drives import Drives, with_sizes
from vdsm_mp.virt.dummynet import DummyNet
from vdsm_mp.virt.guesttime import GuestTime
from vdsm_mp.virt.hostdev_taken import HostDevices
from vdsm_mp.virt.hostfacts import HostFacts
from vdsm_mp.virt.keeping import Keeper, with_devices
from vdsm_mp.virt.launch import Launches
from vdsm_mp.virt.machine import Exit, ExitReason, VmStatus
from vdsm_mp.virt.metadata import Metadata
from vdsm_mp.virt.mirrors import Mirrors
from vdsm_mp.virt.orphans import Orphans
from vdsm_mp.virt.payload import Payloads
from vdsm_mp.virt.records import VmRecord, VolumeIds
from vdsm_mp.virt.registry import Vms, short_status
from vdsm_mp.virt.sampling import Sampler
from vdsm_mp.virt.transient import Transients
from vdsm_mp.virt.vmhooks import VmHooks

logger = log.named(__name__)


class _Unwanted(Exception):
    """Destroyed while it started."""


class Starter:
    """Starts VMs, a few at a time."""

    def __init__(
        self,
        connection: Connection,
        vms: Vms,
        *,
        keeper: Keeper,
        drives: Drives,
        sampler: Sampler,
        launches: Launches,
        facts: HostFacts,
        policy: Policy,
        hooks: VmHooks,
        root: Root,
        payloads: Payloads,
        transients: Transients,
        dummynet: DummyNet,
        times: GuestTime,
        mirrors: Mirrors,
        hostdevs: HostDevices,
        awaited: Awaited,
        orphans: Orphans,
    ) -> None:
        self._connection = connection
        self._vms = vms
        self._keeper = keeper
        self._drives = drives
        self._sampler = sampler
        self._launches = launches
        self._facts = facts
        self.policy = policy
        self._hooks = hooks
        self._root = root
        self._payloads = payloads
        self._transients = transients
        self._dummynet = dummynet
        self._times = times
        self._mirrors = mirrors
        self._hostdevs = hostdevs
        self._awaited = awaited
        self._orphans = orphans
        self._ends: dict[str, threading.Event] = {}

    def accept(self, vm_id: str, params: Mapping[str, Any]) -> VmRecord:
        """Check, persist, register and queue. Raises: VmExists, CannotCreateVm, BadXml, LibvirtUnavailable."""
        text = params.get("xml")
        if not isinstance(text, str) or not text:
            raise MissingVmParameter("xml")
        domain = xml.parse(text)
        who = domxml_parse.identity(domain)
        if who.vm_id != vm_id:
            raise CannotCreateVm(f"the XML describes another VM, {who.vm_id}")
        metadata = Metadata.of_domain(domain) or Metadata()
        domxml_build.check(domain, metadata, self.policy)
        if domxml_build.destroy_on_reboot(domain):
            metadata = metadata.with_values(destroy_on_reboot=True)
        metadata = cpupool.noted(metadata, domain)
        if self._vms.known().get(vm_id) is not None:
            raise VmExists(vm_id)
        if pids := self._orphans.running(vm_id):
            logger.warning(
                "VM.create vm=%s is refused: process %s is its QEMU, which libvirt doesn't know", vm_id, pids
            )
            raise VmExists(vm_id)
        devices = domxml_parse.devices(domain, metadata)
        record = VmRecord(
            vm_id=vm_id,
            name=who.name,
            metadata=metadata,
            devices=replace(devices, hash="", kvm=devices.kvm and self._facts.kvm),
            time_offset=str(params.get("timeOffset") or domxml_parse.clock_offset(domain)),
        )
        memory, contents = hibernation.sleeping(params), externaldata.given(params)
        if memory is not None:
            record = replace(record, metadata=asleep.noted(metadata, memory))
        status = VmStatus.WAIT_FOR_LAUNCH if memory is None else VmStatus.RESTORING
        life = replace(record.life, status=status, destroy_on_reboot=metadata.flag("destroy_on_reboot"))
        record = record.with_life(life)
        # Known first: libvirt's event of the definition must not find a VM that looks like somebody else's.
        self._vms.add(record)
        try:
            define_placeholder(self._connection, record, who.memory_kib)
        except BaseException:
            self._vms.forget(vm_id)
            raise
        begun = self._ends[vm_id] = threading.Event()
        self._launches.submit(
            f"start vm={vm_id}",
            lambda: self._start(begun, vm_id, domain, str(params.get("serial") or ""), memory, contents),
            lambda error: self._refused(begun, vm_id, error),
        )
        return record

    def wait_ended(self, vm_id: str, within_s: float) -> bool:
        """True when no start of this VM is in progress any more."""
        end = self._ends.get(vm_id)
        return end is None or end.wait(within_s)

    # -- the start itself, in the background

    def _start(
        self,
        begun: threading.Event,
        vm_id: str,
        domain: ET.Element,
        serial: str,
        memory: VolumeIds | None,
        contents: Mapping[str, bytes],
    ) -> None:
        """begun: tells this start from one of a later life of this VM, which may begin while storage hangs here."""
        began = clock.mono_s()
        prepared: dict[str, PreparedDrive] = {}
        held: list[VolumeIds] = []
        image: PreparedDrive | None = None
        failure = str if memory is None else hibernation.failure
        volumes = [] if memory is None else [memory]
        try:
            record = self._wanted(vm_id, begun)
            prepared = self._drives.prepare_all(domain, record.metadata)
            held = [drive.ids for drive in record.devices.drives if drive.ids is not None]
            self._wanted(vm_id, begun)
            prepared = self._hooks.devices.disks_prepared(record, prepared)
            prepared = self._transients.over_all(vm_id, domain, record.metadata, prepared)
            self._wanted(vm_id, begun)
            leases.fill(domain, prepared.values(), self._drives)
            externaldata.put(self._root, record, contents)
            self._payloads.fill(domain, record.metadata, vm_id)
            self._hostdevs.take_all(vm_id, domain, record.metadata)
            if memory is not None:
                image = self._drives.prepare(memory)
            self._run(begun, record, domain, prepared, serial, image)
            logger.info("VM.create vm=%s runs, took=%dms", vm_id, (clock.mono_s() - began) * 1000)
        except _Unwanted:
            self._failed(begun, vm_id, held, Exit.because(ExitReason.DESTROYED_ON_STARTUP))
        except Unanswered as gone:
            logger.warning("VM.create vm=%s may run: %s", vm_id, gone)
            end = Exit.because(ExitReason.START_FAILED, failure(str(gone)))
            held, volumes = volumes, []  # QEMU may be reading it
            self._awaited.watch(vm_id, end, lambda live: self._found(vm_id, live, held))
        except libvirt.libvirtError as error:
            sentence = str(translate(error, vm_id))
            self._failed(begun, vm_id, held, Exit.because(ExitReason.START_FAILED, failure(sentence)))
        except Error as error:
            self._failed(begun, vm_id, held, Exit.because(ExitReason.GENERIC_ERROR, failure(str(error))))
        except Exception as error:
            # Not ours to hide: the lane logs it. But a VM that hangs in WaitForLaunch for ever helps nobody.
            why = failure(str(SystemRefused.because(error))) if isinstance(error, OSError) else ""
            self._failed(begun, vm_id, held, Exit.because(ExitReason.GENERIC_ERROR, why))
            raise
        finally:
            if self._ends.get(vm_id) is not begun:
                self._give_back(vm_id, volumes)
            elif volumes:
                asleep.give_back(self._keeper, self._drives, self._vms, vm_id, volumes)
            self._over(begun, vm_id)

    def _run(
        self,
        begun: threading.Event,
        record: VmRecord,
        domain: ET.Element,
        prepared: dict[str, PreparedDrive],
        serial: str,
        image: PreparedDrive | None,
    ) -> None:
        vm_id = record.vm_id
        started_wall = clock.wall_s()
        metadata = record.metadata.with_values(startTime=started_wall)
        final = domxml_build.build(domain, prepared, self._facts, serial=serial)
        metadata.put_into(final)
        flags = libvirt.VIR_DOMAIN_START_PAUSED if metadata.flag("launchPaused") else 0
        if image is None:
            final, flags = self._hooks.start(record, final, flags)
            domxml_build.check_commandline(final, self.policy)
        conn = self._connection.get()
        displaynet.ensure(conn, final)
        self._dummynet.ensure(final)
        self._wanted(vm_id, begun)
        dom = conn.defineXML(xml.dump(final))
        self._wanted(vm_id, begun)
        with answered(vm_id):
            if image is not None:
                hibernation.wake(conn, image, final, prepared, self.policy, record, self._hooks)
            else:
                with under_way():
                    dom.createWithFlags(flags)
            with under_way():
                live = xml.parse(dom.XMLDesc(0))
        paused = bool(flags & libvirt.VIR_DOMAIN_START_PAUSED)

        def started(now: VmRecord) -> VmRecord:
            fresh = with_devices(replace(now, metadata=metadata, started_wall=started_wall), live)
            drives = tuple(
                with_sizes(drive, prepared[drive.name]) if drive.name in prepared else drive
                for drive in fresh.devices.drives
            )
            return replace(fresh, devices=replace(fresh.devices, drives=drives))

        if self._vms.change(vm_id, started) is None:
            raise _Unwanted
        try:
            self._mirrors.ensure(vm_id, CannotCreateVm)
        except Error:
            # Who is to see everything must not run seeing nothing. Should libvirt be gone: it ends what runs and is
            # told as Down when it is back.
            with under_way():
                dom.destroy()
            raise
        self._vms.move(vm_id, lambda life: machine.on_started(life, clock.mono_s(), paused=paused))
        self._sampler.soon(vm_id)
        self._hooks.started(record, live, woken=image is not None)
        if image is not None and not paused:
            self._times.set_soon(vm_id)

    def _found(self, vm_id: str, live: ET.Element | None, memory: list[VolumeIds]) -> None:
        """What has become of a start that was not answered; it has been told."""
        if memory:
            asleep.give_back(self._keeper, self._drives, self._vms, vm_id, memory)
        record = self._vms.get(vm_id)
        if live is not None and record is not None:
            self._hooks.started(record, live, woken=bool(memory))
            if memory and record.life.cpus_run:
                self._times.set_soon(vm_id)

    def _refused(self, begun: threading.Event, vm_id: str, error: Error) -> None:
        self._failed(begun, vm_id, [], Exit.because(ExitReason.GENERIC_ERROR, str(error)))
        self._over(begun, vm_id)

    def _over(self, begun: threading.Event, vm_id: str) -> None:
        if self._ends.get(vm_id) is begun:
            self._ends.pop(vm_id)
        begun.set()

    def _wanted(self, vm_id: str, begun: threading.Event) -> VmRecord:
        record = self._vms.get(vm_id)
        if record is None or record.life.destroy_requested or self._ends.get(vm_id) is not begun:
            raise _Unwanted
        return record

    def _failed(self, begun: threading.Event, vm_id: str, held: list[VolumeIds], end: Exit) -> None:
        logger.warning("VM.create vm=%s failed: %s", vm_id, end.message)
        if self._ends.get(vm_id) is begun:
            if self._vms.move(vm_id, lambda life: machine.on_start_failed(life, end)) is not None:
                return
            # Destroyed and forgotten meanwhile: nobody else will clean up behind this start.
            end_domain(self._connection, vm_id)
            self._payloads.remove(vm_id)
            self._transients.remove(vm_id)
            self._hostdevs.give_back(vm_id)
        self._give_back(vm_id, held)

    def _give_back(self, vm_id: str, held: list[VolumeIds]) -> None:
        """But for what a later life of it uses."""
        for ids in held:
            self._drives.teardown(ids, unless=partial(self._uses, vm_id, ids))

    def _uses(self, vm_id: str, ids: VolumeIds) -> bool:
        now = self._vms.get(vm_id)
        if now is None:
            return False
        drives = [drive.ids for drive in now.devices.drives if drive.ids is not None]
        return ids.image in {used.image for used in (*drives, *asleep.held(now.metadata))}


@handles(CreateVm)
def create(starter: Starter, ask: CreateVm) -> dict[str, Any]:
    record = starter.accept(ask.vm_id, ask.vm_params)
    # The start may already be further; what was accepted is what is answered.
    return {**short_status(record), "status": str(record.life.status), "vmName": record.name}
