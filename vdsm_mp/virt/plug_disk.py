# SPDX-License-Identifier: Apache-2.0
"""Disks of a running VM: plug, unplug, grow."""

import string
import xml.etree.ElementTree as ET
from collections.abc import Mapping
from itertools import product
from typing import Any

import libvirt
from msgspec.structs import replace

from vdsm_mp.api.errors_virt import (
    BadDiskSize,
    CannotCreateVm,
    DiskNotFound,
    HotplugDiskFailed,
    HotunplugDiskFailed,
    VmUndecided,
)
from vdsm_mp.api.verb import handles
from vdsm_mp.api.vm_blocks import ExtendDiskSize
from vdsm_mp.api.vm_devices import HotplugVmDisk, HotunplugVmDisk
from vdsm_mp.common import log
from vdsm_mp.common.digits import whole
from vdsm_mp.virt import domxml_build, domxml_parse
from vdsm_mp.virt.connection import translated
from vdsm_mp.virt.devices import Devices, alias_of, find, target_of
from vdsm_mp.virt.metadata import Metadata
from vdsm_mp.virt.plug import Plugger, wanted_device
from vdsm_mp.virt.records import Drive, VmRecord
from vdsm_mp.virt.registry import short_status
from vdsm_mp.virt.transient import uncached

logger = log.named(__name__)

_LETTERS = {"virtio": "vd", "ide": "hd", "fdc": "fd"}


@handles(HotplugVmDisk)
def hotplug_disk(plugger: Plugger, ask: HotplugVmDisk) -> dict[str, str]:
    """Nothing stays prepared when it fails; where that is not known yet, for no longer than it is not."""
    devices = plugger.devices
    record = plugger.to_plug(ask.vm_id, "plug a disk")
    disk, metadata = wanted_device(ask.params.get("xml"), "disk")
    drive = domxml_parse.drive(disk, metadata)
    data = _data_of(metadata, drive)
    ids, guid = domxml_parse.volume_ids(data), str(data.get("GUID") or "")
    drive = replace(drive, ids=ids, guid=guid, transient=data.get("shared") == "transient")
    if drive.ids is not None and record.drive(drive.ids) is not None:
        raise HotplugDiskFailed(f"image {drive.ids.image_id} is plugged already")
    try:
        domxml_build.check_disk(disk, drive, devices.policy)
    except CannotCreateVm as error:
        raise HotplugDiskFailed(error.reason) from error
    name = _give_target(disk, record)
    prepared = devices.drives.prepare(drive.ids) if drive.ids is not None else None
    try:
        if prepared is not None and drive.ids is not None:
            prepared = plugger.hooks.disk_prepared(record, drive.ids, prepared, HotplugDiskFailed)
            if drive.transient:
                prepared = devices.transients.over(ask.vm_id, drive.ids, prepared, HotplugDiskFailed)
                uncached(disk)
            domxml_build.use_prepared(disk, prepared)
        domxml_build.keep_owner(disk)
        with plugger.remembered(ask.vm_id, {"devtype": "disk", "name": name}, data):
            plugger.attach(ask.vm_id, disk, HotplugDiskFailed, data)
    except VmUndecided:
        raise
    except BaseException:
        if drive.ids is not None:
            devices.transients.remove(ask.vm_id, drive.ids)
            devices.drives.teardown(drive.ids)
        raise
    now = devices.changed(ask.vm_id)
    logger.info("vm=%s disk %s plugged", ask.vm_id, name)
    return short_status(now or record)


@handles(HotunplugVmDisk)
def hotunplug_disk(plugger: Plugger, ask: HotunplugVmDisk) -> dict[str, str]:
    """A disk that the guest does not release stays, with all that belongs to it."""
    devices = plugger.devices
    record = devices.vms.running(ask.vm_id, "unplug a disk")
    drive = _meant(record, ask.params)
    _, domain = devices.live(ask.vm_id)
    disk = find(domain, "disk", lambda element: target_of(element) == drive.name)
    if disk is None:
        raise HotunplugDiskFailed(f"{drive.name} is not there")
    plugger.detach(ask.vm_id, disk, HotunplugDiskFailed, record.metadata.device(**drive.identity))
    now = plugger.forget(ask.vm_id, drive.identity)
    if drive.ids is not None:
        devices.transients.remove(ask.vm_id, drive.ids)
        devices.drives.teardown(drive.ids)
    return short_status(now or record)


