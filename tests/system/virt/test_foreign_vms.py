# SPDX-License-Identifier: Apache-2.0
"""VMs of another QEMU host, over TCP: listed, and their disks copied."""

import contextlib
import os
import socket
import subprocess
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.eventually import eventually
from tests.support.libvirtd import PrivateLibvirtd
from tests.support.needs import needs_program, needs_root
from tests.support.virt_room import VirtRoom
from vdsm_mp.api.errors_virt import NoConvertedVm
from vdsm_mp.api.internal import GetVirtJobs

pytestmark = [pytest.mark.system, needs_root(), needs_program("libvirtd", "qemu-system-x86_64", "unshare", "nsenter")]

MIB = 1 << 20
_VM = """<domain type="qemu"><name>{name}</name><uuid>{uuid}</uuid><memory unit="MiB">64</memory><vcpu>2</vcpu>
<os><type arch="x86_64" machine="pc">hvm</type></os>
<devices><emulator>/usr/bin/qemu-system-x86_64</emulator>{devices}
<disk type="file" device="cdrom"><target dev="hdc" bus="ide"/></disk>
<interface type="bridge"><mac address="52:54:00:00:00:01"/><source bridge="br9"/><model type="virtio"/></interface>
</devices></domain>"""
_DISK = """<disk type="file" device="disk"><driver name="qemu" type="{form}"/><source file="{path}"/>
<target dev="{dev}" bus="virtio"/></disk>"""


