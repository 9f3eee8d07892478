# SPDX-License-Identifier: Apache-2.0
"""Cards that mirror networks, from an engine's XML to the kernel's filters on a bridge with a guest's tap."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.eventually import eventually
from tests.support.libvirtd import PrivateLibvirtd
from tests.support.needs import needs_program, needs_root
from tests.support.network_side import NetworkSide
from tests.support.virt_room import VirtRoom
from tests.system.virt.conftest import Guest, NewGuest
from vdsm_mp.api.errors_virt import HotplugNicFailed, InvalidVmParameter, UpdateDeviceFailed
from vdsm_mp.common import xml
from vdsm_mp.virt.mirrors import Mirrors
from vdsm_mp.virt.plug import Plugger

pytestmark = [
    pytest.mark.system, needs_root(), needs_program("libvirtd", "qemu-system-x86_64", "nsenter", "tc", "sudo"),
]  # fmt: skip

NS = 'xmlns:ovirt-vm="http://ovirt.org/vm/1.0"'
MAC, OTHER = "56:6f:00:00:00:01", "56:6f:00:00:00:02"


def card(mac: str = MAC) -> str:
    return (
        f'<interface type="bridge"><mac address="{mac}"/><model type="e1000"/><source bridge="blue"/>'
        f'<alias name="ua-{mac[-2:]}"/></interface>'
    )


def data(*networks: str, mac: str = MAC) -> str:
    names = "".join(f"<ovirt-vm:network>{name}</ovirt-vm:network>" for name in networks)
    return (
        f'<ovirt-vm:device mac_address="{mac}"><ovirt-vm:network>blue</ovirt-vm:network>'
        f"<ovirt-vm:portMirroring>{names}</ovirt-vm:portMirroring></ovirt-vm:device>"
    )


def plug(*networks: str) -> dict[str, str]:
    metadata = f"<metadata><ovirt-vm:vm>{data(*networks, mac=OTHER)}</ovirt-vm:vm></metadata>"
    return {"xml": f"<hotplug {NS}><devices>{card(OTHER)}</devices>{metadata}</hotplug>"}


@pytest.fixture
def side(libvirtd: PrivateLibvirtd, folder: Path) -> Iterator[NetworkSide]:
    for bridge in ("red", "blue", "green"):
        libvirtd.add_bridge(bridge)
    # It has to outlive the room, so tests name it first.
    with NetworkSide(libvirtd.inner_pid, folder) as side:
        yield side


def taps(room: VirtRoom, guest: Guest) -> dict[str, str]:
    """{MAC: tap}"""
    domain = xml.parse(room.call("Host.dumpxmls", vmList=[guest.vm_id])[guest.vm_id])
    return {
        xml.attributes(one.find("mac"))["address"]: xml.attributes(one.find("target"))["dev"]
        for one in domain.iterfind("devices/interface")
    }


def test_a_card_mirrors_what_its_metadata_name_as_long_as_it_is_there(
    side: NetworkSide, room: VirtRoom, new_guest: NewGuest, libvirtd: PrivateLibvirtd, folder: Path
) -> None:
    room.storage.mirror = lambda cards: side.do("mirror", cards)
    guest = new_guest(room, devices=card(), metadata=data("red", "green"))
    tap = taps(room, guest)[MAC]
    assert side.copies("red") == side.copies("green") == {tap}

    room.call("VM.hotplugNic", vmID=guest.vm_id, params=plug("red"))
    assert side.copies("red") == set(taps(room, guest).values())
    assert len(side.copies("red")) == 2

    named = {"deviceType": "interface", "alias": "ua-01"}
    room.call("VM.updateDevice", vmID=guest.vm_id, params={**named, "portMirroring": ["green"]})
    assert (side.copies("red"), side.copies("green")) == ({taps(room, guest)[OTHER]}, {tap})
    room.call("VM.updateDevice", vmID=guest.vm_id, params={**named, "linkActive": "false"})
    room.call("VM.updateDevice", vmID=guest.vm_id, params={**named, "portMirroring": None})
    assert side.copies("green") == {tap}

    # A new life of ours tells it again, and what nobody has any more goes.
    side.do("mirror", {"blue": [tap]})
    with VirtRoom(libvirtd.uri, folder) as again:
        again.storage.mirror = lambda cards: side.do("mirror", cards)
        again.state(Mirrors).network_is_back()
        eventually(lambda: side.copies("blue") == set(), within_s=10)
        eventually(lambda: side.copies("green") == {tap}, within_s=10)

    room.call("VM.destroy", vmID=guest.vm_id, gracefulAttempts=0)
    eventually(lambda: not side.copies("red") and not side.copies("green"), within_s=10)
    # The copies go with the tap, a moment before what they hung on is taken away.
    eventually(lambda: "clsact" not in side.run("tc", "qdisc", "show"), within_s=10)


@pytest.mark.timeout(300)
def test_whoever_dies_a_network_is_mirrored_as_long_as_the_vm_lives(libvirtd: PrivateLibvirtd) -> None:
    for bridge in ("red", "blue"):
        libvirtd.add_bridge(bridge)
    argv = ["nsenter", "--target", str(libvirtd.inner_pid), "--net", "--", sys.executable, "-m"]
    done = subprocess.run(
        [*argv, "tests.support.mirror_house", libvirtd.uri], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-4000:]
    assert json.loads(done.stdout.splitlines()[-1]) == {
        "started": 1,
        "without network": 1,
        "told again": 1,
        "started meanwhile": ["Powering up", 2],
        "bridge made anew": 1,
        "swept": 0,
        "problems": [],
    }


def test_a_vm_that_is_to_see_a_network_does_not_start_blind(
    side: NetworkSide, room: VirtRoom, new_guest: NewGuest
) -> None:
    room.storage.mirror = lambda cards: side.do("mirror", cards)
    guest = new_guest(room, wait=False, devices=card(), metadata=data("nowhere"))
    eventually(lambda: room.status(guest.vm_id) == "Down", within_s=30)
    stats = room.stats(guest.vm_id)
    assert (stats["exitCode"], stats["exitReason"]) == (1, 1)
    assert "nowhere is not mirrored: it does not exist" in stats["exitMessage"]
    eventually(lambda: "vnet" not in side.run("ip", "link"), within_s=10)


def test_a_card_or_a_change_that_cannot_be_mirrored_is_taken_back(
    side: NetworkSide, room: VirtRoom, new_guest: NewGuest
) -> None:
    room.storage.mirror = lambda cards: side.do("mirror", cards)
    guest = new_guest(room, devices=card(), metadata=data("red"))
    before = side.copies("red")
    # A guest that runs no system does not let a card go, however long one waits.
    room.state(Plugger)._unplug_s = 1.0
    with pytest.raises(HotplugNicFailed, match="nowhere is not mirrored"):
        room.call("VM.hotplugNic", vmID=guest.vm_id, params=plug("nowhere"))
    named = {"deviceType": "interface", "alias": "ua-01", "network": "green"}
    with pytest.raises(UpdateDeviceFailed, match="nowhere is not mirrored"):
        room.call("VM.updateDevice", vmID=guest.vm_id, params={**named, "portMirroring": ["red", "nowhere"]})
    shown = room.call("Host.dumpxmls", vmList=[guest.vm_id])[guest.vm_id]
    assert "nowhere" not in shown
    assert "master blue" in side.run("ip", "link", "show", next(iter(before)))
    assert side.copies("red") == before
    with pytest.raises(InvalidVmParameter):
        room.call("VM.updateDevice", vmID=guest.vm_id, params={**named, "portMirroring": "red"})


def test_a_link_stays_as_it_is_when_nobody_says_what_it_is_to_be(
    side: NetworkSide, room: VirtRoom, new_guest: NewGuest
) -> None:
    guest = new_guest(room, devices=card())
    named = {"deviceType": "interface", "alias": "ua-01"}

    def link() -> str:
        domain = xml.parse(room.call("Host.dumpxmls", vmList=[guest.vm_id])[guest.vm_id])
        return xml.attributes(domain.find("devices/interface/link")).get("state", "up")

    room.call("VM.updateDevice", vmID=guest.vm_id, params={**named, "network": "red", "linkActive": None})
    assert link() == "up"
    room.call("VM.updateDevice", vmID=guest.vm_id, params={**named, "linkActive": False})
    room.call("VM.updateDevice", vmID=guest.vm_id, params={**named, "network": "blue", "linkActive": None})
    room.call("VM.updateDevice", vmID=guest.vm_id, params={**named, "network": "red"})
    assert link() == "down"
    room.call("VM.updateDevice", vmID=guest.vm_id, params={**named, "linkActive": "true"})
    assert link() == "up"
