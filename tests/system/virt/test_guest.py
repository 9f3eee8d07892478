# SPDX-License-Identifier: Apache-2.0
"""A Linux guest with its agent, through the door of a whole house: what it tells, and what it sees.

One guest is booted for all tests that run in one process, on a volume of a file domain; none needs another's traces.
"""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from demonstration import sequences
from tests.support import decode, linuxguest
from tests.support.engine import Engine
from tests.support.enginedisks import DiskLife
from tests.support.eventually import eventually
from tests.support.house import RunningHouse
from tests.support.libvirtd import PrivateLibvirtd
from tests.support.linuxguest import LinuxGuest
from tests.support.needs import needs_program, needs_root
from vdsm_mp.common import xml
from vdsm_mp.virt.desktop import channel_state
from vdsm_mp.virt.metadata import Metadata

pytestmark = [
    pytest.mark.system,
    pytest.mark.timeout(180),
    needs_root(),
    needs_program("libvirtd", "qemu-system-x86_64", "qemu-ga", "busybox", "cpio", "unshare", "nsenter"),
]

NS = 'xmlns:ovirt-vm="http://ovirt.org/vm/1.0"'
MAC = "56:6f:00:00:00:01"


class Life:
    """The house, its engine and the guest that they share."""

    def __init__(self, house: RunningHouse, libvirtd: PrivateLibvirtd) -> None:
        self._libvirtd = libvirtd
        self.engine = Engine(house.client())
        self.ask = self.engine.ask
        self.log = house.log_text
        path = house.root / "data"
        path.mkdir()
        shutil.chown(path, "vdsm", "kvm")
        for folder in (path, house.root / "repo"):
            folder.chmod(0o755)
        storage = sequences.Storage(str(path))
        sequences.from_nothing(self.ask, storage, "guest")
        self.disk = sequences.Disk(storage, size_bytes=16 << 20, form=sequences.RAW)
        sequences.create_disk(self.ask, self.disk, "guest")
        volume = path / storage.sd_id / "images" / self.disk.image_id / self.disk.volume_id
        linuxguest.file_system(volume)
        self.start()

    def start(self) -> None:
        """A VM that has not been before, until its guest's agent is there."""
        self.vm_id = sequences.new_id()
        serial = self._libvirtd.root / f"serial-{self.vm_id}.log"
        self.guest = LinuxGuest(self._libvirtd, self.vm_id, serial)
        text = linuxguest.linux_xml(self.vm_id, linuxguest.build(), serial, disk=self.disk.ids(), devices=DEVICES)
        self.ask("VM.create", vmID=self.vm_id, vmParams={"vmId": self.vm_id, "xml": text})
        eventually(lambda: "GUEST: ready" in self.guest.said, within_s=120, every_s=0.2)
        eventually(lambda: self.guest.agent("guest-ping") == {}, within_s=30, every_s=0.2)

    @property
    def stats(self) -> Any:
        return sequences.vm_stats(self.ask, self.vm_id)

    @property
    def xml(self) -> str:
        return str(self.ask("Host.dumpxmls", vmList=[self.vm_id])[self.vm_id])

    def metadata_of(self, name: str) -> dict[str, Any]:
        found = Metadata.of_domain(xml.parse(self.xml))
        return {} if found is None else found.device(devtype="disk", name=name)

    def vm(self, verb: str, **params: Any) -> Any:
        return self.ask(f"VM.{verb}", vmID=self.vm_id, **params)


DEVICES = (
    f'<interface type="user"><mac address="{MAC}"/><model type="virtio"/><alias name="ua-card"/></interface>'
    '<channel type="unix"><target type="virtio" name="com.redhat.rhevm.vdsm"/></channel>'
    '<controller type="scsi" model="virtio-scsi" index="0"/>'
    '<disk type="file" device="cdrom"><target dev="sdc" bus="scsi"/><readonly/></disk>'
)


@pytest.fixture(scope="module")
def life(libvirtd: PrivateLibvirtd) -> Iterator[Life]:
    options = {"vars": {"time_sync_cont_enable": True}}
    with RunningHouse.start(options, tls=True, libvirt_uri=libvirtd.uri) as house:
        yield Life(house, libvirtd)


def test_the_agent_tells_of_its_guest(life: Life) -> None:
    stats = eventually(lambda: s if (s := life.stats)["guestIPs"] and s["guestCPUCount"] > 0 else None, within_s=30)
    decode.check_vm_stats(stats, running=True)
    assert (stats["guestName"], stats["guestFQDN"]) == ("linux-guest", "linux-guest")
    assert (stats["username"], stats["session"]) == ("alice", "Active")
    assert stats["guestTimezone"] == {"zone": "UTC", "offset": 0}
    system = stats["guestOsInfo"]
    assert (system["type"], system["distribution"], system["version"]) == ("linux", "Test Linux", "7")
    version = life.guest.agent("guest-info")["version"]
    assert stats["appsList"] == [f"kernel-{stats['guestOs']}", f"qemu-guest-agent-{version}"]
    (card,) = stats["netIfaces"]
    assert (card["hw"], card["inet"]) == (MAC, ["10.0.2.15"])
    assert stats["guestIPs"] == "10.0.2.15"
    assert stats["guestCPUCount"] == 1
    assert [(fs["path"], fs["fs"]) for fs in stats["disksUsage"]] == [("/mnt/data", "ext4")]
    eventually(lambda: int(life.stats.get("memoryStats", {}).get("mem_total", 0)) > 0, within_s=30, every_s=0.5)


