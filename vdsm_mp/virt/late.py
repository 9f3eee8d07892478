# SPDX-License-Identifier: Apache-2.0
"""Devices that go when nobody waits for them: the guest let go too late for the call, or ejected one by itself.

What belonged to such a device is given back as after an unplug. Its data go first and the device from the record last:
until then its image counts as plugged, so nobody can plug it anew in between.
"""

from vdsm_mp.common import log
from vdsm_mp.virt.devices import Devices, alias_of
from vdsm_mp.virt.mirrors import Mirrors

logger = log.named(__name__)


def gone(devices: Devices, mirrors: Mirrors, vm_id: str, alias: str) -> None:
    """Before the record is read anew. Raises: what libvirt's absence raises; stock and the VM's end do the rest."""
    record = devices.vms.get(vm_id)
    if record is None or record.external or not alias:
        return
    drives = [drive for drive in record.devices.drives if drive.alias == alias]
    cards = [card for card in record.devices.nics if card.alias == alias]
    _, domain = devices.live(vm_id)
    if not (drives or cards) or any(alias_of(device) == alias for device in domain.iterfind("devices/*")):
        return
    logger.info("vm=%s %s went when nobody waited for it", vm_id, alias)
    for drive in drives:
        devices.keeper.remember_device(vm_id, drive.identity, None)
        if drive.ids is not None:
            devices.transients.remove(vm_id, drive.ids)
            devices.drives.teardown(drive.ids)
    for card in cards:
        devices.keeper.remember_device(vm_id, {"mac_address": card.mac}, None)
    if cards:
        mirrors.changed()
