# SPDX-License-Identifier: Apache-2.0
"""Guests with NUMA nodes of their own, on huge pages: what grows in them, and what does not and leaves no trace."""

import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.eventually import eventually
from tests.support.libvirtd import PrivateLibvirtd
from tests.support.needs import lacks, needs_program, needs_root
from tests.support.virt_room import VirtRoom, vm_xml
from vdsm_mp.api.errors_virt import HotplugMemoryFailed, SetNumberOfCpusFailed
from vdsm_mp.common import xml

pytestmark = [pytest.mark.system, needs_root(), needs_program("libvirtd", "qemu-system-x86_64", "unshare", "nsenter")]

_PAGES = Path("/sys/kernel/mm/hugepages/hugepages-2048kB")
#: Of 2 MiB: 64 MiB to start with, 32 MiB to plug.
_WANTED = 48
_NODES = (
    '<cpu match="exact"><model>Cascadelake-Server</model><topology cores="1" threads="1" sockets="4"/><numa>'
    '<cell id="0" cpus="0-1" memory="32768" memAccess="shared"/>'
    '<cell id="1" cpus="2-3" memory="32768" memAccess="shared"/></numa></cpu><maxMemory slots="16">1048576</maxMemory>'
    '<memoryBacking><hugepages><page size="2048"/></hugepages></memoryBacking>'
    '<numatune><memnode cellid="0" mode="strict" nodeset="0"/>'
    '<memnode cellid="1" mode="preferred" nodeset="0"/></numatune>'
)


@pytest.fixture
def pages(libvirtd: PrivateLibvirtd) -> Iterator[None]:
    """As an administrator sets them aside: free pages, and a file system for QEMU."""
    total = _PAGES / "nr_hugepages"
    if not total.exists() or "hugetlbfs" not in Path("/proc/filesystems").read_text():
        lacks("huge pages")
    total.write_text(str(int(total.read_text()) + _WANTED))
    try:
        if int((_PAGES / "free_hugepages").read_text()) < _WANTED:
            lacks("memory for huge pages")
        place = libvirtd.root / "huge"
        place.mkdir()
        inside = ["nsenter", "--target", str(libvirtd.inner_pid), "--mount"]
        subprocess.run([*inside, "mount", "-t", "hugetlbfs", "none", str(place)], check=True, timeout=10)
        libvirtd.stop()
        libvirtd.launch()
        yield
    finally:
        total.write_text(str(max(0, int(total.read_text()) - _WANTED)))


def free() -> int:
    return int((_PAGES / "free_hugepages").read_text())


def test_a_guest_on_huge_pages_grows_in_the_node_that_it_is_told(pages: None, room: VirtRoom) -> None:
    before, vm_id = free(), str(uuid.uuid4())
    text = vm_xml(vm_id, memory_mib=64).replace('<cpu mode="host-passthrough"/>', _NODES)
    room.create(text, vm_id)
    eventually(lambda: room.status(vm_id) != "WaitForLaunch", within_s=30)
    assert room.status(vm_id) in ("Up", "Powering up"), room.stats(vm_id)
    assert before - free() >= 32

    def plug(size_mib: int, node: int) -> str:
        alias = f"ua-{uuid.uuid4()}"
        dimm = (
            '<memory model="dimm"><source><pagesize unit="KiB">2048</pagesize></source><target>'
            f'<size unit="KiB">{size_mib << 10}</size><node>{node}</node></target><alias name="{alias}"/></memory>'
        )
        params = {"vmId": vm_id, "xml": f"<?xml version='1.0'?><hotplug><devices>{dimm}</devices></hotplug>"}
        room.call("VM.hotplugMemory", vmID=vm_id, params=params)
        return alias

    alias = plug(32, 1)
    for size_mib, node, why in ((512, 0, "Cannot allocate memory"), (32, 7, "guest node '7'"), (0, 0, "size")):
        with pytest.raises(HotplugMemoryFailed, match=why):
            plug(size_mib, node)
    domain = xml.parse(room.call("Host.dumpxmls", vmList=[vm_id])[vm_id])
    [dimm] = domain.findall("devices/memory")
    assert (xml.text_of(dimm, "target/node"), xml.attributes(dimm.find("alias"))["name"]) == ("1", alias)
    assert xml.text_of(domain, "memory") == str((64 + 32) << 10)

    room.call("VM.destroy", vmID=vm_id, gracefulAttempts=0)
    eventually(lambda: free() >= before, within_s=10)


def test_cpus_that_cannot_be_pinned_are_not_added(libvirtd: PrivateLibvirtd, room: VirtRoom) -> None:
    vm_id = str(uuid.uuid4())
    room.create(vm_xml(vm_id), vm_id)
    eventually(lambda: room.status(vm_id) in ("Up", "Powering up"), within_s=30)
    for wrong in ("4000", "", "x", "5-2"):
        with pytest.raises(SetNumberOfCpusFailed):
            room.call("VM.setNumberOfCpus", vmID=vm_id, numberOfCpus=2, cpusets=["0", wrong])
        assert libvirtd.virsh("vcpucount", f"vm-{vm_id[:8]}", "--live", "--active").strip() == "1"
        assert room.stats(vm_id)["vcpuCount"] == 1
    for number in (0, -1, 2**32 + 2, 2 - 2**32):
        with pytest.raises(SetNumberOfCpusFailed):
            room.call("VM.setNumberOfCpus", vmID=vm_id, numberOfCpus=number)
    assert room.stats(vm_id)["vcpuCount"] == 1
    room.call("VM.setNumberOfCpus", vmID=vm_id, numberOfCpus=2, cpusets=["0", "0", "4000"])
    assert room.stats(vm_id)["vcpuCount"] == 2