#: An agent of the old kind, as small as it gets: it tells its state when asked for it, and writes down what it hears.
OLD_AGENT = """exec 3<>/dev/virtio-ports/com.redhat.rhevm.vdsm
while :; do
    read -r line <&3 || { sleep 0.1; continue; }  # nobody there
    echo "$line" >>/tmp/heard
    case $line in *refresh*) echo '{"__name__": "heartbeat", "free-ram": "100", "apiVersion": 3}' >&3 ;; esac
done"""


def test_the_old_agent_is_told_what_a_client_wants_and_one_that_is_not_there_is_an_error(life: Life) -> None:
    def refused(why: str) -> None:
        with pytest.raises(sequences.Refused, match=why) as error:
            life.vm("desktopLock")
        assert error.value.code == 19

    refused("nobody in the guest listens")
    # It has the channel open, and does nothing with it.
    life.guest.leave("echo $$ >/tmp/pid; exec sleep 1000 </dev/virtio-ports/com.redhat.rhevm.vdsm")
    eventually(lambda: channel_state(life.xml) == "connected", within_s=10, every_s=0.2)
    refused("said nothing")
    life.guest.run("kill $(cat /tmp/pid)")
    eventually(lambda: channel_state(life.xml) == "disconnected", within_s=10, every_s=0.2)
    life.guest.leave(f"echo $$ >/tmp/pid\n{OLD_AGENT}")
    eventually(lambda: channel_state(life.xml) == "connected", within_s=10, every_s=0.2)
    life.vm("desktopLock")
    life.vm("desktopLogin", domain="example.com", username="alice", password="pass w0rd \"'\\")
    life.vm("desktopLogoff", force=True)
    life.vm("desktopSendHcCommand", message="vendor-thing")
    heard = eventually(lambda: t if "vendor" in (t := life.guest.run("cat /tmp/heard")) else "", within_s=10)
    told = [json.loads(line) for line in heard.splitlines()]
    assert [one for one in told if one["__name__"] != "refresh"] == [
        {"__name__": "lock-screen"},
        {"__name__": "login", "username": "alice@example.com", "password": "pass w0rd \"'\\"},
        {"__name__": "log-off"},
        {"__name__": "vendor-thing"},
    ]
    assert "w0rd" not in life.log()
    life.guest.run("kill $(cat /tmp/pid); rm /tmp/heard")


def test_file_systems_freeze_and_thaw(life: Life) -> None:
    life.vm("freeze")
    assert life.guest.agent("guest-fsfreeze-status") == "frozen"
    life.vm("thaw")
    assert life.guest.agent("guest-fsfreeze-status") == "thawed"
    assert life.guest.run("echo new >/mnt/data/file && cat /mnt/data/file") == "new\n"


def test_a_snapshot_is_of_frozen_file_systems(life: Life) -> None:
    work = DiskLife(life.ask, sequences.Vm("guest", life.disk, vm_id=life.vm_id), life.disk)
    new = work.new_volume(life.disk.volume_id)
    life.guest.run("echo kept >/mnt/data/before")  # not synced: the freeze has to write it
    work.snapshot(life.disk.volume_id, new)
    assert work.chain() == [new, life.disk.volume_id]
    assert b"kept\n" in Path(work.path(life.disk.volume_id)).read_bytes()
    assert life.guest.agent("guest-fsfreeze-status") == "thawed"
    assert life.guest.run("echo after >/mnt/data/after; sync; cat /mnt/data/before") == "kept\n"
    assert b"after\n" not in Path(work.path(life.disk.volume_id)).read_bytes()


def test_the_guest_sees_memory_come(life: Life) -> None:
    before = int(life.guest.run("awk '/MemTotal/{print $2}' /proc/meminfo"))
    dimm = '<devices><memory model="dimm"><target><size unit="MiB">128</size><node>0</node></target></memory></devices>'
    life.vm("hotplugMemory", params={"xml": f"<hotplug>{dimm}</hotplug>"})
    blocks = "cd /sys/devices/system/memory; grep -l offline memory*/state"
    life.guest.sees(blocks, "memory")
    life.guest.run(f"for s in $({blocks}); do echo online_movable >/sys/devices/system/memory/$s; done")
    life.guest.sees(f"test $(awk '/MemTotal/{{print $2}}' /proc/meminfo) -gt {before + 65536} && echo more", "more")
    assert "<memory model='dimm'" in life.xml.replace('"', "'")
    with pytest.raises(sequences.Refused):
        life.vm("hotplugMemory", params={"xml": f"<hotplug>{dimm.replace('>128<', '>100000<')}</hotplug>"})


