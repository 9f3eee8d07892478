# SPDX-License-Identifier: Apache-2.0
"""Runs inside a testbed host with an IOMMU: devices of the host in real guests, and back.

    python -m tests.testbed.hostdev_room SCENE...

The host has two network cards (00:08.0, 00:09.0), an NVMe drive with virtual functions (01:00.0), a USB stick, a USB
tablet and a SCSI disk 0:0:1:2. A scene asserts what it sees; its name on stdout says that it is over.
"""

import json
import os
import pwd
import re
import shutil
import signal
import subprocess
import sys
import time
import traceback
import uuid
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from tests.support import decode
from tests.support.bootsector import last_tick, write_boot_disk
from tests.support.eventually import eventually
from tests.support.virt_room import VirtRoom, vm_xml
from tests.testbed.network_room import LIBEXEC
from vdsm_mp.api.errors_network import BadNetworkParameters, UsedNic
from vdsm_mp.api.errors_virt import CannotCreateVm, HostdevDetachFailed, HotplugNicFailed, VmOperationFailed
from vdsm_mp.common import xml
from vdsm_mp.common.errors import Error
from vdsm_mp.network.sriov import VirtualFunctions
from vdsm_mp.priv import install
from vdsm_mp.priv.call import SudoRoot
from vdsm_mp.virt.connection import Connection
from vdsm_mp.virt.hostdev_taken import HostDevices
from vdsm_mp.virt.patience import patiently
from vdsm_mp.virt.plug import Plugger

FOLDER = Path("/var/lib/hostdev-room")
CARD, OTHER, DRIVE = "pci_0000_00_08_0", "pci_0000_00_09_0", "pci_0000_01_00_0"
DISK = "scsi_0_0_1_2"
VFIO = "vfio-pci"
_SCSI = '<controller type="scsi" model="virtio-scsi" index="0"/>'
#: In place of the one that every VM of the tests has, which is none.
_USB = ('<controller type="usb" model="none"/>', '<controller type="usb" model="qemu-xhci"/>')


def soon(condition: Callable[[], Any]) -> Any:
    """A host that is emulated on a busy machine takes minutes for what takes a second."""
    return eventually(condition, within_s=600, every_s=0.2)


class Host:
    def __init__(self) -> None:
        FOLDER.mkdir(mode=0o755, exist_ok=True)
        install.install(LIBEXEC, user="root", repository="/tmp")
        self.root = SudoRoot("virt", str(LIBEXEC))
        self._guest = ""
        self.room = self.open()

    def open(self) -> VirtRoom:
        room = VirtRoom("qemu:///system", FOLDER, command_timeout_s=600, root=self.root)
        soon(lambda: room.state(Connection).alive)
        room.state(Plugger)._unplug_s = 300.0
        return room

    def again(self) -> None:
        """As after a death of the worker."""
        self.room.close()
        self.room = self.open()

    def devices(self, *caps: str) -> dict[str, Any]:
        found = decode.check_hostdevs(patiently(lambda: self.room.call("Host.hostdevListByCaps", caps=list(caps))))
        return {name: device["params"] for name, device in found.items()}

    def usb(self, product: str) -> tuple[str, dict[str, str]]:
        """(name, address) of a USB device."""
        return next(
            (name, params["address"])
            for name, params in self.devices("usb_device").items()
            if product in params.get("product", "")
        )

    def create(self, devices: str = "", *, metadata: str = "", wait: bool = True) -> str:
        vm_id = str(uuid.uuid4())
        ids = {key: str(uuid.uuid4()) for key in ("poolID", "domainID", "imageID", "volumeID")}
        path = write_boot_disk(FOLDER / ids["volumeID"], releases=True)
        shutil.chown(path, "libvirt-qemu", "kvm")
        self.room.storage.images[ids["imageID"]] = path
        made = vm_xml(vm_id, serial=self.serial(vm_id), disk=ids, devices=devices + _SCSI, metadata=metadata)
        self.room.create(made.replace(*_USB), vm_id)
        if wait:
            soon(lambda: self.room.status(vm_id) in ("Up", "Powering up", "Down"))
            assert self.room.status(vm_id) != "Down", self.room.stats(vm_id)
            soon(lambda: last_tick(self.serial(vm_id)) > 0)
        return vm_id

    def guest(self) -> str:
        """A VM without host devices; one for all scenes, because a start takes long here."""
        if not self._guest:
            self._guest = self.create()
        assert self.has(self._guest) == 0
        return self._guest

    def serial(self, vm_id: str) -> Path:
        return FOLDER / f"{vm_id}.log"

    def destroy(self, vm_id: str) -> None:
        patiently(partial(self.room.call, "VM.destroy", vmID=vm_id, gracefulAttempts=0))

    def plug(self, vm_id: str, *names: str) -> list[str]:
        return list(patiently(lambda: self.room.call("VM.hotplugHostdev", vmID=vm_id, devices=list(names))))

    def unplug(self, vm_id: str, *names: str) -> list[str]:
        return list(self.room.call("VM.hotunplugHostdev", vmID=vm_id, devices=list(names)))

    def forget(self) -> None:
        """The guest of the scenes was destroyed by one."""
        self._guest = ""

    def has(self, vm_id: str) -> int:
        """How many host devices libvirt says it has."""
        dumped = patiently(lambda: self.room.call("Host.dumpxmls", vmList=[vm_id]))[vm_id]
        return len(xml.parse(dumped).findall("devices/hostdev"))

    def functions(self, name: str = "run") -> VirtualFunctions:
        return VirtualFunctions(SudoRoot("network", str(LIBEXEC)), str(FOLDER / name), str(FOLDER / "state"))

    def clear(self) -> None:
        """Nothing may be left of a scene."""
        for vm in self.room.call("Host.getVMList"):
            if vm["vmId"] != self._guest:
                self.destroy(vm["vmId"])
        soon(lambda: not taken() and VFIO not in map(driver, (CARD, OTHER, DRIVE)))
        assert self.room.background.failures == []


