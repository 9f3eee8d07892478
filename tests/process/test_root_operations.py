# SPDX-License-Identifier: Apache-2.0
"""What root's helper does, behind the real sudo: mounts, firmware variables, TPM state, devices, a bridge."""

import base64
import json
import lzma
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support.eventually import eventually
from tests.support.loopdevice import MIB, ext4_on_loop
from tests.support.needs import needs_program, needs_root
from tests.support.roothelpers import Place
from vdsm_mp.api.errors import PrivilegedFailed
from vdsm_mp.priv.call import SudoRoot

pytestmark = [needs_root(), needs_program("sudo", "setpriv", "mkfs.ext4", "losetup")]

VM = "11111111-2222-3333-4444-555555555555"


def test_the_bridge_of_cards_without_a_network_is_made_once_and_is_up(place: Place) -> None:
    keeper = subprocess.Popen(["unshare", "--net", "sleep", "60"])
    try:
        eventually(lambda: os.readlink(f"/proc/{keeper.pid}/ns/net") != os.readlink("/proc/self/ns/net"))
        inside = ["nsenter", "--target", str(keeper.pid), "--net"]
        root = SudoRoot("network", str(place.libexec), sudo=inside)
        root.do("dummy-bridge")
        root.do("dummy-bridge")
        root.close()
        shown = subprocess.run(
            [*inside, "ip", "-j", "-d", "link", "show", ";vdsmdummy;"], check=True, capture_output=True
        )
        (link,) = json.loads(shown.stdout)
        assert (link["linkinfo"]["info_kind"], "UP" in link["flags"]) == ("bridge", True)
    finally:
        keeper.kill()
        keeper.wait(10)


def test_a_file_system_is_mounted_and_unmounted_by_the_name_of_its_device(
    place: Place, storage_root: SudoRoot, tmp_path: Path
) -> None:
    with ext4_on_loop(tmp_path / "fs.img", 16 * MIB) as device:
        name = device.replace("/", "_")
        try:
            first = storage_root.do("mount-posix", remote=device, vfs_type="ext4", options="noatime")
            again = storage_root.do("mount-posix", remote=device, vfs_type="ext4")
            mounts = Path("/proc/mounts").read_text()
        finally:
            storage_root.do("umount", remote=device)
    target = str(place.repository / "mnt" / name)
    assert first == {"path": target, "already": False}
    assert again == {"path": target, "already": True}
    assert f"{device} {target} ext4 rw,nosuid,nodev,noatime" in mounts
    assert not Path(target).exists()
    assert storage_root.do("umount", remote=device)["already"]


def test_a_mount_point_that_the_agent_turned_into_a_link_is_refused(
    place: Place, storage_root: SudoRoot, tmp_path: Path
) -> None:
    with ext4_on_loop(tmp_path / "fs.img", 16 * MIB) as device:
        mnt = place.repository / "mnt"
        mnt.mkdir(exist_ok=True)
        link = mnt / device.replace("/", "_")
        link.symlink_to("/etc")
        try:
            with pytest.raises(PrivilegedFailed, match="not a plain folder"):
                storage_root.do("mount-posix", remote=device, vfs_type="ext4")
        finally:
            link.unlink()
    assert " /etc " not in Path("/proc/mounts").read_text()


def test_a_mnt_folder_that_the_agent_turned_into_a_link_is_refused(place: Place, storage_root: SudoRoot) -> None:
    mnt = place.repository / "mnt"
    aside = place.repository / "aside"
    mnt.mkdir(exist_ok=True)
    mnt.rename(aside)
    mnt.symlink_to("/")
    try:
        with pytest.raises(PrivilegedFailed, match="not a plain folder"):
            storage_root.do("umount", remote="proc")
    finally:
        mnt.unlink()
        aside.rename(mnt)
    assert Path("/proc/self").exists()


@pytest.mark.parametrize("remote", ["/etc/passwd", "/dev/null", "/dev/../etc/passwd", "relative", "a b:/x", "..", "."])
def test_only_block_devices_and_remote_paths_are_mounted(storage_root: SudoRoot, remote: str) -> None:
    with pytest.raises(PrivilegedFailed):
        storage_root.do("mount-posix", remote=remote, vfs_type="ext4")


