# SPDX-License-Identifier: Apache-2.0
"""Live snapshots: a running VM goes over to new leaf volumes, all of its disks at once or none.

A job (`jobUUID`) that is written into the VM's metadata before anything happens. When we die in the middle, the next
life compares what QEMU uses with what was wanted: that decides whether the job was done.
"""

import uuid
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

import libvirt

from vdsm_mp.api.errors_virt import (
    InvalidVmParameter,
    LibvirtUnavailable,
    NoGuestAgent,
    NoSuchVm,
    SnapshotFailed,
    VmUndecided,
)
from vdsm_mp.api.internal import PreparedDrive
from vdsm_mp.api.ports import CallContext
from vdsm_mp.api.verb import handles
from vdsm_mp.api.vm_blocks import SnapshotVm
from vdsm_mp.common import clock, log, xml
from vdsm_mp.common.errors import Error
from vdsm_mp.tasks.jobs import Jobs, NotYet
from vdsm_mp.tasks.progress import Progress
from vdsm_mp.virt import guestfs, memorysnapshot, snapshot_record
from vdsm_mp.virt.chain import follow, running_chain
from vdsm_mp.virt.connection import translated
from vdsm_mp.virt.devicehooks import DeviceHooks
from vdsm_mp.virt.devices import Devices, target_of
from vdsm_mp.virt.keeping import is_backed_up
from vdsm_mp.virt.memorysnapshot import Memory
from vdsm_mp.virt.patience import DECIDES_S, QEMU_MAY_HANG_S, UNDECIDED, Again, decided, patiently
from vdsm_mp.virt.records import Drive, VmRecord, VolumeIds
from vdsm_mp.virt.snapshot_record import SnapshotNote, Terms
from vdsm_mp.virt.vmhooks import VmHooks

logger = log.named(__name__)

_FREEZE_S = 8
_TIMEOUT_MIN = 30
_FLAGS = (
    libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_REUSE_EXT
    | libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_NO_METADATA
    | libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_DISK_ONLY
    | libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_ATOMIC
)

#: (drive as it is, ids of its new leaf)
Wanted = list[tuple[Drive, VolumeIds]]


@handles(SnapshotVm)
def snapshot_vm(devices: Devices, jobs: Jobs, hooks: VmHooks, ask: SnapshotVm, context: CallContext) -> None:
    """Returns when the job is begun; without a job id when the snapshot is there."""
    record = devices.vms.running(ask.vm_id, "make a snapshot", even_busy=True)
    memory, timeout_s = None, 60 * (ask.timeout or _TIMEOUT_MIN)
    if ask.snap_memory:
        memory = memorysnapshot.Memory(devices, ask.vm_id, ask.snap_memory, timeout_s)
    if not _wanted(record, ask.snap_drives):
        logger.info("vm=%s uses the wanted volumes already", ask.vm_id)
    terms = Terms(
        job_id=ask.job_id or str(uuid.uuid4()),
        began_mono=clock.mono_s(),
        timeout_s=timeout_s,
        freeze_s=ask.freeze_timeout if ask.freeze_timeout is not None else _FREEZE_S,
        frozen=bool(ask.frozen),
        memory=memory.volumes if memory is not None else (),
    )

    def work(progress: Progress) -> None:
        # Looked at anew: another job may have come first. It has the same key, so it is not waited for here.
        progress.check()
        try:
            record = _with_room(devices, jobs, ask.vm_id)
        except SnapshotFailed as error:
            if ask.job_id is None or clock.mono_s() > terms.began_mono + DECIDES_S:
                raise
            raise NotYet(work, error) from error
        now = _wanted(record, ask.snap_drives)
        try:
            _snapshot(devices, hooks.devices, ask.vm_id, terms, now, memory)
        except VmUndecided as error:
            new = {drive.name: leaf.volume_id for drive, leaf in now}
            note = SnapshotNote(terms.job_id, new, terms.memory, ours_to_thaw=not terms.frozen and memory is None)
            raise NotYet(_decision(devices, ask.vm_id, note), error) from error

    if ask.job_id is None:
        patiently(lambda: _with_room(devices, jobs, ask.vm_id), DECIDES_S, away=(SnapshotFailed,))
        key, deadline_mono = _turn(ask.vm_id), context.deadline_mono
        jobs.perform(terms.job_id, "snapshot_vm", work, key=key, deadline_mono=deadline_mono)
    else:
        jobs.start(terms.job_id, "snapshot_vm", work, key=_turn(ask.vm_id))