def driver(name: str) -> str:
    link = Path("/sys/bus/pci/devices") / pci(name) / "driver"
    return link.resolve().name if link.is_symlink() else ""


def pci(name: str) -> str:
    domain, bus, slot, function = name.removeprefix("pci_").split("_")
    return f"{domain}:{bus}:{slot}.{function}"


def qemu(vm_id: str) -> Path:
    """The process folder of its QEMU."""
    [found] = [p for p in Path("/proc").iterdir() if p.name.isdigit() and vm_id in _cmdline(p)]
    return found


def opened(vm_id: str) -> set[str]:
    """Kinds of host devices that its QEMU, which is not root, has open."""
    process = qemu(vm_id)
    assert process.stat().st_uid == pwd.getpwnam("libvirt-qemu").pw_uid
    targets = [str(link.readlink()) for link in (process / "fd").iterdir()]
    return {kind for kind in ("/dev/vfio/", "/dev/bus/usb/", "/dev/sg") if any(t.startswith(kind) for t in targets)}


def taken() -> list[str]:
    folder = FOLDER / "hostdev"
    return sorted(entry.name for entry in folder.iterdir()) if folder.exists() else []


def hostdev(kind: str, source: str) -> str:
    """As engines write it."""
    return f'<hostdev managed="no" mode="subsystem" type="{kind}"><source>{source}</source></hostdev>'


def raises(kind: type[Error], call: Callable[..., Any], *args: Any) -> str:
    try:
        call(*args)
    except kind as error:
        return str(error)
    raise AssertionError(f"{kind.__name__} was not raised")


def listed(host: Host) -> None:
    """What an engine reads of every kind of device."""
    found = host.devices()
    card = found[CARD]
    assert (card["capability"], card["driver"], card["is_assignable"]) == ("pci", "e1000e", "true")
    assert (card["vendor_id"], card["product_id"], card["parent"]) == ("0x8086", "0x10d3", "computer")
    assert card["address"] == {"domain": "0", "bus": "0", "slot": "8", "function": "0"}
    assert card["iommu_group"].isdigit()
    assert found["pci_0000_00_0a_0"]["is_assignable"] == "false"
    assert (found[DRIVE]["totalvfs"], found[DRIVE]["numvfs"]) == (3, 0)
    disk = found[DISK]
    assert (disk["capability"], disk["vendor"], disk["product"]) == ("scsi", "QEMU", "QEMU HARDDISK")
    assert disk["address"] == {"host": "0", "bus": "0", "target": "1", "lun": "2"}
    assert disk["block_path"].startswith("/dev/sd") and disk["udev_path"].startswith("/dev/sg")
    name, address = host.usb("Tablet")
    assert found[name]["vendor_id"] == "0x0627" and set(address) == {"bus", "device"}
    assert set(host.devices("scsi")) >= {DISK} and CARD not in host.devices("scsi")


