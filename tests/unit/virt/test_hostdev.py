# SPDX-License-Identifier: Apache-2.0
"""Host devices: what is read of them, their names in domain XML, and who has them when anything goes wrong."""

import threading
import xml.etree.ElementTree as ET
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import libvirt
import pytest

from tests.support.libvirt_refusal import refusal
from tests.support.virt_room import VirtRoom
from vdsm_mp.api.errors_virt import (
    CannotCreateVm,
    HostdevDetachFailed,
    LibvirtUnavailable,
    VmNotResponding,
    VmOperationFailed,
)
from vdsm_mp.api.vm_devices import HotplugVmHostdev
from vdsm_mp.common.errors import Error
from vdsm_mp.virt import hostdev_xml
from vdsm_mp.virt.hostdev import describe, describe_all
from vdsm_mp.virt.hostdev_mdev import Mdevs
from vdsm_mp.virt.hostdev_taken import HostDevices
from vdsm_mp.virt.hostdev_xml import Mdev, device_name, element_for, mdevs, pci_names, usb_addresses
from vdsm_mp.virt.machine import VmStatus
from vdsm_mp.virt.metadata import Metadata
from vdsm_mp.virt.plug_hostdev import hotplug_hostdev

NODES = ET.parse(Path(__file__).parents[2] / "data" / "node-devices.xml").getroot().findall("device")
VM, OTHER_VM = "11111111-2222-3333-4444-555555555555", "99999999-2222-3333-4444-555555555555"
CARD, SECOND = "pci_0000_00_08_0", "pci_0000_00_09_0"
MDEV = "77777777-2222-3333-4444-555555555555"


def node(name: str) -> ET.Element:
    return next(one for one in NODES if one.findtext("name") == name)


def domain(devices: str, metadata: str = "") -> ET.Element:
    vm = f'<ovirt-vm:vm xmlns:ovirt-vm="http://ovirt.org/vm/1.0">{metadata}</ovirt-vm:vm>'
    return ET.fromstring(f"<domain><devices>{devices}</devices><metadata>{vm}</metadata></domain>")


def metadata(text: str) -> Metadata:
    found = Metadata.of_domain(domain("", text))
    assert found is not None
    return found


def of_type(text: str) -> Metadata:
    """Metadata of a mediated device."""
    told = f"<ovirt-vm:mdevType>{text}</ovirt-vm:mdevType>"
    return metadata(f'<ovirt-vm:device devtype="hostdev" uuid="{MDEV}">{told}</ovirt-vm:device>')


# What is read


def test_devices_are_told_as_engines_read_them() -> None:
    found = describe_all(NODES)
    assert found[CARD] == {
        "capability": "pci",
        "is_assignable": "true",
        "parent": "computer",
        "driver": "e1000e",
        "vendor_id": "0x8086",
        "product_id": "0x10d3",
        "address": {"domain": "0", "bus": "0", "slot": "8", "function": "0"},
        "iommu_group": "7",
    }
    assert found["pci_0000_00_0a_0"]["is_assignable"] == "false"
    assert (found["pci_0000_01_00_0"]["totalvfs"], found["pci_0000_01_00_0"]["numvfs"]) == (3, 2)
    assert found["pci_0000_01_00_2"]["physfn"] == "pci_0000_01_00_0"
    disk = found["scsi_0_0_1_2"]
    assert (disk["block_path"], disk["udev_path"], disk["product"]) == ("/dev/sda", "/dev/sg0", "QEMU HARDDISK")
    assert found["usb_1_2"]["address"] == {"bus": "1", "device": "2"}
    assert (found["usb_1_2"]["product"], found["usb_1_2"]["product_id"]) == ("QEMU USB Tablet", "0x0001")
    assert found["net_eth0_52_54_00_88_00_01"]["interface"] == "eth0"
    assert "parent" not in found["computer"]


