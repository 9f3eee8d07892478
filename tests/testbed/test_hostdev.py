# SPDX-License-Identifier: Apache-2.0
"""Devices of a host with an IOMMU in real guests: PCI, USB, SCSI, virtual functions, and deaths of the worker between.

A host of QEMU's, booted for this: the IOMMU and the devices are QEMU's own, the kernel, libvirt and vfio are Debian's.
"""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.needs import lacks, needs_program, needs_root
from tests.testbed.asks import folders, must
from tests.testbed.qemu import Hardware
from tests.testbed.testbed import Testbed

pytestmark = [needs_root(), needs_program("mmdebstrap", "mke2fs", "qemu-system-x86_64"), pytest.mark.timeout(8000)]

_DEVICES = (
    "-device intel-iommu,intremap=on,caching-mode=on",
    "-device e1000e,bus=pcie.0,addr=0x8,mac=52:54:00:88:00:01",
    "-device e1000e,bus=pcie.0,addr=0x9,mac=52:54:00:88:00:02",
    "-device pcie-root-port,id=rp1,chassis=1,bus=pcie.0,addr=0xa",
    "-device nvme-subsys,id=sub0",
    "-device nvme,serial=vfs,subsys=sub0,bus=rp1,sriov_max_vfs=3,sriov_vq_flexible=6,sriov_vi_flexible=3,"
    "max_ioqpairs=10,msix_qsize=8",
    "-device qemu-xhci,id=xhci,bus=pcie.0,addr=0xb",
    "-blockdev driver=null-co,node-name=stick,size=1048576",
    "-device usb-storage,bus=xhci.0,drive=stick",
    "-device usb-tablet,bus=xhci.0",
    "-device virtio-scsi-pci,id=scsi,bus=pcie.0,addr=0xc",
    "-blockdev driver=null-co,node-name=disk,size=1048576",
    "-device scsi-hd,drive=disk,bus=scsi.0,scsi-id=1,lun=2",
)
#: systemd would have made /dev/vfio/vfio at the boot, which libvirt looks for.
_PREPARE = "udevadm settle -t 300; modprobe vfio-pci && tb-start libvirtd"
#: A network card with virtual functions, which QEMU has since 8.0.
_CARD = ("-device pcie-root-port,id=rp2,chassis=2,bus=pcie.0,addr=0xd", "-device igb,bus=rp2,mac=52:54:00:88:00:03")


def _has_card() -> bool:
    shown = subprocess.run(["qemu-system-x86_64", "-device", "help"], check=True, capture_output=True, text=True)
    return '"igb"' in shown.stdout


_CARDS = "cards"
_SCENES = ("listed", "started", "plugged", "refused", "functions", _CARDS, "arrives", "deaths")


@pytest.fixture(scope="module")
def told() -> str:
    """What the scenes said, all on one host."""
    card = _has_card()
    words = tuple(word for line in (*_DEVICES, *(_CARD if card else ())) for word in line.split(" ", 1))
    hardware = Hardware(devices=words, kernel="intel_iommu=on", folders=tuple(folders()))
    project = str(Path(__file__).parents[2])
    with Testbed(backend="qemu", memory=1536, nics=0, project=project, hardware=hardware, start_timeout=1200) as bed:
        (host,) = bed.hosts
        must(host.run(_PREPARE, timeout=1200))
        scenes = " ".join(scene for scene in _SCENES if card or scene != _CARDS)
        room = f"{sys.executable} -m tests.testbed.hostdev_room {scenes} 2>&1"
        # Compiling costs a program that starts there many seconds; several start.
        result = host.run(f"cd /project && PYTHONPYCACHEPREFIX=/var/cache/python {room}", timeout=6000)
        print(result.output[-4000:], f"exit status {result.status}", file=sys.stderr)
        return result.output


@pytest.mark.parametrize("scene", [*_SCENES, "end"])
def test_devices_go_to_guests_and_come_back(told: str, scene: str) -> None:
    if scene == _CARDS and not _has_card():
        lacks("a QEMU with a card that has virtual functions, 8.0 or newer")
    assert f"SEEN {scene} " in told, told[-4000:]