def started(host: Host) -> None:
    """A VM starts with devices of every kind, and the host has them again when it ends, however it does."""
    address = " ".join(f'{key}="{value}"' for key, value in host.usb("Tablet")[1].items())
    devices = [
        hostdev("pci", '<address domain="0" bus="0" slot="8" function="0"/>'),
        hostdev("usb", f"<address {address}/>"),
        hostdev("scsi", '<adapter name="scsi_host0"/><address bus="0" target="1" unit="2"/>'),
    ]
    vm_id = host.create("".join(devices))
    assert host.has(vm_id) == 3
    assert (driver(CARD), taken()) == (VFIO, [CARD])
    assert opened(vm_id) == {"/dev/vfio/", "/dev/bus/usb/", "/dev/sg"}
    assert "belongs to VM" in raises(VmOperationFailed, reattach, host, CARD)
    other = host.create(devices[0], wait=False)
    soon(lambda: host.room.status(other) == "Down")
    assert f"{CARD} belongs to VM {vm_id}" in host.room.stats(other)["exitMessage"]
    host.destroy(other)
    assert (driver(CARD), taken()) == (VFIO, [CARD])
    host.destroy(vm_id)
    soon(lambda: driver(CARD) == "e1000e" and not taken())
    vm_id = host.create("".join(devices))
    os.kill(int(qemu(vm_id).name), signal.SIGKILL)
    soon(lambda: driver(CARD) == "e1000e" and not taken())
    assert host.room.status(vm_id) == "Down"


def _cmdline(process: Path) -> str:
    try:
        text = (process / "cmdline").read_bytes()
    except OSError:
        return ""
    return text.decode(errors="replace") if text.startswith(b"/usr/bin/qemu-system") else ""


def reattach(host: Host, name: str) -> None:
    host.room.call("Host.hostdevReattach", deviceName=name)


def plugged(host: Host) -> None:
    """Devices of every kind come into a running VM and leave it."""
    vm_id = host.guest()
    stick = host.usb("QEMU USB HARDDRIVE")[0]
    names = [CARD, stick, DISK]
    before = host.room.stats(vm_id)["hash"]
    assert host.plug(vm_id, *names) == names
    assert host.plug(vm_id, CARD) == [CARD]  # as after an answer that was lost
    assert (host.has(vm_id), driver(CARD), taken()) == (3, VFIO, [CARD])
    assert host.room.stats(vm_id)["hash"] != before
    assert host.unplug(vm_id, *names, OTHER) == names
    assert (host.has(vm_id), driver(CARD), taken()) == (0, "e1000e", [])
    assert host.plug(vm_id, OTHER, CARD) == [OTHER, CARD]
    assert host.unplug(vm_id, CARD) == [CARD]
    assert (driver(CARD), driver(OTHER), taken()) == ("e1000e", VFIO, [OTHER])
    assert host.unplug(vm_id, OTHER) == [OTHER]


def refused(host: Host) -> None:
    """One that cannot be taken spoils it for all; one that QEMU refuses costs itself. Others' bindings stay."""
    vm_id = host.guest()
    assert "pci_0000_00_1e_7" in raises(HostdevDetachFailed, host.plug, vm_id, CARD, "pci_0000_00_1e_7")
    assert "bridge" in raises(HostdevDetachFailed, host.plug, vm_id, CARD, "pci_0000_00_0a_0")
    assert raises(HostdevDetachFailed, host.plug, vm_id, CARD, "scsi_host0")
    assert (host.has(vm_id), driver(CARD), taken()) == (0, "e1000e", [])
    # One of a group whose other members the host uses: vfio does not open it.
    assert host.plug(vm_id, "pci_0000_00_1f_3", CARD) == [CARD]
    assert (driver("pci_0000_00_1f_3"), taken()) == ("i801_smbus", [CARD])
    assert host.unplug(vm_id, CARD) == [CARD]
    Path(f"/sys/bus/pci/devices/{pci(OTHER)}/driver_override").write_text(VFIO)
    Path(f"/sys/bus/pci/devices/{pci(OTHER)}/driver/unbind").write_text(pci(OTHER))
    Path("/sys/bus/pci/drivers_probe").write_text(pci(OTHER))
    assert host.plug(vm_id, OTHER) == [OTHER]
    assert taken() == []
    assert host.unplug(vm_id, OTHER) == [OTHER]
    assert driver(OTHER) == VFIO
    reattach(host, OTHER)
    assert driver(OTHER) == "e1000e"
    reattach(host, DISK)
    raises(VmOperationFailed, reattach, host, "scsi_9_9_9_9")


