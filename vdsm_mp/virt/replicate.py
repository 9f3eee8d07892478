# SPDX-License-Identifier: Apache-2.0
"""Live storage migration: a disk is mirrored to another volume while the guest runs, then the VM goes over to it.

The replica is written into the disk's metadata before QEMU is asked, so that after a death of ours it is known what
was prepared. The mirror ends when the engine says so: over to the replica, or back to where it was. What we know of
it follows QEMU: whatever fails in the middle is looked at again (`look`), and taken as done or undone.
"""

import xml.etree.ElementTree as ET
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from typing import Any

import libvirt

from vdsm_mp.api.errors import Busy
from vdsm_mp.api.errors_virt import AbortReplicationFailed, NoSuchVm, ReplicaFailed, ReplicationNotReady, TransientDisk
from vdsm_mp.api.internal import PreparedDrive
from vdsm_mp.api.ports import Background
from vdsm_mp.api.verb import handles
from vdsm_mp.api.vm_blocks import FinishDiskReplication, StartDiskReplication
from vdsm_mp.common import log, xml
from vdsm_mp.common.errors import Error
from vdsm_mp.common.oneatatime import OneAtATime
from vdsm_mp.virt import domxml_build
from vdsm_mp.virt.chain import follow, running_chain
from vdsm_mp.virt.connection import translated
from vdsm_mp.virt.devicehooks import DeviceHooks
from vdsm_mp.virt.devices import Devices, find, target_of
from vdsm_mp.virt.domxml_parse import volume_ids
from vdsm_mp.virt.machine import VmStatus
from vdsm_mp.virt.patience import DECIDES_S, patiently
from vdsm_mp.virt.records import Drive, VmRecord, VolumeIds

logger = log.named(__name__)

_FLAGS = (
    libvirt.VIR_DOMAIN_BLOCK_COPY_SHALLOW
    | libvirt.VIR_DOMAIN_BLOCK_COPY_REUSE_EXT
    | libvirt.VIR_DOMAIN_BLOCK_COPY_TRANSIENT_JOB
)
_AGAIN_S = 1.0
#: Somebody undoes a mirror that failed, and waits for libvirt.
_TURN_S = 30.0


