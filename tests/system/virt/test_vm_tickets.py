# SPDX-License-Identifier: Apache-2.0
"""A console's ticket, tried as a viewer tries it: by VNC's handshake, in which the password answers a challenge."""

import socket
import subprocess
import uuid
from pathlib import Path

import pytest

from tests.support.eventually import eventually
from tests.support.needs import needs_program, needs_root
from tests.support.virt_room import VirtRoom, vm_xml
from vdsm_mp.virt.registry import Vms

pytestmark = [
    pytest.mark.system,
    needs_root(),
    needs_program("libvirtd", "qemu-system-x86_64", "openssl", "unshare", "nsenter"),
]


def _encrypted(challenge: bytes, password: str) -> bytes:
    """VNC's DES: the bits of each octet of the key are the other way round."""
    key = "".join(f"{int(f'{octet:08b}'[::-1], 2):02x}" for octet in password.encode().ljust(8, b"\0")[:8])
    words = ["openssl", "enc", "-des-ecb", "-nopad", "-K", key, "-provider", "legacy", "-provider", "default"]
    return subprocess.run(words, input=challenge, capture_output=True, check=True, timeout=10).stdout


def opened(console: Path, password: str) -> socket.socket:
    """A viewer that sees the screen."""
    viewer = socket.socket(socket.AF_UNIX)
    viewer.settimeout(10)
    viewer.connect(str(console))
    stream = viewer.makefile("rb")
    stream.read(12)
    viewer.sendall(b"RFB 003.008\n")
    stream.read(stream.read(1)[0])
    viewer.sendall(b"\x02")
    viewer.sendall(_encrypted(stream.read(16), password))
    assert stream.read(4) == bytes(4)
    viewer.sendall(b"\x01")
    assert len(stream.read(24)) == 24
    stream.close()
    return viewer


def admitted(console: Path, password: str) -> bool:
    """Does it let a viewer with this password in?"""
    with socket.socket(socket.AF_UNIX) as viewer:
        viewer.settimeout(10)
        viewer.connect(str(console))
        stream = viewer.makefile("rb")
        assert stream.read(12) == b"RFB 003.008\n"
        viewer.sendall(b"RFB 003.008\n")
        kinds = stream.read(stream.read(1)[0])
        assert kinds == b"\x02", "a password, and nothing less"
        viewer.sendall(b"\x02")
        viewer.sendall(_encrypted(stream.read(16), password))
        return stream.read(4) == bytes(4)


def test_a_ticket_opens_the_console_until_it_expires_or_another_is_set(folder: Path, room: VirtRoom) -> None:
    vm_id = str(uuid.uuid4())
    folder.chmod(0o777)  # QEMU's user makes the socket
    console = folder / "console.vnc"
    past = 'passwd="*****" passwdValidTo="1970-01-01T00:00:01"'
    vnc = f'<graphics type="vnc" socket="{console}" {past}/><video><model type="vga"/></video>'
    room.create(vm_xml(vm_id, devices=vnc), vm_id)
    eventually(lambda: room.status(vm_id) != "WaitForLaunch", within_s=30)
    assert room.status(vm_id) in ("Up", "Powering up"), room.stats(vm_id)
    assert not admitted(console, "*****"), "as created, nobody gets in"

    ticket = {"deviceType": "graphics", "graphicsType": "vnc", "password": "secret12", "ttl": 120, "params": {}}
    room.call("VM.updateDevice", vmID=vm_id, params=ticket)
    assert admitted(console, "secret12")
    assert not admitted(console, "secret13")

    room.call("VM.setTicket", vmID=vm_id, password="other345", ttl=120, existingConnAction="keep", params={})
    assert admitted(console, "other345")
    assert not admitted(console, "secret12")

    room.call("VM.updateDevice", vmID=vm_id, params={**ticket, "ttl": 1})
    eventually(lambda: not admitted(console, "secret12"), within_s=15, every_s=0.3)


@pytest.mark.parametrize("action", ["SHUTDOWN", "LOCK_SCREEN"])
def test_a_guest_whose_console_is_left_is_shut_down_if_the_engine_said_so(
    folder: Path, room: VirtRoom, action: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    vm_id = str(uuid.uuid4())
    folder.chmod(0o777)  # QEMU's user makes the socket
    console = folder / "console.vnc"
    vnc = f'<graphics type="vnc" socket="{console}" passwd="*****"/><video><model type="vga"/></video>'
    room.create(vm_xml(vm_id, devices=vnc), vm_id)
    eventually(lambda: room.status(vm_id) in ("Up", "Powering up"), within_s=30)
    ticket = {"deviceType": "graphics", "graphicsType": "vnc", "password": "secret12", "ttl": 120, "params": {}}
    more = {"disconnectAction": action, "consoleDisconnectActionDelay": "²"}  # which is no number
    room.call("VM.updateDevice", vmID=vm_id, params=ticket | more)
    first = opened(console, "secret12")
    eventually(lambda: room.state(Vms).get(vm_id).viewers or "clientIp" in room.events.of(vm_id)[-1])
    first.close()
    if action == "SHUTDOWN":
        eventually(lambda: room.status(vm_id) == "Powering down", within_s=10)
    else:
        # Its agent would have been told; this guest has none.
        eventually(lambda: "has no channel for it" in caplog.text, within_s=10)
        assert room.status(vm_id) in ("Up", "Powering up")