@handles(ExtendDiskSize)
def extend_disk_size(devices: Devices, ask: ExtendDiskSize) -> str:
    """Tell QEMU that a disk is larger now; the guest sees it at once. Returns the size it has, in bytes as text.

    QEMU alone can grow a qcow2 file that it has open, so storage reads from the file what its metadata are to say.
    Raises what storage raised, too: the disk has grown then, and asking again is harmless.
    """
    record = devices.vms.running(ask.vm_id, "extend a disk")
    spec = ask.drive_specs[0] if isinstance(ask.drive_specs, list) and ask.drive_specs else ask.drive_specs
    if not (size := whole(ask.new_size)):
        raise BadDiskSize(f"{ask.new_size!r} is no size in bytes")
    drive = _by_spec(record, spec if isinstance(spec, Mapping) else {"path": spec})
    dom = devices.connection.domain(ask.vm_id)
    with translated(ask.vm_id, BadDiskSize):
        if dom.blockInfo(drive.name)[0] > size:
            raise BadDiskSize("a disk of a running virtual machine cannot shrink")
        dom.blockResize(drive.name, size, libvirt.VIR_DOMAIN_BLOCK_RESIZE_BYTES)
        now = dom.blockInfo(drive.name)[0]
    if drive.ids is not None:
        # Preparing corrects a capacity that is behind; a merge under way has made its leaf illegal.
        devices.drives.prepare(drive.ids, allow_illegal=True)
    logger.info("vm=%s disk %s has %d bytes now", ask.vm_id, drive.name, now)
    return str(now)


def _meant(record: VmRecord, params: Mapping[str, Any]) -> Drive:
    """The drive named by XML or by ids.

    Engines describe a disk that goes as they described it when it came, with a target that is a guess: what counts is
    the alias, then the volume, and the target only where there is neither.
    """
    if "xml" not in params:
        spec = params.get("drive")
        return _by_spec(record, spec if isinstance(spec, Mapping) else params)
    disk, metadata = wanted_device(params["xml"], "disk")
    wanted = domxml_parse.drive(disk, metadata)
    data, alias = _data_of(metadata, wanted), alias_of(disk)
    ids, guid = domxml_parse.volume_ids(data), str(data.get("GUID") or "")
    drives = record.devices.drives
    by_alias = [drive for drive in drives if alias and drive.alias == alias]
    by_volume = [
        drive
        for drive in drives
        if (ids is not None and drive.ids is not None and drive.ids.image_id == ids.image_id)
        or (guid and drive.guid == guid)
    ]
    by_name = [] if alias or ids is not None or guid else [drive for drive in drives if drive.name == wanted.name]
    for drive in (*by_alias, *by_volume, *by_name):
        return drive
    raise DiskNotFound(alias or (ids.image_id if ids is not None else "") or wanted.name or "the one described by xml")


def _by_spec(record: VmRecord, spec: Mapping[str, Any]) -> Drive:
    ids, path = domxml_parse.volume_ids(dict(spec)), str(spec.get("path") or spec.get("GUID") or "")
    for drive in record.devices.drives:
        if ids is not None and drive.ids is not None and drive.ids.image_id == ids.image_id:
            return drive
        if path and path in (drive.path, drive.guid):
            return drive
    raise DiskNotFound(ids.image_id if ids is not None else path or "no volume named")


def _give_target(disk: ET.Element, record: VmRecord) -> str:
    """The target dev. What the engine says is a guess, the first of the bus; where that is taken, the next free one."""
    target = disk.find("target")
    if target is None:
        target = ET.SubElement(disk, "target", bus="virtio")
    taken = {drive.name for drive in record.devices.drives}
    if not target.get("dev") or target.get("dev") in taken:
        prefix = _LETTERS.get(target.get("bus", ""), "sd")
        ends = (*string.ascii_lowercase, *(one + two for one, two in product(string.ascii_lowercase, repeat=2)))
        name = next((prefix + end for end in ends if prefix + end not in taken), "")
        if not name:
            raise HotplugDiskFailed("no free place on the bus")
        target.set("dev", name)
    return target.get("dev", "")


def _data_of(metadata: Metadata, drive: Drive) -> dict[str, Any]:
    """What the engine says of the disk in its metadata, whatever name it gave it."""
    return metadata.device(devtype="disk", name=drive.name) or metadata.device(devtype="disk")