class Replications:
    """Mirrors of disks. At most one works on those of a VM: a verb, or who looks or undoes in the background."""

    def __init__(self, devices: Devices, hooks: DeviceHooks, background: Background) -> None:
        self.devices = devices
        self._hooks = hooks
        self._background = background
        #: Of VMs. Who undoes has one as well: a mirror that begins meanwhile would be taken for the one that is to go.
        self._turns = OneAtATime()
        #: Mirrors of (VM, disk) that are to go, and where to, until somebody has settled them.
        self._unwanted: dict[tuple[str, str], VolumeIds] = {}

    def start(self, record: VmRecord, drive: Drive, target: VolumeIds) -> None:
        """Raises: ReplicaFailed, TransientDisk, what storage raised; then nothing stays: no mirror, note or volume."""
        devices, vm_id = self.devices, record.vm_id
        if drive.transient:
            raise TransientDisk(f"{drive.name} cannot be replicated")
        patiently(lambda: self._refuse_unwanted(vm_id, drive), DECIDES_S, away=(ReplicaFailed,))
        with self._working(vm_id):
            self._refuse_unwanted(vm_id, drive)
            record = devices.vms.get(vm_id) or record
            before = record.metadata.device(**drive.identity)
            if "diskReplicate" in before:
                raise ReplicaFailed(f"{drive.name} is being replicated already")
            ready = devices.drives.prepare(target)
            try:
                prepared = self._hooks.volume_prepared(record, target, ready, ReplicaFailed)
            except BaseException:
                devices.drives.teardown(target)
                raise
            try:
                note = {**before, "diskReplicate": target.named()}
                devices.keeper.remember_device(vm_id, drive.identity, note)
                dom = devices.connection.domain(vm_id)
                with translated(vm_id, ReplicaFailed):
                    dom.blockCopy(drive.name, xml.dump(_replica(prepared)), {}, _FLAGS)
            except BaseException:
                self._undo(vm_id, drive.name, target)
                raise
        logger.info("vm=%s %s is mirrored to %s", vm_id, drive.name, prepared.path)

    def _refuse_unwanted(self, vm_id: str, drive: Drive) -> None:
        if (vm_id, drive.name) in self._unwanted:
            raise ReplicaFailed(f"a mirror of {drive.name} that failed is not undone yet")

    def finish(self, record: VmRecord, drive: Drive, *, pivot: bool) -> None:
        """Raises: ReplicaFailed, ReplicationNotReady (ask again later), AbortReplicationFailed."""
        devices, vm_id = self.devices, record.vm_id
        with self._working(vm_id):
            record = devices.vms.get(vm_id) or record
            replica = _replica_of(record, drive)
            if replica is None:
                raise ReplicaFailed(f"{drive.name} is not being replicated")
            dom, domain = devices.live(vm_id)
            disk = _disk(domain, drive.name)
            if pivot and not _is_on(disk, replica):
                _require_ready(vm_id, dom, disk, drive)
                devices.drives.prepare(replica)
            try:
                if disk.find("mirror") is not None:
                    with translated(vm_id, AbortReplicationFailed):
                        dom.blockJobAbort(drive.name, libvirt.VIR_DOMAIN_BLOCK_JOB_ABORT_PIVOT if pivot else 0)
                self._settle(record, drive, replica)
                self._unwanted.pop((vm_id, drive.name), None)
            except Error:
                # It may have happened all the same.
                self._look_later(vm_id)
                raise

    def _look(self, vm_id: str) -> None:
        """Mirrors that are over are taken as QEMU left them; others go on.

        Raises: NoSuchVm, LibvirtUnavailable, VmNotResponding, Busy, what storage raised.
        """
        self.devices.keeper.take_turn(vm_id)
        with self._working(vm_id, 0.0):
            record = self.devices.vms.get(vm_id)
            if record is None or record.external or record.life.status is VmStatus.DOWN:
                return
            for drive in record.devices.drives:
                replica = _replica_of(record, drive)
                if replica is None:
                    continue
                _, domain = self.devices.live(vm_id)
                if _disk(domain, drive.name).find("mirror") is None:
                    self._settle(record, drive, replica)
                else:
                    logger.info("vm=%s %s is mirrored still", vm_id, drive.name)

    def _settle(self, record: VmRecord, drive: Drive, replica: VolumeIds) -> None:
        """No mirror any more: note what QEMU uses, and give back the volume that it does not use."""
        devices, vm_id = self.devices, record.vm_id
        _, domain = devices.live(vm_id)
        moved = _is_on(_disk(domain, drive.name), replica)
        prepared = devices.drives.prepare(replica) if moved else None
        data = {k: v for k, v in record.metadata.device(**drive.identity).items() if k != "diskReplicate"}
        devices.keeper.remember_device(vm_id, drive.identity, data | (replica.named() if moved else {}))
        devices.changed(vm_id)
        if moved:
            now = next(one for one in devices.vms.find(vm_id).devices.drives if one.name == drive.name)
            follow(devices, vm_id, now, prepared)
        stale = drive.ids if moved else replica
        if stale is not None:
            devices.drives.teardown(stale)
        logger.info("vm=%s %s %s", vm_id, drive.name, "uses its replica now" if moved else "is not replicated any more")

    def _undo(self, vm_id: str, name: str, target: VolumeIds) -> None:
        """A start that failed for its caller may have reached QEMU. Never raises; tried until libvirt is there."""
        try:
            self.devices.keeper.take_turn(vm_id)
            dom, domain = self.devices.live(vm_id)
            # A disk that is gone has no mirror, and its metadata go with it.
            disk = find(domain, "disk", lambda element: target_of(element) == name)
            if disk is not None and disk.find("mirror") is not None:
                with translated(vm_id, ReplicaFailed):
                    dom.blockJobAbort(name, 0)
            record = self.devices.vms.get(vm_id)
            data = dict(record.metadata.device(devtype="disk", name=name)) if record is not None else {}
            if data.pop("diskReplicate", None) is not None:
                self.devices.keeper.remember_device(vm_id, {"devtype": "disk", "name": name}, data)
        except NoSuchVm:
            pass  # its metadata went with it
        except Error as error:
            logger.warning("vm=%s the mirror of %s is not undone yet: %s", vm_id, name, error)
            self._unwanted[vm_id, name] = target
            self._undo_later(vm_id, name, target)
            return
        self._unwanted.pop((vm_id, name), None)
        self.devices.drives.teardown(target)

    def _undo_later(self, vm_id: str, name: str, target: VolumeIds) -> None:
        def undo() -> None:
            try:
                with self._working(vm_id, 0.0):
                    if self._unwanted.get((vm_id, name)) == target:
                        self._undo(vm_id, name, target)
            except Busy:
                self._undo_later(vm_id, name, target)

        self._background.later(_AGAIN_S, f"undo mirror vm={vm_id}", undo)

    def look(self, vm_id: str) -> None:
        """After a restart of us or of libvirtd. Returns at once: storage may be away, or hang, and others wait."""
        record = self.devices.vms.get(vm_id)
        if record is not None and any(replicas(record)):
            self._look_later(vm_id, 0.0)

    def _look_later(self, vm_id: str, after_s: float = _AGAIN_S) -> None:
        def look() -> None:
            try:
                self._look(vm_id)
            except NoSuchVm:
                return
            except Error as error:
                logger.info("vm=%s its mirrors cannot be looked at yet: %s", vm_id, error)
                self._look_later(vm_id)

        name = f"look at mirrors of vm={vm_id}"
        self._background.later(after_s, name, look, key=name)

    def _working(self, vm_id: str, within_s: float = _TURN_S) -> AbstractContextManager[None]:
        """Nobody else begins, ends or undoes a mirror of that VM. Raises: Busy."""
        return self._turns.turn(vm_id, within_s, lambda: Busy(f"mirrors of vm={vm_id}"))