def test_types_of_mediated_devices_are_told_with_what_is_left_of_them(tmp_path: Path) -> None:
    (tmp_path / "mdev_supported_types/nvidia-11").mkdir(parents=True)
    (tmp_path / "mdev_supported_types/nvidia-11/description").write_text("num_heads=2\n")
    types = (
        "<type id='nvidia-11'><name>GRID M60-0B</name><availableInstances>16</availableInstances></type>"
        "<type id='i915-1'><availableInstances>1</availableInstances></type><type id='broken'><name>x</name></type>"
    )
    device = ET.fromstring(
        f"<device><name>pci_0000_06_00_0</name><path>{tmp_path}</path><parent>computer</parent><capability type='pci'>"
        f"<capability type='mdev_types'>{types}</capability></capability></device>"
    )
    assert describe(device)["mdev"] == {
        "nvidia-11": {"name": "GRID M60-0B", "available_instances": "16", "description": "num_heads=2"},
        "i915-1": {"name": "i915-1", "available_instances": "1"},
    }


# Names


@pytest.mark.parametrize("name", [CARD, "pci_0000_01_00_2", "usb_1_2", "usb_2_1", "scsi_0_0_1_2"])
def test_an_element_made_of_a_device_has_its_name(name: str) -> None:
    made = element_for(node(name))
    assert made is not None
    assert device_name(made, usb_addresses(NODES)) == name
    assert made.find("alias") is not None and made.get("managed") == "no"


@pytest.mark.parametrize("name", ["computer", "scsi_host0", "net_lo_00_00_00_00_00_00", "block_sda"])
def test_what_is_no_device_for_a_guest_has_no_element(name: str) -> None:
    assert element_for(node(name)) is None


@pytest.mark.parametrize(
    ("address", "name"),
    [
        ('domain="0x0000" bus="0x06" slot="0x1f" function="0x7"', "pci_0000_06_1f_7"),
        ('domain="0" bus="16" slot="010" function="1"', "pci_0000_10_08_1"),
        ('domain="65536" bus="0" slot="1" function="0"', "pci_10000_00_01_0"),
        ('bus="x" slot="1"', ""),
    ],
)
def test_addresses_are_read_as_libvirt_reads_them(address: str, name: str) -> None:
    device = ET.fromstring(f'<hostdev type="pci"><source><address {address}/></source></hostdev>')
    assert device_name(device, {}) == name
    assert pci_names(device) == ([name] if name else [])


def test_cards_that_are_functions_are_taken_and_what_libvirt_manages_is_not() -> None:
    source = "<source><address type='pci' domain='0x0000' bus='0x02' slot='0x10' function='0x{}'/></source>"
    tree = domain(
        f"<interface type='hostdev' managed='no'><mac address='52:54:00:6d:90:02'/>{source.format(0)}"
        "<vlan><tag id='100'/></vlan><address type='pci' bus='0x00' slot='0x07'/></interface>"
        f"<hostdev type='pci' managed='no'>{source.format(1)}</hostdev>"
        f"<hostdev type='pci' managed='yes'>{source.format(2)}</hostdev>"
        "<interface type='bridge'><source bridge='b'/></interface><hostdev type='usb'/>"
    )
    assert pci_names(tree) == ["pci_0000_02_10_1", "pci_0000_02_10_0"]


def test_mediated_devices_come_with_what_the_metadata_say() -> None:
    tree = domain(f"<hostdev mode='subsystem' type='mdev'><source><address uuid='{MDEV.upper()}'/></source></hostdev>")
    assert mdevs(tree, of_type("nvidia-11|separate")) == [Mdev(MDEV, "nvidia-11", "separate")]
    assert mdevs(tree, of_type("nvidia-11")) == [Mdev(MDEV, "nvidia-11", "compact")]
    assert mdevs(tree, metadata("")) == [Mdev(MDEV)]
    # libvirt refuses these; until then they name no files of ours.
    for number in ("../../x", f"{MDEV}/x", "/etc/x", ""):
        assert (
            mdevs(domain(f"<hostdev type='mdev'><source><address uuid='{number}'/></source></hostdev>"), metadata(""))
            == []
        )


