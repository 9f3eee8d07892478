# SPDX-License-Identifier: Apache-2.0
"""Live storage migration: a disk is mirrored to another volume while the guest runs, then the VM goes over to it.

The replica is written into the disk's metadata before QEMU is asked, so that after a death of ours it is known what
was prepared. The mirror ends when the engine says so: over to the replica, or back to where it was.
"""

import xml.etree.ElementTree as ET
from collections.abc import Mapping
from typing import Any

import libvirt

from vdsm_mp.api.errors_virt import AbortReplicationFailed, ReplicaFailed, ReplicationNotReady
from vdsm_mp.api.internal import PreparedDrive
from vdsm_mp.api.verb import handles
from vdsm_mp.api.vm_blocks import FinishDiskReplication, StartDiskReplication
from vdsm_mp.common import log, xml
from vdsm_mp.virt import domxml_build
from vdsm_mp.virt.chain import follow
from vdsm_mp.virt.connection import translated
from vdsm_mp.virt.devices import Devices, find, target_of
from vdsm_mp.virt.domxml_parse import volume_ids
from vdsm_mp.virt.records import Drive, VmRecord, VolumeIds

logger = log.named(__name__)

_FLAGS = (
    libvirt.VIR_DOMAIN_BLOCK_COPY_SHALLOW
    | libvirt.VIR_DOMAIN_BLOCK_COPY_REUSE_EXT
    | libvirt.VIR_DOMAIN_BLOCK_COPY_TRANSIENT_JOB
)


@handles(StartDiskReplication)
def start_disk_replication(devices: Devices, ask: StartDiskReplication) -> None:
    """Nothing stays prepared or written down when it fails. need_extend: file storage grows by itself."""
    record = devices.vms.running(ask.vm_id, "replicate a disk")
    drive, target = _drive(record, ask.src_disk), _ids(ask.dst_disk)
    identity = {"devtype": "disk", "name": drive.name}
    before = record.metadata.device(**identity)
    if "diskReplicate" in before:
        raise ReplicaFailed(f"{drive.name} is being replicated already")
    prepared = devices.drives.prepare(target)
    try:
        devices.keeper.remember_device(ask.vm_id, identity, {**before, "diskReplicate": _named(target)})
        dom = devices.connection.domain(ask.vm_id)
        with translated(ask.vm_id, ReplicaFailed):
            dom.blockCopy(drive.name, xml.dump(_replica(prepared)), {}, _FLAGS)
    except BaseException:
        devices.keeper.remember_device(ask.vm_id, identity, before)
        devices.drives.teardown(target)
        raise
    logger.info("vm=%s %s is mirrored to %s", ask.vm_id, drive.name, prepared.path)


@handles(FinishDiskReplication)
def finish_disk_replication(devices: Devices, ask: FinishDiskReplication) -> None:
    """Over to the destination, or back when both name the same volume. Raises: ReplicationNotReady: ask again later."""
    record = devices.vms.running(ask.vm_id, "finish a replication")
    drive, target = _drive(record, ask.src_disk), _ids(ask.dst_disk)
    source = drive.ids
    assert source is not None
    identity = {"devtype": "disk", "name": drive.name}
    data = dict(record.metadata.device(**identity))
    replica = volume_ids(data.get("diskReplicate") or {})
    if replica is None:
        raise ReplicaFailed(f"{drive.name} is not being replicated")
    pivot = target != source
    dom, domain = devices.live(ask.vm_id)
    if pivot:
        _require_ready(ask.vm_id, dom, domain, drive)
        prepared = devices.drives.prepare(replica)
    with translated(ask.vm_id, AbortReplicationFailed):
        dom.blockJobAbort(drive.name, libvirt.VIR_DOMAIN_BLOCK_JOB_ABORT_PIVOT if pivot else 0)
    data.pop("diskReplicate", None)
    devices.keeper.remember_device(ask.vm_id, identity, data | (_named(replica) if pivot else {}))
    devices.changed(ask.vm_id)
    now = devices.vms.find(ask.vm_id)
    if pivot:
        moved = next(one for one in now.devices.drives if one.name == drive.name)
        follow(devices, ask.vm_id, moved, prepared)
    devices.drives.teardown(source if pivot else replica)
    logger.info("vm=%s %s %s", ask.vm_id, drive.name, "uses its replica now" if pivot else "is not replicated any more")


def _require_ready(vm_id: str, dom: Any, domain: ET.Element, drive: Drive) -> None:
    """Equal counters also hold at the very beginning; the XML says when the mirror is complete."""
    with translated(vm_id, ReplicaFailed):
        info = dom.blockJobInfo(drive.name, 0)
    if not info:
        raise ReplicaFailed(f"there is no mirror of {drive.name}")
    disk = find(domain, "disk", lambda element: target_of(element) == drive.name)
    ready = disk is not None and xml.attributes(disk.find("mirror")).get("ready") == "yes"
    if not ready or info.get("cur") != info.get("end"):
        raise ReplicationNotReady(f"the mirror of {drive.name} has {info.get('cur')} of {info.get('end')} bytes")


def _replica(prepared: PreparedDrive) -> ET.Element:
    disk = ET.Element("disk", device="disk")
    domxml_build.use_prepared(disk, prepared)
    domxml_build.keep_owner(disk)
    return disk


def _drive(record: VmRecord, spec: Mapping[str, Any]) -> Drive:
    ids = _ids(spec)
    for drive in record.devices.drives:
        if drive.ids is not None and (drive.ids.sd_id, drive.ids.image_id) == (ids.sd_id, ids.image_id):
            return drive
    raise ReplicaFailed(f"there is no disk on image {ids.image_id} of domain {ids.sd_id}")


def _ids(spec: Mapping[str, Any]) -> VolumeIds:
    ids = volume_ids(dict(spec))
    if ids is None:
        raise ReplicaFailed("a volume is not named by its four ids")
    return ids


def _named(ids: VolumeIds) -> dict[str, str]:
    return {"poolID": ids.pool_id, "domainID": ids.sd_id, "imageID": ids.image_id, "volumeID": ids.volume_id}