def _turn(vm_id: str) -> str:
    """One snapshot of a VM after the other: there is room for the note of one."""
    return f"snapshot of {vm_id}"


def _with_room(devices: Devices, jobs: Jobs, vm_id: str) -> VmRecord:
    """For the note of one more. Raises: SnapshotFailed while one is under way that has no thread, for QEMU may hang."""
    record = devices.vms.running(vm_id, "make a snapshot", even_busy=True)
    try:
        note = snapshot_record.read(record.metadata)
    except ValueError:
        return record
    if note is not None and _runs(jobs, note):
        raise SnapshotFailed("what becomes of the one before is not known yet")
    return record


def busy(jobs: Jobs, record: VmRecord) -> str:
    """What keeps libvirt from changing the VM for as long as storage takes; "" for nothing."""
    try:
        note = snapshot_record.read(record.metadata)
    except ValueError:
        return ""
    return "writing its memory for a snapshot" if note is not None and note.memory and _runs(jobs, note) else ""


def _runs(jobs: Jobs, note: SnapshotNote) -> bool:
    """A note alone may be one that could not be taken away."""
    return jobs.infos([note.job_id]).get(note.job_id, {}).get("status") == "running"


def _wanted(record: VmRecord, untrusted: list[dict[str, Any]]) -> Wanted:
    """Drives that use their new volume already are left out: the caller asks again after a lost answer."""
    found: Wanted = []
    for entry in untrusted:
        image_id, base, new = (str(entry.get(key) or "") for key in ("imageID", "baseVolumeID", "volumeID"))
        drive = next((d for d in record.devices.drives if d.ids is not None and d.ids.image_id == image_id), None)
        if drive is None or drive.ids is None:
            raise SnapshotFailed(f"there is no disk on image {image_id}")
        if drive.transient:
            raise SnapshotFailed(f"{drive.name} is here only as long as it is used")
        if drive.ids.volume_id == new:
            continue
        if drive.ids.volume_id != base:
            raise SnapshotFailed(f"image {image_id} uses volume {drive.ids.volume_id}, not {base}")
        try:
            leaf = VolumeIds(drive.ids.pool_id, drive.ids.sd_id, image_id, str(uuid.UUID(new)))
        except ValueError as error:
            raise InvalidVmParameter(f"volumeID {new!r}") from error
        found.append((drive, leaf))
    return found


def _snapshot(
    devices: Devices,
    hooks: DeviceHooks,
    vm_id: str,
    terms: Terms,
    wanted: Wanted,
    memory: Memory | None,
) -> None:
    if not wanted:
        return
    began = clock.mono_s()
    prepared: dict[str, PreparedDrive] = {}
    new = {drive.name: leaf.volume_id for drive, leaf in wanted}
    try:
        for drive, leaf in wanted:
            ready = devices.drives.prepare(leaf)
            prepared[drive.name] = hooks.volume_prepared(devices.vms.find(vm_id), leaf, ready, SnapshotFailed)
        dom, domain = devices.live(vm_id)
        disks = {target_of(disk): xml.dump(disk) for disk in domain.iterfind("devices/disk")}
        if gone := new.keys() - disks.keys():
            raise SnapshotFailed(f"{', '.join(sorted(gone))} went while its new volume was prepared")
        if is_backed_up(dom):
            raise SnapshotFailed("a backup of it is running")

        def persist(memory_path: str | None = None) -> None:
            note = snapshot_record.write(terms, wanted, prepared, disks, memory_path)
            devices.keeper.remember(vm_id, **{snapshot_record.KEY: note})

        persist()
        if memory is None:
            _take(devices, vm_id, dom, _describe(domain, prepared), terms)
        else:
            with memory.prepared(dom) as path:
                persist(path)
                _take_with_memory(devices, vm_id, dom, _describe(domain, prepared), path, new)
    except BaseException as error:
        # An answer that was lost with libvirtd says nothing: QEMU's disks do, when libvirt is done with it. Nobody
        # may hear of a failure before: the new volumes would be deleted, and QEMU could still go over to them.
        if isinstance(error, VmUndecided):
            raise  # its note is there, and who leads the job comes back to it
        if isinstance(error, UNDECIDED):
            made = decided(lambda: _was_made(devices, vm_id, new))
        else:
            made = isinstance(error, Error) and patiently(lambda: _is_made(devices, vm_id, new))
        if not made:
            _undo(devices, vm_id, [drive for drive, _ in wanted])
            raise
        logger.warning("vm=%s its snapshot is made, though libvirt said: %s", vm_id, error)
    patiently(lambda: _note_made(devices, vm_id, new, prepared))
    logger.info("vm=%s snapshot of %d disks took=%dms", vm_id, len(wanted), (clock.mono_s() - began) * 1000)


