# SPDX-License-Identifier: Apache-2.0
"""Words for the old oVirt agent in a guest: lock the screen, log a user on or off, and what else a client wants to say.

It listens on a channel of its own and speaks lines of JSON. libvirtd opens the channel for us, as only root and QEMU
may. It does not confirm what it was told, so it is asked for its state first: one that does not answer that would not
hear the rest. What it says is counted, never read.
"""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import libvirt

from vdsm_mp.api.errors_virt import InvalidVmParameter, NoGuestAgent
from vdsm_mp.api.verb import handles
from vdsm_mp.api.vm_guest import LockDesktop, LoginDesktop, LogoffDesktop, SendDesktopCommand
from vdsm_mp.common import clock, log, xml
from vdsm_mp.virt.calling import under_way
from vdsm_mp.virt.connection import translate, translated
from vdsm_mp.virt.devices import Devices

logger = log.named(__name__)

CHANNEL = "com.redhat.rhevm.vdsm"
_CONNECTED = "connected"
#: It speaks every five seconds by itself.
_ANSWER_S = 8.0
_SEND_S = 5.0
_TICK_S = 0.05
_CHUNK = 64 << 10
#: Fits into a socket's buffer: nothing waits for a guest that does not read.
_MESSAGE_BYTES = 32 << 10
#: Of a guest that talks without ever ending its line.
_HEARD_BYTES = 1 << 20
_API_VERSION = 3


@handles(LockDesktop)
def lock(devices: Devices, ask: LockDesktop) -> None:
    tell(devices, ask.vm_id, "lock-screen")


@handles(LoginDesktop)
def login(devices: Devices, ask: LoginDesktop) -> None:
    """The password is in the message and nowhere else."""
    username = f"{ask.username}@{ask.domain}" if ask.domain else ask.username
    tell(devices, ask.vm_id, "login", username=username, password=ask.password)


@handles(LogoffDesktop)
def logoff(devices: Devices, ask: LogoffDesktop) -> None:
    """`force` means nothing to the agent."""
    tell(devices, ask.vm_id, "log-off")


@handles(SendDesktopCommand)
def send_command(devices: Devices, ask: SendDesktopCommand) -> None:
    tell(devices, ask.vm_id, ask.message)


def tell(devices: Devices, vm_id: str, name: str, **values: str) -> None:
    """One message. Raises: NoGuestAgent, InvalidVmParameter, what `running` and libvirt raise."""
    devices.vms.running(vm_id, "speak with its agent", even_busy=True)
    message = _line(name, **values)
    if len(message) > _MESSAGE_BYTES:
        raise InvalidVmParameter("the message is too long")
    with translated(vm_id):
        dom = devices.connection.domain(vm_id)
        state = channel_state(dom.XMLDesc(0))
    if state is None:
        raise NoGuestAgent("the virtual machine has no channel for it")
    if state != _CONNECTED:
        raise NoGuestAgent("nobody in the guest listens to its channel")
    with _channel(dom, vm_id) as stream:
        _send(stream, _line("refresh", apiVersion=_API_VERSION))
        if not _heard(stream):
            raise NoGuestAgent(f"it said nothing within {_ANSWER_S:g} s")
        _send(stream, message)
        with under_way():
            stream.finish()
    # Not what it was: a client's own words may be a secret, too.
    logger.info("vm=%s its agent was told something of %d bytes", vm_id, len(message))


def channel_state(untrusted_xml: str) -> str | None:
    """ "connected", "disconnected" or "" (QEMU does not tell); None when there is no such channel."""
    for target in xml.parse(untrusted_xml).iterfind("devices/channel/target"):
        if target.get("name") == CHANNEL:
            return target.get("state", "")
    return None


def _line(name: str, **values: Any) -> bytes:
    return json.dumps({"__name__": name, **values}).encode() + b"\n"


@contextmanager
def _channel(dom: Any, vm_id: str) -> Iterator[Any]:
    """A stream that never blocks. What libvirt says against it is that there is no agent.

    A guest is waited for in between, not libvirt: that makes no call late.
    """
    try:
        stream = dom.connect().newStream(libvirt.VIR_STREAM_NONBLOCK)
        try:
            with under_way():
                dom.openChannel(CHANNEL, stream, 0)
            yield stream
        except BaseException:
            _abort(stream)
            raise
    except libvirt.libvirtError as error:
        raise translate(error, vm_id, NoGuestAgent) from error


def _abort(stream: Any) -> None:
    try:
        stream.abort()
    except libvirt.libvirtError as error:
        logger.debug("a channel was closed already: %s", error)


def _send(stream: Any, message: bytes) -> None:
    pause, until = threading.Event(), clock.mono_s() + _SEND_S
    while message:
        sent = stream.send(message)
        if sent > 0:
            message = message[sent:]
        elif clock.mono_s() > until:
            raise NoGuestAgent("its channel takes nothing")
        else:
            pause.wait(_TICK_S)


def _heard(stream: Any) -> bool:
    """Did it say a line?"""
    pause, until, heard = threading.Event(), clock.mono_s() + _ANSWER_S, 0
    while clock.mono_s() < until and heard < _HEARD_BYTES:
        data = stream.recv(_CHUNK)
        if data == b"":
            return False  # closed
        if not isinstance(data, bytes):  # -2: nothing now
            pause.wait(_TICK_S)
        elif b"\n" in data:
            return True
        else:
            heard += len(data)
    return False