def test_the_guest_sees_a_processor_come(life: Life) -> None:
    life.vm("setNumberOfCpus", numberOfCpus="2")
    life.guest.sees("ls -d /sys/devices/system/cpu/cpu1", "cpu1")
    life.guest.sees("echo 1 >/sys/devices/system/cpu/cpu1/online; nproc", "2")
    assert life.stats["vcpuCount"] == 2


def test_the_guest_sees_disks_come_go_and_grow(life: Life) -> None:
    disk = sequences.Disk(life.disk.storage, size_bytes=1 << 20, form=sequences.RAW)
    sequences.create_disk(life.ask, disk, "second")
    ids = "".join(f"<ovirt-vm:{key}>{value}</ovirt-vm:{key}>" for key, value in disk.ids().items())
    plug = f"""<hotplug {NS}><devices><disk type="file" device="disk"><driver name="qemu" type="raw"/>
<source file="/predicted"/><target dev="vdb" bus="virtio"/><alias name="ua-{disk.image_id}"/></disk></devices>
<metadata><ovirt-vm:vm><ovirt-vm:device devtype="disk" name="vdb">{ids}</ovirt-vm:device></ovirt-vm:vm></metadata>
</hotplug>"""
    life.vm("hotplugDisk", params={"xml": plug})
    life.guest.sees("cat /sys/block/vdb/size", "2048")
    size = life.vm("diskSizeExtend", driveSpecs=disk.ids() | {"device": "disk"}, newSize=str(2 << 20))
    assert size == str(2 << 20)
    life.guest.sees("cat /sys/block/vdb/size", "4096")
    life.vm("hotunplugDisk", params={"xml": plug})
    assert life.guest.run("ls /sys/block/vdb 2>/dev/null") == ""
    assert disk.volume_id not in life.xml


def test_the_guest_sees_its_cards_link_and_another_card(life: Life) -> None:
    carrier = "cat /sys/class/net/eth0/carrier"
    card = {"deviceType": "interface", "alias": "ua-card"}
    life.vm("updateDevice", params=card | {"linkActive": False})
    life.guest.sees(carrier, "0")
    life.vm("updateDevice", params=card | {"linkActive": True})
    life.guest.sees(carrier, "1")
    other = "56:6f:00:00:00:02"
    plug = (
        f'<hotplug {NS}><devices><interface type="user"><mac address="{other}"/><model type="virtio"/>'
        f'</interface></devices><metadata><ovirt-vm:vm><ovirt-vm:device mac_address="{other}"/>'
        "</ovirt-vm:vm></metadata></hotplug>"
    )
    life.vm("hotplugNic", params={"xml": plug})
    life.guest.sees("cat /sys/class/net/eth*/address", other)
    life.vm("hotunplugNic", params={"xml": plug})
    assert other not in life.guest.run("cat /sys/class/net/eth*/address")


def test_what_the_guest_calls_its_disks_is_in_the_xml(life: Life) -> None:
    """Engines read it there, and fetch the XML again when the hash is another."""
    eventually(lambda: life.stats.get("diskMapping"), within_s=60, every_s=0.3)
    assert life.stats["diskMapping"] == {life.disk.image_id[:20]: {"name": "/dev/vda"}}
    known = eventually(lambda: m if (m := life.metadata_of("vda")).get("guestName") else None, within_s=10)
    assert (known["guestName"], known["imageID"]) == ("/dev/vda", life.disk.image_id)


def test_an_agent_that_is_silent_or_floods_harms_nobody(life: Life) -> None:
    def all_is_well(target_kib: int) -> None:
        stats = life.stats
        assert (stats["monitorResponse"], stats["guestName"]) == ("0", "linux-guest")
        life.vm("setBalloonTarget", target=str(target_kib))
        life.ask("Host.ping2")

    eventually(lambda: life.stats.get("guestName"), within_s=30, every_s=0.3)
    life.guest.leave("killall -STOP qemu-ga; echo GUEST: silent >/dev/ttyS0; sleep 2; killall -CONT qemu-ga")
    eventually(lambda: "GUEST: silent" in life.guest.said)
    all_is_well(190 << 10)
    eventually(lambda: life.guest.agent("guest-fsfreeze-status") == "thawed", within_s=30, every_s=0.5)

    noise = f"yes {'x' * 60} >/dev/virtio-ports/org.qemu.guest_agent.0"
    flood = f"echo GUEST: noisy >/dev/ttyS0; timeout 2 {noise}"
    life.guest.leave(f"touch /tmp/no-agent; killall -9 qemu-ga; sleep 0.3; {flood}; rm /tmp/no-agent")
    eventually(lambda: "GUEST: noisy" in life.guest.said)
    all_is_well(192 << 10)
    eventually(lambda: life.guest.agent("guest-fsfreeze-status") == "thawed", within_s=60, every_s=0.5)
