# SPDX-License-Identifier: Apache-2.0
"""Network cards of a running VM: plug and unplug."""

import xml.etree.ElementTree as ET
from collections.abc import Mapping
from typing import Any

from vdsm_mp.api.errors_virt import HotplugNicFailed, HotunplugNicFailed
from vdsm_mp.api.verb import handles
from vdsm_mp.api.vm_devices import HotplugVmNic, HotunplugVmNic
from vdsm_mp.common import log
from vdsm_mp.virt.devices import alias_of, find
from vdsm_mp.virt.hostdev_xml import pci_names
from vdsm_mp.virt.mirrors import KEY, Mirrors, wanted
from vdsm_mp.virt.nic import mac_of
from vdsm_mp.virt.plug import Plugger, wanted_device
from vdsm_mp.virt.registry import short_status

logger = log.named(__name__)


@handles(HotplugVmNic)
def hotplug_nic(plugger: Plugger, mirrors: Mirrors, ask: HotplugVmNic) -> dict[str, str]:
    record = plugger.to_plug(ask.vm_id, "plug a network card")
    card, metadata = wanted_device(ask.params.get("xml"), "interface")
    mac = mac_of(card)
    if not mac:
        raise HotplugNicFailed("the card has no MAC address")
    if any(nic.mac == mac for nic in record.devices.nics):
        raise HotplugNicFailed(f"a card {mac} is plugged already")
    plugger.devices.dummynet.ensure(card, HotplugNicFailed)
    data = metadata.device(mac_address=mac)
    mirrored = wanted(data.get(KEY))
    lent = plugger.devices.hostdevs.lent(ask.vm_id, card, HotplugNicFailed)
    with lent, plugger.remembered(ask.vm_id, {"mac_address": mac}, data):
        plugger.attach(ask.vm_id, card, HotplugNicFailed, data)
        now = plugger.devices.changed(ask.vm_id)
        if mirrored:
            _mirror(plugger, mirrors, ask.vm_id, mac)
    logger.info("vm=%s card %s plugged", ask.vm_id, mac)
    return short_status(now or record)


@handles(HotunplugVmNic)
def hotunplug_nic(plugger: Plugger, mirrors: Mirrors, ask: HotunplugVmNic) -> dict[str, str]:
    """A card that the guest does not release stays."""
    record = plugger.devices.vms.running(ask.vm_id, "unplug a network card")
    alias, mac = _named(ask.params)
    _, domain = plugger.devices.live(ask.vm_id)
    card = find(
        domain, "interface", lambda i: (bool(mac) and mac_of(i) == mac) or (bool(alias) and alias_of(i) == alias)
    )
    if card is None:
        raise HotunplugNicFailed(f"there is no card {mac or alias}")
    mac = mac_of(card)
    with plugger.devices.hostdevs.changing(ask.vm_id):
        plugger.detach(ask.vm_id, card, HotunplugNicFailed, record.metadata.device(mac_address=mac))
        plugger.devices.hostdevs.give_back(ask.vm_id, pci_names(card))
    now = plugger.forget(ask.vm_id, {"mac_address": mac})
    mirrors.changed()
    return short_status(now or record)


def _mirror(plugger: Plugger, mirrors: Mirrors, vm_id: str, mac: str) -> None:
    """Raises: HotplugNicFailed; then the card has been taken out again, if the guest let it go."""
    try:
        mirrors.ensure(vm_id, HotplugNicFailed)
    except HotplugNicFailed as failure:
        _, domain = plugger.devices.live(vm_id)
        card = find(domain, "interface", lambda i: mac_of(i) == mac)
        try:
            if card is not None:
                plugger.detach(vm_id, card, HotplugNicFailed)
        except HotplugNicFailed as error:
            raise HotplugNicFailed(f"{failure}; and {error}") from failure
        raise


def _named(params: Mapping[str, Any]) -> tuple[str, str]:
    """(alias, MAC) of the card that is meant, from XML or from the older `nic` object."""
    old: Any = params.get("nic")
    if isinstance(old, Mapping):
        return str(old.get("alias") or ""), str(old.get("macAddr") or "").lower()
    card: ET.Element = wanted_device(params.get("xml"), "interface")[0]
    return alias_of(card), mac_of(card)
