# SPDX-License-Identifier: Apache-2.0
"""CD-ROMs and floppies of a running VM: what is in them.

The wanted state is written into the metadata before QEMU is asked, so a worker that dies in between is followed by
one that knows which of two volumes to give back.
"""

import xml.etree.ElementTree as ET
from collections.abc import Callable, Mapping
from typing import Any

from vdsm_mp.api.errors import Busy
from vdsm_mp.api.errors_virt import CannotCreateVm, ChangeDiskFailed, VmNotResponding, VmUndecided
from vdsm_mp.api.internal import PreparedDrive
from vdsm_mp.api.ports import Background
from vdsm_mp.api.verb import handles
from vdsm_mp.api.vm_devices import ChangeVmCd, ChangeVmFloppy
from vdsm_mp.common import log
from vdsm_mp.common.digits import whole
from vdsm_mp.common.errors import Error
from vdsm_mp.common.oneatatime import OneAtATime
from vdsm_mp.virt import domxml_build, domxml_parse
from vdsm_mp.virt.devicehooks import DeviceHooks
from vdsm_mp.virt.devices import Devices, find, target_of
from vdsm_mp.virt.patience import UNDECIDED, decided
from vdsm_mp.virt.records import VOLUME_KEYS, Drive, VmRecord, VolumeIds
from vdsm_mp.virt.registry import short_status

logger = log.named(__name__)

#: A look takes no longer, unless QEMU hangs.
_TURN_S = 10.0
_AGAIN_S = 1.0

_PREFIX = {"ide": "hd", "sata": "sd", "scsi": "sd", "usb": "sd", "virtio": "vd", "fdc": "fd"}


class Changes:
    """At most one verb or one look at a time works on a VM."""

    def __init__(self, devices: Devices, hooks: DeviceHooks, background: Background) -> None:
        self._devices = devices
        self._hooks = hooks
        self._background = background
        self._working = OneAtATime()

    def change(self, vm_id: str, untrusted_spec: Any, kind: str) -> dict[str, str]:
        """Raises: ChangeDiskFailed, what storage raised; then the medium of before is in it, and nothing else stays.

        VmUndecided: it may be changed yet; what is given back is given back when that is known.
        """
        devices = self._devices
        devices.vms.running(vm_id, f"change its {kind}")
        spec: Mapping[str, Any] = untrusted_spec if isinstance(untrusted_spec, Mapping) else {"path": untrusted_spec}
        with self._working.turn(vm_id, _TURN_S, lambda: VmNotResponding("what is in its drives is being looked at")):
            # Of somebody who died: libvirt may be at it still.
            self._settle(vm_id, lambda vm_id: decided(lambda: devices.keeper.take_turn(vm_id)))
            record = devices.vms.running(vm_id, f"change its {kind}")
            drive = _drive(record, spec, kind)
            ids, path = domxml_parse.volume_ids(dict(spec)), str(spec.get("path") or "")
            if ids is None and not isinstance(spec.get("path", ""), str):
                raise ChangeDiskFailed("expected a path or the ids of a volume")
            prepared = devices.drives.prepare(ids) if ids is not None else None
            try:
                if prepared is not None and ids is not None:
                    prepared = self._hooks.disk_prepared(record, ids, prepared, ChangeDiskFailed)
                _load(devices, record, drive, ids, prepared, path)
            except VmUndecided:
                self._look_later(vm_id)
                raise
            except BaseException:
                if ids is not None and ids != drive.ids:
                    devices.drives.teardown(ids)
                raise
            if drive.ids is not None and drive.ids != ids:
                devices.drives.teardown(drive.ids)
        now = devices.changed(vm_id)
        logger.info("vm=%s %s now holds %s", vm_id, drive.name, (ids and ids.volume_id) or path or "nothing")
        return short_status(now or record)

    def look(self, vm_id: str) -> None:
        """After a restart of us or of libvirtd. Returns at once: QEMU may hang, and others wait."""
        record = self._devices.vms.get(vm_id)
        if record is not None and any(_under_way(record, drive) for drive in record.devices.drives):
            self._look_later(vm_id, 0.0)

    def _look_later(self, vm_id: str, after_s: float = _AGAIN_S) -> None:
        name = f"look at media of vm={vm_id}"
        self._background.later(after_s, name, lambda: self._look(vm_id), key=name)

    def _look(self, vm_id: str) -> None:
        try:
            with self._working.turn(vm_id, 0.0, lambda: Busy("what is in its drives")):
                self._settle(vm_id, self._devices.keeper.take_turn)
        except Busy:
            return  # who works on it settles it
        except VmNotResponding as error:
            logger.info("vm=%s what is in its drives is not known yet: %s", vm_id, error)
            self._look_later(vm_id)
        except Error as error:
            logger.info("vm=%s what is in its drives cannot be looked at: %s", vm_id, error)

    def _settle(self, vm_id: str, come_up: Callable[[str], None]) -> None:
        """A change that nobody leads any more is taken as done or undone, as the live XML has it. The caller works on
        this VM. come_up: of the keeper, how its turn is had.

        Raises: NoSuchVm, LibvirtUnavailable, VmNotResponding while libvirt is at it still.
        """
        devices = self._devices
        record = devices.vms.find(vm_id)
        if not any(_under_way(record, drive) for drive in record.devices.drives):
            return
        come_up(vm_id)
        _, domain = devices.live(vm_id)
        for disk in domain.iterfind("devices/disk"):
            drive = domxml_parse.drive(disk, record.metadata)
            change = _under_way(record, drive)
            if change is None:
                continue
            data = record.metadata.device(**drive.identity)
            wanted, had = domxml_parse.volume_ids(dict(change)), domxml_parse.volume_ids(data)
            done = _holds(drive, wanted, str(change.get("path") or ""))
            rest = {k: v for k, v in data.items() if k not in ("change", *VOLUME_KEYS)}
            kept = {**rest, **_named(wanted if done else had)}
            logger.info("vm=%s the change of %s was %s", vm_id, drive.name, "done" if done else "not done")
            devices.keeper.remember_device(vm_id, drive.identity, kept or None)
            stale = had if done else wanted
            if stale is not None and stale != (wanted if done else had):
                devices.drives.owe(stale)
        devices.changed(vm_id)


