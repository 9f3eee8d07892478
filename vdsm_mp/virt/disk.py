# SPDX-License-Identifier: Apache-2.0
"""CD-ROMs and floppies of a running VM: what is in them.

The wanted state is written into the metadata before QEMU is asked, so a worker that dies in between is followed by
one that knows which of two volumes to give back.
"""

import xml.etree.ElementTree as ET
from collections.abc import Mapping
from typing import Any

from vdsm_mp.api.errors_virt import CannotCreateVm, ChangeDiskFailed
from vdsm_mp.api.internal import PreparedDrive
from vdsm_mp.api.verb import handles
from vdsm_mp.api.vm_devices import ChangeVmCd, ChangeVmFloppy
from vdsm_mp.common import log
from vdsm_mp.common.errors import Error
from vdsm_mp.virt import domxml_build, domxml_parse
from vdsm_mp.virt.devicehooks import DeviceHooks
from vdsm_mp.virt.devices import Devices, find, target_of
from vdsm_mp.virt.records import Drive, VmRecord, VolumeIds
from vdsm_mp.virt.registry import short_status
from vdsm_mp.virt.vmhooks import VmHooks

logger = log.named(__name__)

_PREFIX = {"ide": "hd", "sata": "sd", "scsi": "sd", "usb": "sd", "virtio": "vd", "fdc": "fd"}


@handles(ChangeVmCd)
def change_cd(devices: Devices, hooks: VmHooks, ask: ChangeVmCd) -> dict[str, str]:
    return _change(devices, hooks.devices, ask.vm_id, ask.drive_spec, "cdrom")


@handles(ChangeVmFloppy)
def change_floppy(devices: Devices, hooks: VmHooks, ask: ChangeVmFloppy) -> dict[str, str]:
    return _change(devices, hooks.devices, ask.vm_id, ask.drive_spec, "floppy")


def _change(devices: Devices, hooks: DeviceHooks, vm_id: str, untrusted_spec: Any, kind: str) -> dict[str, str]:
    record = devices.vms.running(vm_id, f"change its {kind}")
    spec: Mapping[str, Any] = untrusted_spec if isinstance(untrusted_spec, Mapping) else {"path": untrusted_spec}
    drive = _drive(record, spec, kind)
    ids, path = domxml_parse.volume_ids(dict(spec)), str(spec.get("path") or "")
    if ids is None and not isinstance(spec.get("path", ""), str):
        raise ChangeDiskFailed("expected a path or the ids of a volume")
    prepared = devices.drives.prepare(ids) if ids is not None else None
    try:
        if prepared is not None and ids is not None:
            prepared = hooks.disk_prepared(record, ids, prepared, ChangeDiskFailed)
        _load(devices, record, drive, ids, prepared, path)
    except BaseException:
        if ids is not None:
            devices.drives.teardown(ids)
        raise
    if drive.ids is not None and drive.ids != ids:
        devices.drives.teardown(drive.ids)
    now = devices.changed(vm_id)
    logger.info("vm=%s %s now holds %s", vm_id, drive.name, (ids and ids.volume_id) or path or "nothing")
    return short_status(now or record)


def _drive(record: VmRecord, spec: Mapping[str, Any], kind: str) -> Drive:
    """The drive that is meant: by interface and index, else the first of its kind that is not made of files."""
    wanted = ""
    if "iface" in spec and str(spec.get("index", "")).isdigit() and int(spec["index"]) < 26:
        wanted = _PREFIX.get(str(spec["iface"]), "") + chr(ord("a") + int(spec["index"]))
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
    identity = {"devtype": "disk", "name": drive.name}
    before = {k: v for k, v in record.metadata.device(**identity).items() if k != "change"}
    others = {k: v for k, v in before.items() if k not in ("poolID", "domainID", "imageID", "volumeID")}
    after = {**others, **_named(ids)}
    change = {"state": "ejecting" if empty else "loading", **_named(ids), **({"path": path} if path else {})}
    devices.keeper.remember_device(vm_id, identity, {**before, "change": change})
    try:
        # Without force a guest that locked its drive could keep a medium for ever; an eject asks it politely.
        devices.update(vm_id, dom, disk, ChangeDiskFailed, force=not empty)
    except BaseException:
        devices.keeper.remember_device(vm_id, identity, before or None)
        raise
    devices.keeper.remember_device(vm_id, identity, after or None)


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
    if ids is None:
        return {}
    return {"poolID": ids.pool_id, "domainID": ids.sd_id, "imageID": ids.image_id, "volumeID": ids.volume_id}


def finish_change(devices: Devices, vm_id: str) -> None:
    """After a restart: a change that was under way is taken as done or undone, as the live XML has it."""
    record = devices.vms.get(vm_id)
    for drive in record.devices.drives if record is not None else ():
        if record is None or drive.device == "disk":
            continue
        identity = {"devtype": "disk", "name": drive.name}
        data = record.metadata.device(**identity)
        change = data.get("change")
        if not isinstance(change, Mapping):
            continue
        wanted, had = domxml_parse.volume_ids(dict(change)), domxml_parse.volume_ids(data)
        done = _holds(drive, wanted, str(change.get("path") or ""))
        rest = {k: v for k, v in data.items() if k not in ("change", "poolID", "domainID", "imageID", "volumeID")}
        kept = {**rest, **_named(wanted if done else had)}
        logger.info("vm=%s the change of %s was %s", vm_id, drive.name, "done" if done else "not done")
        devices.keeper.remember_device(vm_id, identity, kept or None)
        stale = had if done else wanted
        if stale is not None and stale != (wanted if done else had):
            devices.drives.owe(stale)
        try:
            devices.changed(vm_id)
        except Error as error:
            logger.info("vm=%s: %s", vm_id, error)


def _holds(drive: Drive, wanted: VolumeIds | None, path: str) -> bool:
    """A volume's file is named by it, in a folder named by its image."""
    if wanted is not None:
        return drive.path.split("/")[-2:] == [wanted.image_id, wanted.volume_id]
    return drive.path == path