def _was_made(devices: Devices, vm_id: str, new: Mapping[str, str]) -> bool:
    """As `_is_made`, once it is decided. Raises: one of UNDECIDED when it is not."""
    try:
        devices.keeper.take_turn(vm_id)
    except NoSuchVm:
        return False
    return _is_made(devices, vm_id, new)


def _is_made(devices: Devices, vm_id: str, new: Mapping[str, str]) -> bool:
    """Does QEMU use all of the new leaves? {target dev: volume id}"""
    try:
        _, domain = devices.live(vm_id)
    except NoSuchVm:
        return False
    links = {target_of(disk): running_chain(disk) for disk in domain.iterfind("devices/disk")}
    return all(links.get(name) and links[name][0].volume_id == volume_id for name, volume_id in new.items())


def _note_made(devices: Devices, vm_id: str, new: Mapping[str, str], prepared: Mapping[str, PreparedDrive]) -> None:
    """Our notes follow QEMU; safe to repeat."""
    record = devices.vms.find(vm_id)
    for drive in record.devices.drives:
        if drive.name in new:
            follow(devices, vm_id, drive, prepared.get(drive.name))
    devices.keeper.remember(vm_id, **{snapshot_record.KEY: None})


def _take(devices: Devices, vm_id: str, dom: Any, description: ET.Element, terms: Terms) -> None:
    ours = False
    if not terms.frozen:
        began = clock.mono_s()
        try:
            guestfs.freeze(devices, vm_id, min(max(1, terms.freeze_s), 3600))
            ours = True
        except Error as error:
            # A lost answer says nothing: they may be frozen.
            ours = isinstance(error, LibvirtUnavailable)
            logger.info("vm=%s its file systems are not frozen for the snapshot: %s", vm_id, error)
        if ours and clock.mono_s() - began > terms.freeze_s:
            _thaw(devices, vm_id, ours)
            raise SnapshotFailed(f"freezing the file systems took longer than {terms.freeze_s} s")
    try:
        with translated(vm_id, SnapshotFailed):
            dom.snapshotCreateXML(xml.dump(description), _FLAGS)
    finally:
        _thaw(devices, vm_id, ours)


def _take_with_memory(
    devices: Devices, vm_id: str, dom: Any, description: ET.Element, path: str, new: Mapping[str, str]
) -> None:
    """The guest stands still while its memory is written; its file systems need no freezing, their cache is in it."""
    xml.add(description, "memory", snapshot="external", file=path)
    try:
        with translated(vm_id, SnapshotFailed):
            dom.snapshotCreateXML(xml.dump(description), _FLAGS & ~libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_DISK_ONLY)
    except UNDECIDED as error:
        # libvirt may be writing to it still: the memory is not complete, and not storage's, until that is decided.
        if not decided(lambda: _was_made(devices, vm_id, new)):
            raise
        logger.warning("vm=%s its snapshot is made, though libvirt said: %s", vm_id, error)


def _thaw(devices: Devices, vm_id: str, ours: bool) -> None:
    """A libvirtd that died over the snapshot is waited for: nobody else would thaw them."""
    if ours:
        try:
            patiently(lambda: guestfs.thaw(devices, vm_id))
        except Error as error:
            logger.warning("vm=%s its file systems may be frozen still: %s", vm_id, error)