def functions(host: Host) -> None:
    """Virtual functions are made, given to a guest, kept while it has one, kept over a reboot, and removed."""
    vfs = host.functions()
    vfs.set(DRIVE, 2)
    vfs.set(DRIVE, 2)
    soon(lambda: "pci_0000_01_00_2" in host.devices("pci"))
    found = host.devices("pci")
    assert found["pci_0000_01_00_1"]["physfn"] == DRIVE
    assert (found[DRIVE]["numvfs"], found[DRIVE]["totalvfs"]) == (2, 3)
    vm_id = host.guest()
    assert host.plug(vm_id, "pci_0000_01_00_1") == ["pci_0000_01_00_1"]
    assert "0000:01:00.1" in raises(UsedNic, vfs.set, DRIVE, 0)
    assert host.unplug(vm_id, "pci_0000_01_00_1") == ["pci_0000_01_00_1"]
    vfs.set(DRIVE, 3)
    vfs.keep_safe()
    for number in (-1, 4):
        assert raises(BadNetworkParameters, vfs.set, DRIVE, number)
    for name in (CARD, "pci_0000_09_00_0", "eth0", "pci_0000_01_00_0/.."):
        assert raises(BadNetworkParameters, vfs.set, name, 1)
    vfs.set(DRIVE, 0)
    assert host.devices("pci")[DRIVE]["numvfs"] == 0
    host.functions("after-a-boot").start()
    assert Path("/sys/bus/pci/devices/0000:01:00.0/sriov_numvfs").read_text().strip() == "3"
    vfs.set(DRIVE, 0)


def cards(host: Host) -> None:
    """Virtual functions of a network card as cards of VMs, with address and VLAN; the card's own at 02:00.0."""
    vfs, name = host.functions(), "pci_0000_02_00_0"
    vfs.set(name, 2)
    [nic] = [entry.name for entry in Path("/sys/bus/pci/devices/0000:02:00.0/net").iterdir()]
    assert "UP" in _link(nic)["flags"]
    functions = {n for n, params in host.devices("pci").items() if params.get("physfn") == name}
    assert len(functions) == 2
    function = (Path("/sys/bus/pci/devices/0000:02:00.0/virtfn0")).resolve().name
    taken_name = "pci_" + re.sub("[:.]", "_", function)
    assert taken_name in functions
    own = driver(taken_name)
    domain, bus, slot, number = (f"0x{part}" for part in re.split("[:.]", function))
    where = f'domain="{domain}" bus="{bus}" slot="{slot}" function="{number}"'
    mac = "52:54:00:6d:90:02"
    card = (
        f'<interface type="hostdev" managed="no"><driver name="vfio"/><source><address type="pci" {where}/></source>'
        f'<mac address="{mac}"/><vlan><tag id="100"/></vlan><alias name="ua-{uuid.uuid4()}"/></interface>'
    )
    vlan = _function(nic)[1]
    vm_id = host.create(card)
    assert _function(nic) == (mac, 100)
    assert (driver(taken_name), taken()) == (VFIO, [taken_name])
    assert function in raises(UsedNic, vfs.set, name, 1)
    host.destroy(vm_id)
    soon(lambda: driver(taken_name) == own and not taken())
    # libvirt puts another address there, because drivers take none that is zero.
    assert _function(nic)[0] != mac and _function(nic)[1] == vlan

    vm_id = host.guest()
    params = {"xml": f"<hotplug><devices>{card}</devices></hotplug>"}
    host.room.call("VM.hotplugNic", vmID=vm_id, params=params)
    assert (driver(taken_name), taken()) == (VFIO, [taken_name])
    assert _function(nic) == (mac, 100)
    host.room.call("VM.hotunplugNic", vmID=vm_id, params=params)
    assert (driver(taken_name), taken()) == (own, [])
    assert _function(nic)[0] != mac and _function(nic)[1] == vlan
    missing = {"xml": params["xml"].replace(f'function="{number}"', 'function="0x7"')}
    raises(HotplugNicFailed, lambda: host.room.call("VM.hotplugNic", vmID=vm_id, params=missing))
    vfs.set(name, 0)