def test_uefi_variables_are_read_and_written_in_place(place: Place) -> None:
    virt = place.root_of("virt")
    path = place.root / "nvram" / f"{VM}.fd"
    assert virt.do("read-nvram", vm_id=VM)["data"] == ""
    content = os.urandom(60_000)
    for offset in range(0, len(content), 30_000):
        piece = base64.b64encode(content[offset : offset + 30_000]).decode()
        virt.do("write-nvram", vm_id=VM, offset=offset, data=piece, last=offset == 30_000)
    assert base64.b64decode(virt.do("read-nvram", vm_id=VM)["data"]) == content
    assert path.stat().st_mode & 0o777 == 0o600
    path.unlink()
    path.symlink_to("/etc/shadow")
    with pytest.raises(PrivilegedFailed):
        virt.do("read-nvram", vm_id=VM)
    path.unlink()


def test_pieces_that_do_not_follow_each_other_change_nothing(place: Place) -> None:
    virt = place.root_of("virt")
    with pytest.raises(PrivilegedFailed, match="follow"):
        virt.do("write-nvram", vm_id=VM, offset=10, data="AAAA", last=True)
    assert not (place.root / "nvram" / f"{VM}.fd").exists()


def test_tpm_state_comes_back_as_it_was(place: Place) -> None:
    virt = place.root_of("virt")
    folder = place.root / "tpm" / VM / "tpm2"
    folder.mkdir(parents=True)
    (folder / "tpm2-00.permall").write_bytes(b"state")
    data = virt.do("read-tpm", vm_id=VM)["data"]
    assert virt.do("read-tpm", vm_id=VM)["data"] == data
    (folder / "tpm2-00.permall").write_bytes(b"other")
    virt.do("write-tpm", vm_id=VM, offset=0, data=data, last=True)
    assert (folder / "tpm2-00.permall").read_bytes() == b"state"
    shutil.rmtree(place.root / "tpm")
    virt.do("write-tpm", vm_id=VM, offset=0, data=data, last=True)
    assert (folder / "tpm2-00.permall").read_bytes() == b"state"


def test_tpm_state_goes_to_hosts_that_run_vdsm_and_comes_from_them(place: Place, tmp_path: Path) -> None:
    """There it is unpacked and packed by tar with xz, from the folder that swtpm has for the VM."""
    virt = place.root_of("virt")
    folder = place.root / "tpm" / VM / "tpm2"
    folder.mkdir(parents=True)
    (folder / ".lock").touch()
    (folder / "tpm2-00.permall").write_bytes(b"state" * 1000)
    packed = base64.b64decode(virt.do("read-tpm", vm_id=VM)["data"])
    subprocess.run(["tar", "--extract", "--xz", f"--directory={tmp_path}"], input=packed, check=True)
    assert (tmp_path / "tpm2" / "tpm2-00.permall").read_bytes() == b"state" * 1000

    (tmp_path / "tpm2" / "tpm2-00.permall").write_bytes(b"later")
    (tmp_path / "tpm2" / ".lock").touch()
    tar = ["tar", "--create", "--xz", "--sort=name", f"--directory={tmp_path}", "."]
    theirs = base64.b64encode(subprocess.run(tar, capture_output=True, check=True).stdout).decode()
    virt.do("write-tpm", vm_id=VM, offset=0, data=theirs, last=True)
    assert (folder / "tpm2-00.permall").read_bytes() == b"later"


@pytest.mark.parametrize(
    "content",
    [b"no xz", lzma.compress(b"no tar"), lzma.compress(b"cut")[:-5], lzma.compress(bytes(64 << 20))],
    ids=["no-xz", "no-tar", "cut", "bomb"],
)
def test_tpm_state_that_makes_no_sense_changes_nothing(place: Place, content: bytes) -> None:
    virt = place.root_of("virt")
    folder = place.root / "tpm" / VM / "tpm2"
    folder.mkdir(parents=True)
    (folder / "tpm2-00.permall").write_bytes(b"state")
    with pytest.raises(PrivilegedFailed, match="TPM state"):
        virt.do("write-tpm", vm_id=VM, offset=0, data=base64.b64encode(content).decode(), last=True)
    assert (folder / "tpm2-00.permall").read_bytes() == b"state"


def test_devices_that_are_not_there_are_refused(place: Place) -> None:
    network, virt = place.root_of("network"), place.root_of("virt")
    with pytest.raises(PrivilegedFailed, match="no virtual functions"):
        network.do("vfs-set", card="ffff:ff:1f.7", number=1)
    with pytest.raises(PrivilegedFailed, match="makes no mediated devices"):
        virt.do("mdev-create", card="ffff:ff:1f.7", type="nvidia-11", uuid=VM)
    virt.do("mdev-remove", uuid=VM)
