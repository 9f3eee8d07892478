# SPDX-License-Identifier: Apache-2.0
"""Consoles: their passwords. A password is never logged, nor kept by us."""

import base64
import time
import xml.etree.ElementTree as ET
from collections.abc import Mapping
from typing import Any

import libvirt

from vdsm_mp.api.errors_virt import TicketFailed, VmOperationFailed
from vdsm_mp.api.verb import handles
from vdsm_mp.api.vm_devices import ScreenshotVm, SetVmTicket
from vdsm_mp.common import clock, log, xml
from vdsm_mp.common.digits import whole
from vdsm_mp.virt import domxml_parse
from vdsm_mp.virt.connection import translated
from vdsm_mp.virt.devices import Devices
from vdsm_mp.virt.records import VmRecord
from vdsm_mp.virt.registry import short_status
from vdsm_mp.virt.vmhooks import VmHooks

logger = log.named(__name__)

_ON_CONNECTED = ("disconnect", "keep", "fail")
#: VNC's protocol has no more; QEMU refuses longer ones.
_VNC_PASSWORD = 8
#: In the metadata: what follows when the client leaves, and after how many minutes.
ON_DISCONNECT, DELAY_MIN = "consoleDisconnectAction", "consoleDisconnectActionDelay"
_ACTIONS = ("NONE", "LOCK_SCREEN", "LOGOUT", "SHUTDOWN", "REBOOT")
#: The password that engines themselves write, long expired, until somebody asks for a console: everybody knows it.
NOBODY, LONG_AGO = "*****", "1970-01-01T00:00:01"
#: A viewer comes to the other host with the password that it has, when the VM does; engines' tickets are shorter.
_HANDOVER_S = 120
_TIME = "%Y-%m-%dT%H:%M:%S"
_PIECE = 256 << 10
_MAX_PICTURE = 64 << 20


def set_ticket(devices: Devices, hooks: VmHooks, vm_id: str, params: Mapping[str, Any]) -> dict[str, str]:
    """Set the password of the VM's consoles of one type, or of all when none is given. Raises: TicketFailed."""
    record = devices.vms.running(vm_id, "set a console ticket")
    wanted = str(params.get("graphicsType") or "")
    more = params.get("params") or {}
    if isinstance(more, Mapping) and str(more.get("fips", "")).lower() == "true":
        raise TicketFailed("VNC with FIPS needs SASL, which this host does not set up")
    dom, domain = devices.live(vm_id)
    consoles = [one for one in domxml_parse.consoles(domain) if wanted in ("", one.get("type"))]
    if not consoles:
        raise TicketFailed(f"there is no {wanted or 'graphical'} console")
    who = {name: str(value) for name, value in more.items()} if isinstance(more, Mapping) else {}
    hooks.before_ticket(record, who)
    for console in consoles:
        _give_password(console, params)
        devices.update(vm_id, dom, console, TicketFailed)
    _note_disconnect(devices, record, params)
    hooks.after("vm_set_ticket", record, who)
    logger.info("vm=%s ticket set on %s", vm_id, ", ".join(console.get("type", "") for console in consoles))
    return short_status(record)


def _note_disconnect(devices: Devices, record: VmRecord, params: Mapping[str, Any]) -> None:
    action = str(params.get("disconnectAction") or "")
    if action in _ACTIONS and action != record.metadata.get(ON_DISCONNECT, ""):
        delay = whole(str(params.get("consoleDisconnectActionDelay"))) or 0
        note: dict[str, str | int] = {ON_DISCONNECT: action, DELAY_MIN: delay}
        devices.keeper.remember(record.vm_id, **note)


def _give_password(console: ET.Element, params: Mapping[str, Any]) -> None:
    password = str(params.get("password") or "")
    console.set("passwd", password[:_VNC_PASSWORD] if console.get("type") == "vnc" else password)
    console.attrib.pop("passwdValidTo", None)
    try:
        ttl_s = int(params.get("ttl") or 0)
    except (TypeError, ValueError) as error:
        raise TicketFailed("ttl is not a number of seconds") from error
    if ttl_s > 0:
        console.set("passwdValidTo", _in(min(ttl_s, 1 << 31)))
    if console.get("type") == "spice":
        action = str(params.get("existingConnAction") or "")
        if action in _ON_CONNECTED:
            console.set("connected", action)


def _in(seconds: int) -> str:
    return time.strftime(_TIME, time.gmtime(clock.wall_s() + seconds))


def prolong_tickets(dom: Any, vm_id: str) -> None:
    """Before a VM with a viewer leaves: its password opens the console at the other host, too.

    A console that nobody has asked for stays shut: the viewer may look at the VM's other one.

    Raises: TicketFailed and what libvirt's absence raises; the VM may leave all the same.
    """
    with translated(vm_id, TicketFailed):
        domain = xml.parse(dom.XMLDesc(libvirt.VIR_DOMAIN_XML_SECURE))
        until = _in(_HANDOVER_S)
        for console in domain.iterfind("devices/graphics[@type='spice']"):
            # Times of this form are in the order of their text.
            asked_for = console.get("passwd", "") not in ("", NOBODY)
            if asked_for and console.get("passwdValidTo", until) < until:
                console.set("passwdValidTo", until)
                console.set("connected", "keep")
                dom.updateDeviceFlags(xml.dump(console), libvirt.VIR_DOMAIN_DEVICE_MODIFY_LIVE)
                logger.info("vm=%s the ticket of its viewer is good for %d s more", vm_id, _HANDOVER_S)


@handles(SetVmTicket)
def set_vm_ticket(devices: Devices, hooks: VmHooks, ask: SetVmTicket) -> None:
    set_ticket(
        devices,
        hooks,
        ask.vm_id,
        {
            "password": ask.password,
            "ttl": ask.ttl,
            "existingConnAction": ask.existing_conn_action,
            "params": ask.params,
        },
    )


@handles(ScreenshotVm)
def screenshot(devices: Devices, ask: ScreenshotVm) -> dict[str, str]:
    """{"data": base64, "encoding": "base64", "mime_type": …} of what the first display shows."""
    devices.vms.running(ask.vm_id, "make a screenshot", even_busy=True)
    dom = devices.connection.domain(ask.vm_id)
    picture = bytearray()
    with translated(ask.vm_id):
        stream = dom.connect().newStream(0)  # of one connection, both
        mime_type = dom.screenshot(stream, 0)
        while piece := stream.recv(_PIECE):
            picture += piece
            if len(picture) > _MAX_PICTURE:
                stream.abort()
                raise VmOperationFailed(f"the picture has more than {_MAX_PICTURE} bytes")
        stream.finish()
    return {"data": base64.b64encode(picture).decode("ascii"), "encoding": "base64", "mime_type": str(mime_type)}
