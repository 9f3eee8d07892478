# SPDX-License-Identifier: Apache-2.0
"""The chain of volumes that QEMU has open, read from the live XML, and what our metadata say of it.

A volume is named by the last part of its path, on every storage. The live XML is right about what QEMU uses; the
metadata follow it, after a snapshot and after a merge, and after a restart in the middle of either.
"""

import xml.etree.ElementTree as ET

import msgspec
from msgspec.structs import replace

from vdsm_mp.api.internal import PreparedDrive
from vdsm_mp.common.digits import whole
from vdsm_mp.virt.devices import Devices, find, target_of
from vdsm_mp.virt.domxml_parse import source_path
from vdsm_mp.virt.records import Drive, VolumeIds


class Link(msgspec.Struct, frozen=True):
    """One volume of the running chain. index: libvirt's, for `vda[3]`; None when it tells none."""

    volume_id: str
    path: str
    index: int | None


def running_chain(disk: ET.Element) -> list[Link]:
    """Leaf first."""
    found: list[Link] = []
    element: ET.Element | None = disk
    while element is not None:
        source = element.find("source")
        path = source_path(source)
        if path:
            number = (source.get("index") if source is not None else None) or element.get("index")
            found.append(Link(path.rpartition("/")[2], path, whole(number)))
        element = element.find("backingStore")
    return found


def follow(devices: Devices, vm_id: str, drive: Drive, prepared: PreparedDrive | None = None) -> None:
    """Make the metadata of a drive say what QEMU uses now. prepared: when storage has just told the chain."""
    _, domain = devices.live(vm_id)
    disk = find(domain, "disk", lambda element: target_of(element) == drive.name)
    if disk is None or drive.ids is None:
        return
    links = running_chain(disk)
    if not links:
        return
    record = devices.vms.get(vm_id)
    data = dict(record.metadata.device(**drive.identity)) if record is not None else {}
    ids = replace(drive.ids, volume_id=links[0].volume_id)
    data |= {"volumeID": ids.volume_id, "volumeChain": _nodes(ids, links, prepared)}
    devices.keeper.remember_device(vm_id, drive.identity, data)
    devices.changed(vm_id)


def _nodes(ids: VolumeIds, links: list[Link], prepared: PreparedDrive | None) -> list[dict[str, str | int]]:
    """The chain as the metadata carry it, base first, with the leases that storage told."""
    leases = {link.volume_id: link for link in (prepared.chain if prepared is not None else ())}
    nodes: list[dict[str, str | int]] = []
    for link in reversed(links):
        node: dict[str, str | int] = {
            "domainID": ids.sd_id,
            "imageID": ids.image_id,
            "volumeID": link.volume_id,
            "path": link.path,
        }
        known = leases.get(link.volume_id)
        if known is not None and known.lease_path is not None and known.lease_offset is not None:
            node |= {"leasePath": known.lease_path, "leaseOffset": known.lease_offset}
        nodes.append(node)
    return nodes