def test_a_scsi_device_is_a_disk_only_where_the_vm_asks_for_it() -> None:
    asked = metadata("<ovirt-vm:custom><ovirt-vm:scsi_hostdev>scsi_block</ovirt-vm:scsi_hostdev></ovirt-vm:custom>")
    disk = '<disk type="block" device="lun"><source dev="{}"/></disk>'
    assert hostdev_xml.is_scsi_disk(ET.fromstring(disk.format("/dev/sda")), asked)
    assert not hostdev_xml.is_scsi_disk(ET.fromstring(disk.format("/dev/sda")), metadata(""))
    for path in ("/dev/mapper/root", "/dev/sda/../vda", "/dev/sda1", "/dev/mem"):
        assert not hostdev_xml.is_scsi_disk(ET.fromstring(disk.format(path)), asked)


# Who has what


@dataclass
class Node:
    """One of libvirt's node devices, as far as taking it goes."""

    name: str
    driver: str = "e1000e"
    group: str = "7"
    bridge: bool = False
    fails: bool = False
    steps: list[str] = field(default_factory=list)

    def XMLDesc(self, _flags: int) -> str:
        group = f"<iommuGroup number='{self.group}'/>" if self.group else ""
        bridge = "<capability type='pci-bridge'/>" if self.bridge else ""
        driver = f"<driver><name>{self.driver}</name></driver>"
        return (
            f"<device><name>{self.name}</name><parent>computer</parent>{driver}"
            f"<capability type='pci'>{group}{bridge}</capability></device>"
        )

    def detachFlags(self, _driver: None, _flags: int) -> None:
        self.steps.append("detach")
        if self.fails:
            raise refusal(libvirt.VIR_ERR_OPERATION_FAILED, "Failed to detach device")
        self.driver = "vfio-pci"

    def reAttach(self) -> None:
        self.steps.append("reattach")
        if self.fails:
            raise refusal(libvirt.VIR_ERR_OPERATION_FAILED, "busy")
        self.driver = "e1000e"


class Host:
    """libvirt's connection, a table of VMs, timers that wait to be run, and root."""

    def __init__(self, folder: Path) -> None:
        self.nodes = {name: Node(name) for name in (CARD, SECOND)}
        self.statuses = {VM: "Up", OTHER_VM: "Up"}
        self.draining = False
        self.timers: list[Callable[[], None]] = []
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.folder = folder / "hostdev"
        self.sysfs = folder / "sys"
        self.devices = self.worker()

    def worker(self) -> HostDevices:
        """One life."""
        return HostDevices(
            cast(Any, self), cast(Any, self), cast(Any, self), cast(Any, self), Mdevs(cast(Any, self), self.sysfs),
            self.folder,
        )  # fmt: skip

    # the connection
    def get(self, vm_id: str | None = None) -> Any:
        if vm_id is None:
            return self
        status = self.statuses.get(vm_id)
        life = SimpleNamespace(status=VmStatus(status)) if status is not None else None
        return SimpleNamespace(life=life, metadata=metadata("")) if life is not None else None

    def nodeDeviceLookupByName(self, name: str) -> Node:
        if name not in self.nodes:
            raise refusal(libvirt.VIR_ERR_NO_NODE_DEVICE, "no node device with matching name")
        return self.nodes[name]

    def domain(self, vm_id: str) -> Any:
        """One that has none of them."""
        return SimpleNamespace(XMLDesc=lambda flags: "<domain><devices/></domain>")

    # the keeper
    def take_turn(self, vm_id: str) -> None:
        return

    # background
    def later(self, delay_s: float, name: str, job: Callable[[], None], *, key: str | None = None) -> None:
        self.timers.append(job)

    # root
    def do(self, operation: str, /, *, deadline_s: float = 30.0, **params: Any) -> None:
        self.asked.append((operation, params))
        place = self.sysfs / "bus/mdev/devices" / params["uuid"]
        if operation == "mdev-create":
            place.mkdir(parents=True)
        else:
            place.rmdir()

    def taken(self) -> dict[str, str]:
        return {path.name: path.read_text() for path in self.folder.iterdir()} if self.folder.exists() else {}


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


