# SPDX-License-Identifier: Apache-2.0
"""A Linux guest that UEFI boots: what it keeps in its firmware is kept by the engine, and there in its next life."""

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import linuxguest
from tests.support.eventually import eventually
from tests.support.libvirtd import PrivateLibvirtd
from tests.support.linuxguest import LinuxGuest
from tests.support.needs import lacks, needs_program, needs_root
from tests.support.virt_room import VirtRoom
from tests.system.virt.conftest import image
from vdsm_mp.priv import install
from vdsm_mp.priv.call import SudoRoot

pytestmark = [
    pytest.mark.system,
    pytest.mark.timeout(600),
    needs_root(),
    needs_program("libvirtd", "qemu-system-x86_64", "qemu-ga", "busybox", "cpio", "unshare", "nsenter"),
]

FIRMWARE = Path("/usr/share/OVMF")
OS = '<os><type arch="x86_64" machine="pc">hvm</type>'
_VARIABLE = "/efi/Kept-6f0c4ec1-5f7e-4f34-9e7c-1d9a0f6c2b11"
_MOUNT = "mkdir -p /efi; mount -t efivarfs efivarfs /efi 2>/dev/null"


@pytest.fixture
def root(libvirtd: PrivateLibvirtd, folder: Path) -> Iterator[SudoRoot]:
    """The helper as it is installed, started by root itself."""
    install.install(folder / "libexec", nvram_dir=str(libvirtd.root / "lib/qemu/nvram"))
    port = SudoRoot("virt", str(folder / "libexec"), sudo=())
    yield port
    port.close()


def test_what_a_guest_keeps_in_its_firmware_is_there_in_its_next_life(
    libvirtd: PrivateLibvirtd, folder: Path, root: SudoRoot
) -> None:
    if not FIRMWARE.is_dir():
        lacks("UEFI firmware (package ovmf)")
    vm_id = str(uuid.uuid4())
    file = libvirtd.root / "lib/qemu/nvram" / f"{vm_id}.fd"
    with VirtRoom(libvirtd.uri, folder, root=root) as room:
        disk = image(room, folder, b"")
        linuxguest.file_system(folder / disk["imageID"] / disk["volumeID"])

        def boot(**more: str) -> LinuxGuest:
            guest = LinuxGuest(libvirtd, vm_id, folder / f"{uuid.uuid4()}.log")
            text = linuxguest.linux_xml(vm_id, linuxguest.build(), guest.serial, disk=disk).replace(
                OS,
                f'{OS}<loader readonly="yes" type="pflash">{FIRMWARE}/OVMF_CODE.fd</loader>'
                f'<nvram template="{FIRMWARE}/OVMF_VARS.fd">/var/lib/libvirt/qemu/nvram/{vm_id}.fd</nvram>',
            )
            room.create(text, vm_id, **more)
            eventually(lambda: "GUEST: ready" in guest.said or room.status(vm_id) == "Down", within_s=240, every_s=0.2)
            assert room.status(vm_id) in ("Up", "Powering up"), room.stats(vm_id)
            eventually(lambda: guest.agent("guest-ping") == {}, within_s=60, every_s=0.3)
            return guest

        guest = boot()
        guest.run(f"{_MOUNT}; printf '\\007\\000\\000\\000remembered' >{_VARIABLE}")
        kept = room.call("VM.getExternalData", vmID=vm_id, kind="nvram", forceUpdate=True)
        room.call("VM.destroy", vmID=vm_id, gracefulAttempts=0)
        assert not file.exists()

        guest = boot(_X_nvramdata=kept["_X_data"])
        assert guest.run(f"{_MOUNT}; tail -c +5 {_VARIABLE}") == "remembered"
        room.call("VM.destroy", vmID=vm_id, gracefulAttempts=0)
        assert not file.exists()
        assert room.background.failures == []
