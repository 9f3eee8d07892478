# SPDX-License-Identifier: Apache-2.0
"""Network cards of a running VM: link, network, limits. And VM.updateDevice, which is for cards and consoles."""

import copy
import xml.etree.ElementTree as ET
from collections.abc import Mapping
from typing import Any

from vdsm_mp.api.errors_virt import DeviceNotFound, InvalidVmParameter, UpdateDeviceFailed
from vdsm_mp.api.verb import handles
from vdsm_mp.api.vm_devices import UpdateVmDevice
from vdsm_mp.common import log, xml
from vdsm_mp.common.errors import Error
from vdsm_mp.virt import graphics
from vdsm_mp.virt.devicehooks import DeviceHooks, custom_of
from vdsm_mp.virt.devices import Devices, alias_of, find
from vdsm_mp.virt.domxml_host import DUMMY_BRIDGE
from vdsm_mp.virt.mirrors import KEY, Mirrors
from vdsm_mp.virt.mirrors import wanted as wanted_mirrors
from vdsm_mp.virt.registry import short_status
from vdsm_mp.virt.vmhooks import VmHooks

logger = log.named(__name__)


@handles(UpdateVmDevice)
def update_device(devices: Devices, hooks: VmHooks, mirrors: Mirrors, ask: UpdateVmDevice) -> dict[str, str]:
    kind = ask.params.get("deviceType")
    if kind == "graphics":
        return graphics.set_ticket(devices, hooks, ask.vm_id, ask.params)
    if kind == "interface":
        return update_nic(devices, hooks.devices, mirrors, ask.vm_id, ask.params)
    raise InvalidVmParameter(f"deviceType {kind!r} cannot be updated")


def update_nic(
    devices: Devices, hooks: DeviceHooks, mirrors: Mirrors, vm_id: str, params: Mapping[str, Any]
) -> dict[str, str]:
    """What is absent stays as it is. Raises: DeviceNotFound, UpdateDeviceFailed, InvalidVmParameter."""
    record = devices.vms.running(vm_id, "update a network card")
    networks = wanted_mirrors(params.get(KEY))
    alias, wanted_mac = str(params.get("alias") or ""), str(params.get("macAddr") or "").lower()
    dom, domain = devices.live(vm_id)
    card = find(domain, "interface", lambda i: (bool(alias) and alias_of(i) == alias) or mac_of(i) == wanted_mac)
    if card is None:
        raise DeviceNotFound(alias or wanted_mac or "no alias given")
    identity, before = {"mac_address": mac_of(card)}, copy.deepcopy(card)
    known = data = record.metadata.device(**identity)
    custom = custom_of(params) or custom_of(data)
    _set_link(card, params)
    devices.dummynet.ensure(card, UpdateDeviceFailed)
    _set_limits(card, params.get("specParams"))
    wanted = hooks.before("update", record, card, custom, UpdateDeviceFailed)
    try:
        devices.update(vm_id, dom, wanted, UpdateDeviceFailed)
    except Error:
        hooks.after("update", record, wanted, custom, fine=False)
        raise
    hooks.after("update", record, wanted, custom, fine=True)
    if "network" in params:
        data = {**data, "network": str(params["network"] or "")}
    if isinstance(params.get("custom"), Mapping):
        data = {**data, "custom": dict(params["custom"])}
    mirrored = params.get(KEY) is not None
    if mirrored:
        data = {**data, KEY: list(networks)}
    devices.keeper.remember_device(vm_id, identity, data)
    now = devices.changed(vm_id)
    try:
        if mirrored:
            mirrors.ensure(vm_id, UpdateDeviceFailed)
    except Error:
        devices.update(vm_id, dom, before, UpdateDeviceFailed)
        devices.keeper.remember_device(vm_id, identity, known)
        devices.changed(vm_id)
        mirrors.changed()
        raise
    logger.info("vm=%s card %s updated", vm_id, mac_of(card))
    return short_status(now or record)


def mac_of(card: ET.Element) -> str:
    return (xml.attributes(card.find("mac")).get("address") or "").lower()


def _set_link(card: ET.Element, params: Mapping[str, Any]) -> None:
    """An empty network means: not connected to any. The card goes to the bridge that leads nowhere, its link down.

    Without linkActive, or with null, the link stays as it is.
    """
    network = params.get("network")
    nowhere = "network" in params and not network
    source = card.find("source")
    if "network" in params and card.get("type") == "bridge" and source is not None:
        source.set("bridge", str(network or DUMMY_BRIDGE))
    elif network:
        raise UpdateDeviceFailed("only a card on a bridge can change its network")
    active = params.get("linkActive")
    if nowhere or active is not None:
        _set_state(card, up=str(active).lower() == "true" and not nowhere)


def _set_state(card: ET.Element, *, up: bool) -> None:
    link = card.find("link")
    if link is None:
        link = ET.SubElement(card, "link")
    link.set("state", "up" if up else "down")


def _set_limits(card: ET.Element, limits: Any) -> None:
    """specParams {inbound, outbound: {average, peak, burst}}; an empty object lifts a limit."""
    if not isinstance(limits, Mapping) or not {"inbound", "outbound"} & set(limits):
        return
    bandwidth = card.find("bandwidth")
    if bandwidth is None:
        bandwidth = ET.SubElement(card, "bandwidth")
    for direction in ("inbound", "outbound"):
        values = limits.get(direction)
        if not isinstance(values, Mapping):
            continue
        for old in bandwidth.findall(direction):
            bandwidth.remove(old)
        if values:
            known = {key: str(values[key]) for key in ("average", "peak", "burst") if key in values}
            ET.SubElement(bandwidth, direction, known)