def test_a_device_is_written_down_before_it_is_touched_and_until_the_host_has_it(host: Host) -> None:
    seen: list[dict[str, str]] = []
    node = host.nodes[CARD]
    for method in ("detachFlags", "reAttach"):
        plain = getattr(node, method)
        setattr(node, method, lambda *a, plain=plain: (seen.append(host.taken()), plain(*a)))
    assert host.devices.take(VM, [CARD], HostdevDetachFailed) == [CARD]
    assert host.devices.take(VM, [CARD], HostdevDetachFailed) == []
    host.devices.give_back(VM)
    assert seen == [{CARD: VM}, {CARD: VM}]
    assert (host.taken(), node.driver) == ({}, "e1000e")


def test_all_are_taken_or_none(host: Host) -> None:
    host.nodes[SECOND].fails = True
    with pytest.raises(HostdevDetachFailed, match="Failed to detach"):
        host.devices.take(VM, [CARD, SECOND], HostdevDetachFailed)
    assert (host.taken(), host.nodes[CARD].driver) == ({}, "e1000e")
    assert host.nodes[SECOND].steps == ["detach", "reattach"]


@pytest.mark.parametrize(
    ("change", "sentence"), [({"bridge": True}, "bridge"), ({"group": ""}, "IOMMU")], ids=["a bridge", "no IOMMU"]
)
def test_what_a_guest_cannot_have_is_left_alone(host: Host, change: dict[str, Any], sentence: str) -> None:
    for key, value in change.items():
        setattr(host.nodes[CARD], key, value)
    with pytest.raises(CannotCreateVm, match=sentence):
        host.devices.take(VM, [CARD], CannotCreateVm)
    assert (host.taken(), host.nodes[CARD].steps) == ({}, [])


def test_a_device_is_one_living_vms_and_passes_on_from_a_dead_one(host: Host) -> None:
    host.devices.take(VM, [CARD], HostdevDetachFailed)
    with pytest.raises(HostdevDetachFailed, match=VM):
        host.devices.take(OTHER_VM, [CARD], HostdevDetachFailed)
    with pytest.raises(VmOperationFailed, match=VM):
        host.devices.reattach(CARD)
    host.statuses[VM] = "Down"
    assert host.devices.take(OTHER_VM, [CARD], HostdevDetachFailed) == [CARD]
    host.devices.give_back(VM)  # which comes late
    assert (host.taken(), host.nodes[CARD].driver) == ({CARD: OTHER_VM}, "vfio-pci")


def test_what_a_dead_vm_left_is_still_given_back_when_the_next_one_is_refused(host: Host) -> None:
    host.devices.take(VM, [CARD], HostdevDetachFailed)
    host.statuses[VM] = "Down"
    host.nodes[CARD].driver, host.nodes[CARD].fails = "", True
    with pytest.raises(HostdevDetachFailed):
        host.devices.take(OTHER_VM, [CARD], HostdevDetachFailed)
    assert host.taken() == {CARD: VM}
    host.nodes[CARD].fails = False
    host.timers.pop()()
    assert (host.taken(), host.nodes[CARD].driver) == ({}, "e1000e")


def test_others_bindings_are_used_and_kept(host: Host) -> None:
    host.nodes[CARD].driver = "vfio-pci"
    assert host.devices.take(VM, [CARD], HostdevDetachFailed) == []
    host.devices.give_back(VM)
    assert (host.taken(), host.nodes[CARD].steps, host.nodes[CARD].driver) == ({}, [], "vfio-pci")


