# SPDX-License-Identifier: Apache-2.0
"""Memory of a running VM: DIMMs and the balloon."""

import xml.etree.ElementTree as ET
from collections.abc import Mapping
from typing import Any

from msgspec.structs import replace

from vdsm_mp.api.errors_virt import BalloonFailed, HotplugMemoryFailed, HotunplugMemoryFailed
from vdsm_mp.api.verb import DONE, Status, handles
from vdsm_mp.api.vm_tuning import HotplugVmMemory, HotunplugVmMemory, SetVmBalloonTarget
from vdsm_mp.common import log, xml
from vdsm_mp.virt.connection import translated
from vdsm_mp.virt.devices import Devices, alias_of, find
from vdsm_mp.virt.plug import Plugger, wanted_device
from vdsm_mp.virt.registry import short_status

logger = log.named(__name__)


@handles(HotplugVmMemory)
def hotplug_memory(plugger: Plugger, ask: HotplugVmMemory) -> dict[str, str]:
    record = plugger.devices.vms.running(ask.vm_id, "plug memory")
    dimm = _dimm(ask.params)
    plugger.attach(ask.vm_id, dimm, HotplugMemoryFailed)
    now = plugger.devices.changed(ask.vm_id)
    logger.info("vm=%s memory plugged", ask.vm_id)
    return short_status(now or record)


@handles(HotunplugVmMemory)
def hotunplug_memory(plugger: Plugger, ask: HotunplugVmMemory) -> None:
    """The DIMM with the given alias; one that the guest uses stays."""
    plugger.devices.vms.running(ask.vm_id, "unplug memory")
    alias = alias_of(_dimm(ask.params))
    _, domain = plugger.devices.live(ask.vm_id)
    dimm = find(domain, "memory", lambda element: bool(alias) and alias_of(element) == alias)
    if dimm is None:
        raise HotunplugMemoryFailed(f"there is no memory device {alias or 'without alias'}")
    plugger.detach(ask.vm_id, dimm, HotunplugMemoryFailed)
    plugger.devices.changed(ask.vm_id)


@handles(SetVmBalloonTarget)
def set_balloon_target(devices: Devices, ask: SetVmBalloonTarget) -> Status:
    """target: KiB. Ignored, as upstream does, where there is no balloon or the engine switched it off."""
    record = devices.vms.running(ask.vm_id, "set the balloon")
    if not record.devices.has_balloon or not record.metadata.flag("ballooningEnabled", default=True):
        return DONE
    least_kib, most_kib = record.metadata.guaranteed_kib(), record.devices.max_memory_kib
    if not least_kib <= ask.target <= most_kib:
        raise BalloonFailed(f"{ask.target} KiB is not between {least_kib} and {most_kib} KiB")
    with translated(ask.vm_id, BalloonFailed):
        devices.connection.domain(ask.vm_id).setMemory(ask.target)
    devices.keeper.remember(ask.vm_id, balloonTarget=ask.target)
    devices.vms.change(ask.vm_id, lambda now: replace(now, devices=replace(now.devices, memory_kib=ask.target)))
    return DONE


def _dimm(params: Mapping[str, Any]) -> ET.Element:
    """<memory> from XML, or made of the older `memory` {size (MiB), node, alias}."""
    old = params.get("memory")
    if not isinstance(old, Mapping):
        return wanted_device(params.get("xml"), "memory")[0]
    dimm = ET.Element("memory", model="dimm")
    target = ET.SubElement(dimm, "target")
    xml.add(target, "size", str(int(old.get("size") or 0) * 1024), unit="KiB")
    xml.add(target, "node", str(int(old.get("node") or 0)))
    if old.get("alias"):
        xml.add(dimm, "alias", name=str(old["alias"]))
    return dimm
