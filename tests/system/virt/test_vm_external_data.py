# SPDX-License-Identifier: Apache-2.0
"""UEFI variables that the engine kept are there when the VM starts, and come back as they are.

The firmware is SeaBIOS in flash: it leaves the variables alone, so whatever QEMU has mapped can be compared.
"""

import base64
import os
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.eventually import eventually
from tests.support.libvirtd import PrivateLibvirtd
from tests.support.needs import needs_program, needs_root
from tests.support.virt_room import VirtRoom, vm_xml
from vdsm_mp.api.errors_virt import CannotCreateVm, NoSuchVm
from vdsm_mp.priv import install
from vdsm_mp.priv.call import SudoRoot
from vdsm_mp.virt.externaldata import ExternalData

pytestmark = [pytest.mark.system, needs_root(), needs_program("libvirtd", "qemu-system-x86_64", "unshare", "nsenter")]

FIRMWARE = "/usr/share/seabios/bios-256k.bin"
OS = '<os><type arch="x86_64" machine="pc">hvm</type>'


@pytest.fixture
def root(libvirtd: PrivateLibvirtd, folder: Path) -> Iterator[SudoRoot]:
    """The helper as it is installed, started by root itself."""
    install.install(
        folder / "libexec", nvram_dir=str(libvirtd.root / "lib/qemu/nvram"), tpm_dir=str(libvirtd.root / "lib/swtpm")
    )
    port = SudoRoot("virt", str(folder / "libexec"), sudo=())
    yield port
    port.close()


def uefi_xml(vm_id: str, name: str = "") -> str:
    file = f"/var/lib/libvirt/qemu/nvram/{name or vm_id}.fd"
    place = f'<loader readonly="yes" type="pflash">{FIRMWARE}</loader><nvram>{file}</nvram>'
    return vm_xml(vm_id).replace(OS, OS + place)


def test_variables_are_in_place_when_a_vm_starts(libvirtd: PrivateLibvirtd, folder: Path, root: SudoRoot) -> None:
    vm_id, content = str(uuid.uuid4()), os.urandom(128 << 10)
    text = base64.b64encode(content).decode()
    file = libvirtd.root / "lib/qemu/nvram" / f"{vm_id}.fd"
    with VirtRoom(libvirtd.uri, folder, root=root) as room:
        room.create(uefi_xml(vm_id), vm_id, _X_nvramdata=text)
        eventually(lambda: room.status(vm_id) != "WaitForLaunch", within_s=30)
        assert room.status(vm_id) in ("Up", "Powering up"), room.stats(vm_id)
        assert file.read_bytes() == content
        assert file.owner() == "libvirt-qemu"
        answer = room.call("VM.getExternalData", vmID=vm_id, kind="nvram", forceUpdate=True)
        assert answer["_X_data"] == text
        assert "_X_data" not in room.call("VM.getExternalData", vmID=vm_id, kind="nvram", lastHash=answer["hash"])
        room.call("VM.destroy", vmID=vm_id, gracefulAttempts=0)
        assert not file.exists()

        with pytest.raises(CannotCreateVm, match="base64"):
            room.create(uefi_xml(vm_id), vm_id, _X_nvramdata="%")
        assert room.call("Host.getVMList") == []
        room.create(uefi_xml(vm_id, "other"), vm_id, _X_nvramdata=text)
        eventually(lambda: room.status(vm_id) == "Down")
        assert "named by its id" in room.stats(vm_id)["exitMessage"]
        room.call("VM.destroy", vmID=vm_id)
        assert room.background.failures == []


TPM = '<tpm model="tpm-crb"><backend type="emulator" version="2.0"/></tpm>'


@needs_program("swtpm", "swtpm_setup")
def test_the_state_of_a_tpm_goes_with_its_vm_to_another_start(
    libvirtd: PrivateLibvirtd, folder: Path, root: SudoRoot
) -> None:
    vm_id = str(uuid.uuid4())
    state = libvirtd.root / "lib/swtpm" / vm_id / "tpm2" / "tpm2-00.permall"
    with VirtRoom(libvirtd.uri, folder, root=root) as room:
        room.create(vm_xml(vm_id, devices=TPM), vm_id)
        eventually(lambda: room.status(vm_id) != "WaitForLaunch", within_s=30)
        assert room.status(vm_id) in ("Up", "Powering up"), room.stats(vm_id)

        def read() -> dict[str, str] | None:
            """The TPM writes its state while it starts: until two looks agree."""
            found: dict[str, str] = room.call("VM.getExternalData", vmID=vm_id, kind="tpm", forceUpdate=True)
            room.state(ExternalData).beat()
            return found if room.stats(vm_id)["tpmHash"] == found["hash"] else None

        assert eventually(read, within_s=20, every_s=0.2) is not None
        # An engine asks once more when the VM has ended, before it destroys it.
        libvirtd.virsh("destroy", vm_id)
        eventually(lambda: room.status(vm_id) == "Down", within_s=30)
        kept = room.call("VM.getExternalData", vmID=vm_id, kind="tpm", forceUpdate=True)
        content = state.read_bytes()
        room.call("VM.destroy", vmID=vm_id, gracefulAttempts=0)
        assert not state.exists()
        with pytest.raises(NoSuchVm):
            room.call("VM.getExternalData", vmID=vm_id, kind="tpm", forceUpdate=True)

        room.create(vm_xml(vm_id, devices=TPM), vm_id, _X_tpmdata=kept["_X_data"])
        eventually(lambda: room.status(vm_id) != "WaitForLaunch", within_s=30)
        assert room.status(vm_id) in ("Up", "Powering up"), room.stats(vm_id)
        # A TPM without this state would have been made anew, with other seeds; this one counts its starts.
        again = state.read_bytes()
        assert len(again) == len(content)
        assert sum(a != b for a, b in zip(again, content, strict=True)) < 32
        room.call("VM.destroy", vmID=vm_id)
        assert room.background.failures == []