def test_what_cannot_be_given_back_is_tried_again_a_few_times_and_at_the_next_look(host: Host) -> None:
    host.devices.take(VM, [CARD], HostdevDetachFailed)
    host.nodes[CARD].fails = True
    host.devices.give_back(VM)
    tries = 1
    while host.timers:
        host.timers.pop()()
        tries += 1
    assert (tries, host.taken()) == (5, {CARD: VM})
    host.nodes[CARD].fails = False
    del host.statuses[VM]
    again = host.worker()
    again.look()
    host.timers.pop()()
    assert (host.taken(), host.nodes[CARD].driver) == ({}, "e1000e")


def test_a_look_leaves_what_living_vms_have(host: Host) -> None:
    host.devices.take(VM, [CARD], HostdevDetachFailed)
    host.devices.take(OTHER_VM, [SECOND], HostdevDetachFailed)
    host.statuses[OTHER_VM] = "Down"
    again = host.worker()
    again.look()
    host.timers.pop()()
    assert (host.taken(), host.nodes[SECOND].driver) == ({CARD: VM}, "e1000e")


def test_a_plug_that_fails_gives_back_what_it_took_and_no_more(host: Host) -> None:
    host.devices.take(VM, [SECOND], HostdevDetachFailed)
    tree = domain(
        "<interface type='hostdev'><source><address bus='0' slot='8' function='0'/></source></interface>"
        "<hostdev type='pci'><source><address bus='0' slot='9' function='0'/></source></hostdev>"
    )
    with pytest.raises(VmOperationFailed), host.devices.lent(VM, tree, HostdevDetachFailed):
        assert host.taken() == {CARD: VM, SECOND: VM}
        raise VmOperationFailed("QEMU refuses")
    assert host.taken() == {SECOND: VM}


