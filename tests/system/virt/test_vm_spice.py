# SPDX-License-Identifier: Apache-2.0
"""SPICE consoles, tried as a viewer tries them: channels are linked with a password, some of them by TLS only."""

import shutil
import ssl
import uuid
from collections.abc import Iterator

import pytest

from tests.support import spice
from tests.support.certificates import make_authority
from tests.support.eventually import eventually
from tests.support.libvirtd import PrivateLibvirtd
from tests.support.needs import needs_program, needs_root
from tests.support.virt_room import VirtRoom, vm_xml
from vdsm_mp.api.errors_virt import TicketFailed
from vdsm_mp.virt.registry import Vms

pytestmark = [
    pytest.mark.system,
    needs_root(),
    needs_program("libvirtd", "qemu-system-x86_64", "openssl", "unshare", "nsenter"),
]

#: As engines write it; the certificate is of the host.
CONSOLE = """
<graphics type="spice" port="-1" tlsPort="-1" autoport="yes" passwd="*****" passwdValidTo="1970-01-01T00:00:01">
<channel name="main" mode="secure"/><channel name="smartcard" mode="secure"/>
<listen type="address" address="127.0.0.1"/></graphics>
<video><model type="qxl" ram="65536" vram="32768" vgamem="16384" heads="1"/></video>
<channel type="spicevmc"><target type="virtio" name="com.redhat.spice.0"/></channel>
<controller type="virtio-serial" index="0" ports="16"/><redirdev bus="usb" type="spicevmc"/>"""
_USB = ('<controller type="usb" model="none"/>', '<controller type="usb" model="qemu-xhci" index="0" ports="8"/>')
PASSWORD = "longer-than-eight"


@pytest.fixture(scope="module")
def trusted(libvirtd: PrivateLibvirtd) -> Iterator[ssl.SSLContext]:
    """QEMUs of this libvirtd have a certificate for their consoles; what a viewer needs to trust it."""
    spice.needs_server()
    pki = libvirtd.root / "etc" / "spice"
    pki.mkdir(mode=0o755)
    authority = make_authority(libvirtd.root / "ca")
    files = authority.issue("host", "127.0.0.1", rsa=2048)
    for source, name in ((files.ca, "ca-cert"), (files.cert, "server-cert"), (files.key, "server-key")):
        shutil.copy(source, pki / f"{name}.pem")
        shutil.chown(pki / f"{name}.pem", "libvirt-qemu")
    with (libvirtd.root / "etc" / "qemu.conf").open("a") as file:
        file.write('spice_tls = 1\nspice_tls_x509_cert_dir = "/etc/libvirt/spice"\n')
    libvirtd.stop()
    libvirtd.launch()
    context = ssl.create_default_context(cafile=str(files.ca))
    context.check_hostname = False  # viewers compare the subject that the engine tells them
    yield context


class Console:
    """Of one VM that runs."""

    def __init__(self, room: VirtRoom, libvirtd: PrivateLibvirtd, trusted: ssl.SSLContext) -> None:
        self.vm_id = str(uuid.uuid4())
        self._room = room
        self._pid = libvirtd.inner_pid
        self._trusted = trusted
        room.create(vm_xml(self.vm_id, devices=CONSOLE, memory_mib=64).replace(*_USB), self.vm_id)
        eventually(lambda: room.status(self.vm_id) != "WaitForLaunch", within_s=30)
        assert room.status(self.vm_id) in ("Up", "Powering up"), room.stats(self.vm_id)
        [self.told] = room.stats(self.vm_id)["displayInfo"]

    def view(self, password: str = PASSWORD) -> spice.Viewer:
        def connect(channel: int) -> spice.Link:
            if channel == spice.MAIN:
                return spice.connected(self._pid, int(self.told["tlsPort"]), self._trusted)
            return spice.connected(self._pid, int(self.told["port"]))

        return spice.Viewer(connect, password)

    def refuses(self, password: str) -> int:
        with pytest.raises(spice.Refused) as refused:
            self.view(password)
        return refused.value.code

    def admits(self, password: str) -> bool:
        try:
            self.view(password).close()
        except spice.Refused:
            return False
        return True

    def plain(self) -> spice.Viewer:
        return spice.Viewer(lambda channel: spice.connected(self._pid, int(self.told["port"])), PASSWORD)

    def ticket(self, password: str = PASSWORD, ttl: int = 120, **more: object) -> None:
        params = {"deviceType": "graphics", "graphicsType": "spice", "password": password, "ttl": ttl, "params": {}}
        self._room.call("VM.updateDevice", vmID=self.vm_id, params=params | more)

    def viewers(self) -> int:
        return len(self._room.state(Vms).get(self.vm_id).viewers)

    def client(self) -> str:
        return str(self._room.stats(self.vm_id)["clientIp"])


@pytest.fixture
def console(room: VirtRoom, libvirtd: PrivateLibvirtd, trusted: ssl.SSLContext) -> Console:
    return Console(room, libvirtd, trusted)


def test_a_spice_ticket_opens_the_console_and_says_what_becomes_of_who_is_there(
    room: VirtRoom, console: Console
) -> None:
    assert console.told["type"] == "spice"
    assert console.told["port"].isdigit() and console.told["tlsPort"].isdigit()
    assert console.told["ipAddress"] == "127.0.0.1"
    assert console.refuses("*****") == spice.PERMISSION_DENIED, "as created, nobody gets in"
    console.ticket()
    assert console.refuses("longer-t") == spice.PERMISSION_DENIED, "all of the password counts"
    with pytest.raises(spice.Refused) as refused:
        console.plain()
    assert refused.value.code == spice.NEED_SECURED

    with console.view() as viewer:
        eventually(lambda: console.client() == "127.0.0.1", within_s=10)
        assert room.events.of(console.vm_id)[-1]["clientIp"] == "127.0.0.1"
        console.ticket("another", existingConnAction="keep")
        assert viewer.lives()
        assert console.refuses(PASSWORD) == spice.PERMISSION_DENIED
        with pytest.raises(TicketFailed):
            console.ticket("third", existingConnAction="fail")
        room.call(
            "VM.setTicket", vmID=console.vm_id, password="third", ttl=120, existingConnAction="disconnect", params={}
        )
        assert not viewer.lives()
    eventually(lambda: console.client() == "", within_s=10)
    with console.view("third") as viewer:
        console.ticket("third", ttl=1)
        eventually(lambda: not console.admits("third"), within_s=15, every_s=0.3)


def test_a_console_is_left_when_the_last_connection_goes_not_when_any_does(
    room: VirtRoom, console: Console, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    console.ticket(disconnectAction="LOCK_SCREEN")
    with console.view() as viewer:
        keyboard = viewer.link(spice.INPUTS)
        eventually(lambda: console.viewers() == 2, within_s=10)
        keyboard.close()
        eventually(lambda: console.viewers() == 1, within_s=10)
        assert console.client() == "127.0.0.1"
        console.refuses("wrong")
        assert console.client() == "127.0.0.1"
    eventually(lambda: console.client() == "", within_s=10)
    # Its agent would have been told; this guest has none.
    eventually(lambda: "has no channel for it" in caplog.text, within_s=10)
    assert caplog.text.count("its console was left") == 1