def _thaw_what_was_left(devices: Devices, vm_id: str) -> None:
    """Who began the snapshot may have died between the freeze and the thaw. Thawing what is not frozen harms nobody."""
    try:
        guestfs.thaw(devices, vm_id)
    except NoGuestAgent:
        return  # then nobody has frozen it either
    except Error as error:
        logger.warning("vm=%s its file systems may be frozen still: %s", vm_id, error)


def _describe(domain: ET.Element, prepared: Mapping[str, PreparedDrive]) -> ET.Element:
    """Disks that are not meant must be named too, or libvirt makes snapshots of them by itself."""
    snapshot = ET.Element("domainsnapshot")
    disks = xml.add(snapshot, "disks")
    for disk in domain.iterfind("devices/disk"):
        name = target_of(disk)
        if name not in prepared:
            xml.add(disks, "disk", name=name, snapshot="no")
            continue
        kind, attribute = ("block", "dev") if prepared[name].block else ("file", "file")
        entry = xml.add(disks, "disk", name=name, snapshot="external", type=kind)
        xml.add(entry, "driver", type="qcow2")
        source = xml.add(entry, "source", **{attribute: prepared[name].path})
        xml.add(source, "seclabel", model="dac", relabel="no", type="none")
    return snapshot


def _undo(devices: Devices, vm_id: str, drives: Iterable[Drive]) -> None:
    """The VM goes on with its old volumes; storage hears that these are the prepared ones."""
    for drive in drives:
        if drive.ids is not None:
            try:
                devices.drives.prepare(drive.ids)
            except Error as error:
                logger.warning("vm=%s image %s: %s", vm_id, drive.ids.image_id, error)
    try:
        devices.keeper.remember(vm_id, **{snapshot_record.KEY: None})
    except Error as error:
        logger.warning("vm=%s the end of its snapshot job is not written down: %s", vm_id, error)


def finish_snapshot(devices: Devices, jobs: Jobs, again: Again, vm_id: str) -> None:
    """After a restart: a job that was under way is listed with the result that QEMU's disks show.

    From the connection's keeper thread: no waits.
    """

    def forget(new: Mapping[str, str]) -> None:
        devices.keeper.take_turn(vm_id)
        _note_made(devices, vm_id, new, {})

    record = devices.vms.get(vm_id)
    if record is None:
        return
    try:
        note = snapshot_record.read(record.metadata)
    except ValueError as error:
        logger.warning("vm=%s has a snapshot job that cannot be read, it is forgotten: %s", vm_id, error)
        again.start(f"forget snapshot of {vm_id}", partial(forget, {}))
        return
    if note is None:
        return
    state = jobs.infos([note.job_id]).get(note.job_id, {}).get("status")
    if state is None:
        jobs.start(note.job_id, "snapshot_vm", _decision(devices, vm_id, note), key=_turn(vm_id))
    elif state in ("done", "failed", "aborted"):
        # libvirt was away for so long that the job gave up; only its notes are left.
        again.start(f"forget snapshot of {vm_id}", partial(forget, note.new))


def _decision(devices: Devices, vm_id: str, note: SnapshotNote) -> Callable[[Progress], None]:
    """What is left of a job whose answer nobody has: it waits without a thread for as long as QEMU may hang."""
    until_mono = clock.mono_s() + QEMU_MAY_HANG_S

    def work(progress: Progress) -> None:
        try:
            made = _was_made(devices, vm_id, note.new) and bool(note.new)
        except UNDECIDED as error:
            if clock.mono_s() > until_mono:
                raise
            raise NotYet(work, error) from error
        if note.memory:
            memorysnapshot.finish(devices, vm_id, note.memory, made=made)
            devices.changed(vm_id)
        if note.ours_to_thaw:
            _thaw_what_was_left(devices, vm_id)
        if not made:
            _undo(devices, vm_id, [one for one in devices.vms.find(vm_id).devices.drives if one.name in note.new])
        _note_made(devices, vm_id, note.new, {})
        if not made:
            raise SnapshotFailed("the host agent, or libvirtd, ended before it was made")

    return work