def test_two_at_once_do_not_get_the_same_device(host: Host) -> None:
    got: list[str] = []
    gate = threading.Barrier(2)

    def take(vm_id: str) -> None:
        gate.wait(5)
        try:
            host.devices.take(vm_id, [CARD], HostdevDetachFailed)
            got.append(vm_id)
        except Error:
            pass

    threads = [threading.Thread(target=take, args=(vm_id,)) for vm_id in (VM, OTHER_VM)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert [host.taken()[CARD]] == got


# Mediated devices


def card(sysfs: Path, name: str, vendor: str = "0x10de", **types: tuple[int, int]) -> None:
    """types: {type: (instances left, devices there)}"""
    folder = sysfs / "class/mdev_bus" / name
    folder.mkdir(parents=True)
    (folder / "vendor").write_text(f"{vendor}\n")
    for kind, (left, there) in types.items():
        place = folder / "mdev_supported_types" / kind
        (place / "devices").mkdir(parents=True)
        (place / "available_instances").write_text(f"{left}\n")
        for number in range(there):
            (place / "devices" / str(number)).touch()


def test_a_mediated_device_goes_where_there_is_room(host: Host) -> None:
    mdevs = Mdevs(cast(Any, host), host.sysfs)
    assert mdevs.place("q4", "compact") is None
    card(host.sysfs, "0000:01:00.0", q4=(0, 4), q8=(0, 0))
    card(host.sysfs, "0000:02:00.0", q4=(3, 1), q8=(0, 0))
    card(host.sysfs, "0000:03:00.0", q4=(4, 0), q8=(2, 0))
    assert mdevs.place("q4", "compact") == "0000:02:00.0"
    assert mdevs.place("q4", "separate") == "0000:03:00.0"
    assert mdevs.place("q8", "compact") == "0000:03:00.0"
    assert mdevs.place("q9", "compact") is None
    for kind in ("", "..", "q4/../q4", "/q4"):
        assert mdevs.place(kind, "compact") is None


def test_an_nvidia_card_has_one_type_at_a_time_and_others_may_mix(host: Host) -> None:
    mdevs = Mdevs(cast(Any, host), host.sysfs)
    card(host.sysfs, "0000:01:00.0", q4=(3, 1), q8=(2, 0))
    assert mdevs.place("q8", "compact") is None
    assert mdevs.place("q4", "separate") == "0000:01:00.0"  # better than none
    card(host.sysfs, "0000:04:00.0", vendor="0x8086", q4=(3, 1), q8=(2, 0))
    assert mdevs.place("q8", "compact") == "0000:04:00.0"


def test_a_mediated_device_lives_as_long_as_its_vm(host: Host) -> None:
    card(host.sysfs, "0000:01:00.0", q4=(4, 0))
    tree = domain(f"<hostdev type='mdev'><source><address uuid='{MDEV}'/></source></hostdev>")
    host.devices.take_all(VM, tree, of_type("q4|compact"))
    assert host.taken() == {f"mdev_{MDEV}": VM}
    wanted = {"card": "0000:01:00.0", "type": "q4", "uuid": MDEV, "parameters": None}
    assert host.asked == [("mdev-create", wanted)]
    host.devices.give_back(VM)
    assert (host.taken(), host.asked[1:]) == ({}, [("mdev-remove", {"uuid": MDEV})])


def test_a_mediated_device_of_others_is_used_and_kept_and_one_without_a_place_is_refused(host: Host) -> None:
    tree = domain(f"<hostdev type='mdev'><source><address uuid='{MDEV}'/></source></hostdev>")
    with pytest.raises(CannotCreateVm, match="no card has room"):
        host.devices.take_all(VM, tree, metadata(""))
    (host.sysfs / "bus/mdev/devices" / MDEV).mkdir(parents=True)
    host.devices.take_all(VM, tree, metadata(""))
    host.devices.give_back(VM)
    assert (host.taken(), host.asked) == ({}, [])


def test_a_comparison_that_libvirt_is_late_for_is_made_later(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    host.devices.take(VM, [CARD], HostdevDetachFailed)
    answers = [LibvirtUnavailable("late")]

    def compared(vm_id: str) -> None:
        if answers:
            raise answers.pop()
        host.devices.give_back(vm_id)

    monkeypatch.setattr(host.devices, "_compare", compared)
    host.devices.compare(VM)
    assert host.taken() == {CARD: VM}
    host.timers.pop()()
    assert (host.taken(), host.timers) == ({}, [])


def test_devices_of_a_plug_that_libvirt_left_unanswered_do_not_stay_taken(host: Host) -> None:
    def unanswered(*args: Any) -> None:
        raise VmNotResponding("late")

    tools = SimpleNamespace(connection=host, vms=SimpleNamespace(running=lambda *a: None))
    tools.live = lambda vm_id: (host, domain(""))
    plugger = cast(Any, SimpleNamespace(devices=tools, attach=unanswered))
    with pytest.raises(VmNotResponding):
        hotplug_hostdev(plugger, host.devices, HotplugVmHostdev(vm_id=VM, devices=[CARD, SECOND]))
    assert host.taken() == {CARD: VM, SECOND: VM}
    host.timers.pop()()
    assert (host.taken(), host.timers) == ({}, [])


# On libvirt's test driver


def test_devices_that_are_not_there_are_told_so(tmp_path: Path) -> None:
    with VirtRoom("test:///default", tmp_path) as room:
        (vm,) = room.call("Host.getVMList")
        with pytest.raises(HostdevDetachFailed, match=CARD):
            room.call("VM.hotplugHostdev", vmID=vm["vmId"], devices=[CARD])
        with pytest.raises(HostdevDetachFailed, match="given to a guest"):
            room.call("VM.hotplugHostdev", vmID=vm["vmId"], devices=["scsi_host1"])
        assert room.call("VM.hotunplugHostdev", vmID=vm["vmId"], devices=[CARD]) == []
        with pytest.raises(VmOperationFailed, match=CARD):
            room.call("Host.hostdevReattach", deviceName=CARD)
        assert room.call("Host.hostdevReattach", deviceName="scsi_host1")
        assert not (tmp_path / "hostdev").exists()


def test_a_name_with_a_nul_is_refused_and_no_bug_of_ours(tmp_path: Path) -> None:
    with VirtRoom("test:///default", tmp_path) as room, pytest.raises(VmOperationFailed, match="NUL"):
        room.call("Host.hostdevReattach", deviceName="computer\0")