@pytest.fixture
def other(libvirtd: PrivateLibvirtd) -> Iterator[str]:
    """Its URI; a relay stands for the network between the two."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        relay = threading.Thread(target=_relay, args=(server, libvirtd.socket))
        relay.start()
        yield f"qemu+tcp://127.0.0.1:{server.getsockname()[1]}/system"
        server.shutdown(socket.SHUT_RDWR)
        relay.join(10)


def _relay(server: socket.socket, to: Path) -> None:
    """One connection after the other, as the children make them."""
    with contextlib.suppress(OSError):  # closed by the fixture
        while True:
            near, _ = server.accept()
            with near, socket.socket(socket.AF_UNIX) as far:
                far.connect(str(to))
                back = threading.Thread(target=_pump, args=(far, near))
                back.start()
                _pump(near, far)
                back.join(10)


def _pump(one: socket.socket, two: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := one.recv(1 << 16):
            two.sendall(data)
    with contextlib.suppress(OSError):
        two.shutdown(socket.SHUT_RDWR)


def define(libvirtd: PrivateLibvirtd, name: str, *disks: tuple[Path, str]) -> str:
    vm_id = str(uuid.uuid4())
    devices = "".join(_DISK.format(form=form, path=path, dev=f"vd{'abc'[n]}") for n, (path, form) in enumerate(disks))
    text = libvirtd.root / f"{name}.xml"
    text.write_text(_VM.format(name=name, uuid=vm_id, devices=devices))
    libvirtd.virsh("define", str(text))
    return vm_id


def volume(room: VirtRoom, folder: Path, mib: int) -> dict[str, str]:
    ids = {"imageID": str(uuid.uuid4()), "volumeID": str(uuid.uuid4())}
    path = folder / ids["volumeID"]
    path.write_bytes(b"\xff" * (mib * MIB))
    room.storage.images[ids["imageID"]] = path
    return ids


def converted(room: VirtRoom, uri: str, name: str, *disks: dict[str, str], **more: str) -> dict[str, Any]:
    job_id = str(uuid.uuid4())
    info = {"vmName": name, "poolID": job_id, "domainID": job_id, "disks": list(disks), **more}
    room.call("Host.convertExternalVm", uri=uri, username="", password="", vminfo=info, jobid=job_id)

    def over() -> Any:
        told = room.ask(GetVirtJobs())[job_id]
        return told if told["status"] in ("done", "failed", "aborted") else None

    told: dict[str, Any] = eventually(over, within_s=60)
    return told


@pytest.fixture
def pool(libvirtd: PrivateLibvirtd, folder: Path) -> Iterator[Path]:
    place = folder / "pool"
    place.mkdir()
    libvirtd.virsh("pool-create-as", place.parent.name, "dir", "--target", str(place))
    yield place
    libvirtd.virsh("pool-destroy", place.parent.name)


def test_vms_are_listed_as_an_engine_reads_them(
    room: VirtRoom, libvirtd: PrivateLibvirtd, folder: Path, pool: Path, other: str
) -> None:
    apart, within = folder / "apart", pool / "within"
    apart.write_bytes(b"x" * MIB)
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", within, "8M"], check=True, timeout=30)
    libvirtd.virsh("pool-refresh", folder.name)
    vm_id = define(libvirtd, "listed", (apart, "raw"), (within, "qcow2"))
    define(libvirtd, "torn", (folder / "missing", "raw"))
    account = {"uri": other, "username": "nobody", "password": "x"}
    assert {"listed", "torn"} <= set(room.call("Host.getExternalVMNames", **account))
    (vm,) = room.call("Host.getExternalVMs", **account, vm_names=["listed", "torn"])
    disks = vm.pop("disks")
    assert vm == {
        "vmName": "listed", "vmId": vm_id, "status": "Down", "memSize": 64, "smp": 2, "arch": "x86_64",
        "has_snapshots": False,
        "networks": [{"type": "bridge", "macAddr": "52:54:00:00:00:01", "bridge": "br9", "model": "virtio"}],
    }  # fmt: skip
    assert [(d["type"], d["dev"], d["format"], d["alias"], d["capacity"]) for d in disks] == [
        ("disk", "vda", "RAW", str(apart), str(MIB)),
        ("disk", "vdb", "COW", str(within), str(8 * MIB)),
    ]
    assert all(d["allocation"].isdigit() for d in disks)


def test_disks_are_copied_byte_by_byte(
    room: VirtRoom, libvirtd: PrivateLibvirtd, folder: Path, pool: Path, other: str
) -> None:
    apart, within = folder / "raw", pool / "cow"
    apart.write_bytes(os.urandom(MIB) + bytes(6 * MIB) + os.urandom(MIB + 512))
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", within, "8M"], check=True, timeout=30)
    subprocess.run(["qemu-io", "-c", "write -P 7 1M 3M", within], check=True, timeout=30, capture_output=True)
    libvirtd.virsh("pool-refresh", folder.name)
    define(libvirtd, "moves", (apart, "raw"), (within, "qcow2"))
    first, second = volume(room, folder, 10), volume(room, folder, 1)
    told = converted(room, other, "moves", first, second)
    assert (told["status"], told["progress"]) == ("done", 100.0), told
    target = room.storage.images[first["imageID"]]
    # The volume keeps its length; what lies behind the copy is empty.
    assert target.read_bytes() == apart.read_bytes() + bytes(2 * MIB - 512)
    assert target.stat().st_blocks * 512 < 4 * MIB
    copy = room.storage.images[second["imageID"]]
    words = ["qemu-img", "compare", "-f", "qcow2", "-F", "qcow2", within, copy]
    subprocess.run(words, check=True, timeout=30, capture_output=True)
    assert sorted(room.storage.released) == sorted([first["imageID"], second["imageID"]])
    with pytest.raises(NoConvertedVm):
        room.call("Host.getConvertedVm", jobid=told["id"])


def test_one_that_does_not_fit_or_is_not_there_is_told(
    room: VirtRoom, libvirtd: PrivateLibvirtd, folder: Path, other: str
) -> None:
    apart = folder / "one"
    apart.write_bytes(b"x" * MIB)
    define(libvirtd, "fits-not", (apart, "raw"))
    one, two = volume(room, folder, 1), volume(room, folder, 1)
    assert "has 1 disks, not 2" in converted(room, other, "fits-not", one, two)["description"]
    told = converted(room, other, "nobody-here", one)
    assert told["status"] == "failed"
    assert "nobody-here" in told["error"]["message"]
    assert room.storage.images[one["imageID"]].read_bytes() == b"\xff" * MIB


def test_preallocated_ones_are_written_in_full(
    room: VirtRoom, libvirtd: PrivateLibvirtd, folder: Path, other: str
) -> None:
    apart = folder / "zeros"
    apart.write_bytes(b"x" + bytes(4 * MIB - 1))
    define(libvirtd, "full", (apart, "raw"))
    disk = volume(room, folder, 4)
    assert converted(room, other, "full", disk, allocation="Preallocated")["status"] == "done"
    target = room.storage.images[disk["imageID"]]
    assert target.read_bytes() == apart.read_bytes()
    assert target.stat().st_blocks * 512 >= 4 * MIB