@handles(ChangeVmCd)
def change_cd(changes: Changes, ask: ChangeVmCd) -> dict[str, str]:
    return changes.change(ask.vm_id, ask.drive_spec, "cdrom")


@handles(ChangeVmFloppy)
def change_floppy(changes: Changes, ask: ChangeVmFloppy) -> dict[str, str]:
    return changes.change(ask.vm_id, ask.drive_spec, "floppy")


def _drive(record: VmRecord, spec: Mapping[str, Any], kind: str) -> Drive:
    """The drive that is meant: by interface and index, else the first of its kind that is not made of files."""
    wanted = ""
    if "iface" in spec and (number := whole(str(spec.get("index", "")), most=25)) is not None:
        wanted = _PREFIX.get(str(spec["iface"]), "") + chr(ord("a") + number)
    for drive in sorted(record.devices.drives, key=lambda drive: drive.payload):
        if drive.device == kind and wanted in ("", drive.name):
            return drive
    raise ChangeDiskFailed(f"there is no {kind} drive{f' {wanted}' if wanted else ''}")


def _load(
    devices: Devices,
    record: VmRecord,
    drive: Drive,
    ids: VolumeIds | None,
    prepared: PreparedDrive | None,
    path: str,
) -> None:
    vm_id = record.vm_id
    dom, domain = devices.live(vm_id)
    disk = find(domain, "disk", lambda element: target_of(element) == drive.name)
    if disk is None:
        raise ChangeDiskFailed(f"{drive.name} is gone")
    empty = prepared is None and not path
    _put_into(disk, prepared, path)
    if prepared is None:
        try:
            domxml_build.check_disk(disk, Drive(name=drive.name, device=drive.device), devices.policy)
        except CannotCreateVm as error:
            raise ChangeDiskFailed(error.reason) from error
    identity, wanted = drive.identity, domxml_parse.source_path(disk.find("source"))
    before = {k: v for k, v in record.metadata.device(**identity).items() if k != "change"}
    others = {k: v for k, v in before.items() if k not in VOLUME_KEYS}
    after = {**others, **_named(ids)}
    change = {"state": "ejecting" if empty else "loading", **_named(ids), **({"path": path} if path else {})}
    devices.keeper.remember_device(vm_id, identity, {**before, "change": change})
    try:
        # Without force a guest that locked its drive could keep a medium for ever; an eject asks it politely.
        try:
            devices.update(vm_id, dom, disk, ChangeDiskFailed, force=not empty)
        except UNDECIDED as error:
            # Before libvirt is done with it neither of both volumes may be taken away.
            if not decided(lambda: _is_in(devices, vm_id, drive, wanted)):
                raise
            logger.warning("vm=%s %s is changed, though libvirt said: %s", vm_id, drive.name, error)
    except VmUndecided:
        raise
    except BaseException:
        devices.keeper.remember_device(vm_id, identity, before or None)
        raise
    devices.keeper.remember_device(vm_id, identity, after or None)


def _is_in(devices: Devices, vm_id: str, drive: Drive, path: str) -> bool:
    """Is that in it, once libvirt is done with what it was asked? Raises: as `Keeper.take_turn`."""
    devices.keeper.take_turn(vm_id)
    _, domain = devices.live(vm_id)
    disk = find(domain, "disk", lambda element: target_of(element) == drive.name)
    return disk is not None and domxml_parse.source_path(disk.find("source")) == path


def _put_into(disk: ET.Element, prepared: PreparedDrive | None, path: str) -> None:
    for tag in ("source", "backingStore"):
        for old in disk.findall(tag):
            disk.remove(old)
    if prepared is not None:
        domxml_build.use_prepared(disk, prepared)
    elif path:
        disk.set("type", "file")
        ET.SubElement(disk, "source", file=path)
    else:
        disk.set("type", "file")
    domxml_build.keep_owner(disk)


def _named(ids: VolumeIds | None) -> dict[str, str]:
    return ids.named() if ids is not None else {}


def _under_way(record: VmRecord, drive: Drive) -> Mapping[str, Any] | None:
    """What is noted of a change of its medium."""
    change = record.metadata.device(**drive.identity).get("change") if drive.device != "disk" else None
    return change if isinstance(change, Mapping) else None


def _holds(drive: Drive, wanted: VolumeIds | None, path: str) -> bool:
    """A volume's file is named by it, in a folder named by its image."""
    if wanted is not None:
        return drive.path.split("/")[-2:] == [wanted.image_id, wanted.volume_id]
    return drive.path == path
