# SPDX-License-Identifier: Apache-2.0
"""Devices that stand in a VM's metadata and are not in the VM: a worker died around their plug or unplug.

Their metadata are written before they come and forgotten after they are gone, so the death leaves an entry too many,
never one too few. It is dropped here, and what storage holds for it is given back.
"""

import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from vdsm_mp.common import log
from vdsm_mp.virt import records
from vdsm_mp.virt.devices import Devices, target_of
from vdsm_mp.virt.domxml_parse import volume_ids
from vdsm_mp.virt.metadata import Metadata
from vdsm_mp.virt.nic import mac_of
from vdsm_mp.virt.patience import Again

logger = log.named(__name__)

IsComing = Callable[[str, Mapping[str, str]], bool]
#: After a restart: what was under way when we died has begun in libvirt by then.
_SETTLED_S = 5.0
_NO_DEVICES = ET.Element("domain")


def found(metadata: Metadata, domain: ET.Element) -> Iterator[tuple[dict[str, str], Mapping[str, Any]]]:
    """(identity, data) of every disk and card that the live XML does not have."""
    disks = {target_of(disk) for disk in domain.iterfind("devices/disk")}
    cards = {mac_of(card) for card in domain.iterfind("devices/interface")}
    for attributes, data in metadata.all_devices():
        name, mac = attributes.get("name", ""), attributes.get("mac_address", "").lower()
        if attributes.get("devtype") == "disk" and name and name not in disks:
            yield {"devtype": "disk", "name": name}, data
        elif mac and mac not in cards:
            yield {"mac_address": attributes["mac_address"]}, data


def came(known: records.Devices, domain: ET.Element) -> bool:
    """Has the live XML a disk or a card that is not known yet?"""
    disks, cards = {drive.name for drive in known.drives}, {card.mac for card in known.nics}
    return any(target_of(disk) not in disks for disk in domain.iterfind("devices/disk")) or any(
        mac_of(card) not in cards for card in domain.iterfind("devices/interface")
    )


class Leftovers:
    """is_coming(vm_id, identity): somebody who lives is just plugging it."""

    def __init__(self, devices: Devices, again: Again, is_coming: IsComing) -> None:
        self._devices = devices
        self._again = again
        self._is_coming = is_coming

    def look(self, vm_id: str) -> None:
        """After a restart of us or of libvirtd. Returns at once: what was under way then has begun in libvirt soon."""
        self._again.start(f"leftovers of {vm_id}", lambda: self.clear(vm_id), _SETTLED_S)

    def clear(self, vm_id: str) -> None:
        """A libvirt that is away has stock taken again when it is back, and this with it.

        Raises: VmNotResponding while libvirt is at something with it; NoSuchVm, LibvirtUnavailable.
        """
        devices, record = self._devices, self._devices.vms.get(vm_id)
        if record is None or record.external:
            return
        domain = devices.live(vm_id)[1]
        if list(found(record.metadata, domain)):
            devices.keeper.take_turn(vm_id)
            self._drop(vm_id)
            domain = devices.live(vm_id)[1]
        if came(record.devices, domain):
            devices.changed(vm_id)

    def _drop(self, vm_id: str) -> None:
        devices = self._devices
        record = devices.vms.find(vm_id)
        coming = [one for one, _ in found(record.metadata, _NO_DEVICES) if self._is_coming(vm_id, one)]
        # Read last: what was coming, and is not any more, is there.
        for identity, data in found(record.metadata, devices.live(vm_id)[1]):
            if identity in coming:
                continue
            devices.keeper.remember_device(vm_id, identity, None)
            ids = volume_ids(dict(data))
            if ids is not None and record.drive(ids) is None:
                devices.transients.remove(vm_id, ids)
                devices.drives.teardown(ids)
            logger.info("vm=%s %s was never plugged, or is gone: its metadata are dropped", vm_id, identity)