def replicas(record: VmRecord) -> Iterator[VolumeIds]:
    """What is prepared for mirrors of its disks."""
    for drive in record.devices.drives:
        found = _replica_of(record, drive)
        if found is not None:
            yield found


def _replica_of(record: VmRecord, drive: Drive) -> VolumeIds | None:
    return volume_ids(record.metadata.device(**drive.identity).get("diskReplicate") or {})


def _disk(domain: ET.Element, name: str) -> ET.Element:
    disk = find(domain, "disk", lambda element: target_of(element) == name)
    if disk is None:
        raise ReplicaFailed(f"{name} is gone")
    return disk


def _is_on(disk: ET.Element, ids: VolumeIds) -> bool:
    """Does QEMU use this volume as leaf? Both may have the same name, on different domains."""
    links = running_chain(disk)
    parts = links[0].path.split("/") if links else [""]
    return parts[-1] == ids.volume_id and ids.sd_id in parts


def _require_ready(vm_id: str, dom: Any, disk: ET.Element, drive: Drive) -> None:
    """Equal counters also hold at the very beginning; the XML says when the mirror is complete."""
    with translated(vm_id, ReplicaFailed):
        info = dom.blockJobInfo(drive.name, 0)
    if not info:
        raise ReplicaFailed(f"there is no mirror of {drive.name}")
    ready = xml.attributes(disk.find("mirror")).get("ready") == "yes"
    if not ready or info.get("cur") != info.get("end"):
        raise ReplicationNotReady(f"the mirror of {drive.name} has {info.get('cur')} of {info.get('end')} bytes")


def _replica(prepared: PreparedDrive) -> ET.Element:
    disk = ET.Element("disk", device="disk")
    domxml_build.use_prepared(disk, prepared)
    domxml_build.keep_owner(disk)
    return disk


def _drive(record: VmRecord, ids: VolumeIds) -> Drive | None:
    for drive in record.devices.drives:
        if drive.ids is not None and (drive.ids.sd_id, drive.ids.image_id) == (ids.sd_id, ids.image_id):
            return drive
    return None


def _ids(spec: Mapping[str, Any]) -> VolumeIds:
    ids = volume_ids(dict(spec))
    if ids is None:
        raise ReplicaFailed("a volume is not named by its four ids")
    return ids


@handles(StartDiskReplication)
def start_disk_replication(replications: Replications, ask: StartDiskReplication) -> None:
    """need_extend: file storage grows by itself."""
    record = replications.devices.vms.running(ask.vm_id, "replicate a disk")
    source, target = _ids(ask.src_disk), _ids(ask.dst_disk)
    drive = _drive(record, source)
    if drive is None:
        raise ReplicaFailed(f"there is no disk on image {source.image_id} of domain {source.sd_id}")
    replications.start(record, drive, target)


@handles(FinishDiskReplication)
def finish_disk_replication(replications: Replications, ask: FinishDiskReplication) -> None:
    """Over to the destination, or back when both name the same volume. Done already is done."""
    record = replications.devices.vms.running(ask.vm_id, "finish a replication")
    source, target = _ids(ask.src_disk), _ids(ask.dst_disk)
    drive = _drive(record, source)
    there = _drive(record, target)
    if drive is None and there is not None and there.ids == target and _replica_of(record, there) is None:
        logger.info("vm=%s %s uses volume %s already", ask.vm_id, there.name, target.volume_id)
        return
    if drive is None:
        raise ReplicaFailed(f"there is no disk on image {source.image_id} of domain {source.sd_id}")
    replications.finish(record, drive, pivot=target != drive.ids)