def _function(nic: str) -> tuple[str, int]:
    """(address, VLAN) that a card has for its first function."""
    told = _link(nic)["vfinfo_list"][0]
    return told["address"], next((vlan.get("vlan", 0) for vlan in told.get("vlan_list", [])), 0)


def _link(nic: str) -> dict[str, Any]:
    shown = subprocess.run(["ip", "-j", "-d", "link", "show", nic], check=True, capture_output=True, text=True).stdout
    found: dict[str, Any] = json.loads(shown)[0]
    return found


def arrives(host: Host) -> None:
    """What a VM that comes from another host wants is ready for it, and the host's again when it does not come."""

    def expect(vm_id: str, *devices: str) -> None:
        params = {"_srcDomXML": vm_xml(vm_id, devices="".join(devices)), "vmId": vm_id}
        host.room.call("VM.migrationCreate", vmID=vm_id, params=params)

    address = '<address type="pci" domain="0" bus="0" slot="{}" function="0"/>'
    card = f'<interface type="hostdev" managed="no"><source>{address.format(8)}</source></interface>'
    device = hostdev("pci", address.format(9))
    first, second = str(uuid.uuid4()), str(uuid.uuid4())
    expect(first, card)
    assert (driver(CARD), taken()) == (VFIO, [CARD])
    assert f"belongs to VM {first}" in raises(CannotCreateVm, expect, second, device, card)
    assert (driver(OTHER), taken()) == ("e1000e", [CARD])
    assert second not in [vm["vmId"] for vm in host.room.call("Host.getVMList")]
    host.destroy(first)
    soon(lambda: driver(CARD) == "e1000e" and not taken())
    expect(second, device, card)
    assert taken() == [CARD, OTHER]
    host.again()  # nobody knows of it any more
    soon(lambda: {driver(CARD), driver(OTHER)} == {"e1000e"} and not taken())


def deaths(host: Host) -> None:
    """Whenever the worker dies, a device is its VM's or the host's, or soon the host's again."""
    vm_id = host.guest()

    def dies_before(method: str, *verbs: str) -> None:
        host.room.close()
        argv = [sys.executable, "-m", "tests.testbed.hostdev_room", "die", method, vm_id, *verbs]
        assert subprocess.run(argv, check=False, timeout=1200).returncode == -signal.SIGKILL
        assert taken() == [CARD], method

    for method, *verbs in (
        ("_detach", "VM.hotplugHostdev"),
        ("attach", "VM.hotplugHostdev"),
        ("give_back", "VM.hotplugHostdev", "VM.hotunplugHostdev"),
    ):
        dies_before(method, *verbs)
        host.room = host.open()
        soon(lambda: driver(CARD) == "e1000e" and not taken())
        assert host.has(vm_id) == 0
    assert host.plug(vm_id, CARD) == [CARD]
    host.again()
    time.sleep(15)  # what a VM has is compared by then, and is not given back
    assert (host.has(vm_id), driver(CARD), taken()) == (1, VFIO, [CARD])
    dies_before("give_back", "VM.destroy")
    host.forget()
    host.room = host.open()
    soon(lambda: driver(CARD) == "e1000e" and not taken())


def die(method: str, vm_id: str, *verbs: str) -> None:
    """A worker that is killed where it would call that."""
    for owner in (HostDevices, Plugger):
        if hasattr(owner, method):
            setattr(owner, method, lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL))
    try:
        room = Host().room
        for verb in verbs:
            params = {"gracefulAttempts": 0} if verb == "VM.destroy" else {"devices": [CARD]}
            patiently(partial(room.call, verb, vmID=vm_id, **params))
        time.sleep(600)  # what is done in the background
    except BaseException:
        traceback.print_exc()
    # It lives on, which is a failure; its threads would keep an orderly end waiting.
    os._exit(1)


SCENES: dict[str, Callable[[Host], None]] = {
    one.__name__: one for one in (listed, started, plugged, refused, functions, cards, arrives, deaths)
}


def main() -> None:
    if sys.argv[1] == "die":
        die(*sys.argv[2:])
        return
    host = Host()
    for name in sys.argv[1:]:
        began = time.monotonic()
        SCENES[name](host)
        host.clear()
        print(f"SEEN {name} after {time.monotonic() - began:.1f} s", flush=True)
    for vm in host.room.call("Host.getVMList"):
        host.destroy(vm["vmId"])
    host.room.close()
    print("SEEN end of it", flush=True)


if __name__ == "__main__":
    main()
