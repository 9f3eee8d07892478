# SPDX-License-Identifier: Apache-2.0
"""What engines make decisions of: which file system the kernel boots from, and whether a crash tells fence agents."""

from pathlib import Path

import pytest

from vdsm_mp.host import osinfo
from vdsm_mp.host.machine import Machine

BOOT, ROOT = "1111-AAAA", "22222222-0000-4000-8000-000000000002"
ON_ROOT = "25 1 8:2 / / rw,relatime shared:1 - ext4 /dev/sda2 rw"
SEPARATE = "30 25 8:1 / /boot rw,relatime - vfat /dev/sda1 rw"
ON_LVM = "25 1 253:0 / / rw - xfs /dev/mapper/vg-root rw"
ON_BTRFS = "25 1 0:35 /@ / rw - btrfs /dev/sda2 rw,subvol=/@"
UNDER_BOOT = "31 30 8:3 / /boot/efi rw - vfat /dev/sda3 rw"


def machine(root: Path, *mounts: str, devices: dict[str, str] | None = None) -> Machine:
    """devices: {UUID: kernel's name}."""
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/mountinfo").write_text("\n".join(mounts) + "\n")
    for folder in ("dev/disk/by-uuid", "sys/dev/block"):
        (root / folder).mkdir(parents=True)
    for uuid, name in (devices or {BOOT: "sda1", ROOT: "sda2"}).items():
        (root / "dev/disk/by-uuid" / uuid).symlink_to(f"../../{name}")
    for number, name in {"8:1": "sda1", "8:2": "sda2", "8:3": "sda3", "253:0": "dm-0"}.items():
        (root / "sys/dev/block" / number).symlink_to(f"../../devices/{name}")
    return Machine(root)


@pytest.mark.parametrize(
    ("mounts", "uuid"),
    [
        ((ON_ROOT,), ROOT),
        ((ON_ROOT, SEPARATE, UNDER_BOOT), BOOT),
        ((ON_BTRFS,), ROOT),
        ((ON_ROOT.replace("/dev/sda2", "/dev/root"),), ROOT),
        ((SEPARATE.replace("8:1", "8:9").replace("sda1", "sdz9"), ON_ROOT), ""),
        ((), ""),
        (("no mount at all", "1 2 3 -"), ""),
    ],
)
def test_the_file_system_of_boot_is_told_by_its_uuid(tmp_path: Path, mounts: tuple[str, ...], uuid: str) -> None:
    assert osinfo.boot_uuid(machine(tmp_path, *mounts)) == uuid


def test_a_boot_file_system_on_a_logical_volume_is_found_by_its_number(tmp_path: Path) -> None:
    assert osinfo.boot_uuid(machine(tmp_path, ON_LVM, devices={ROOT: "dm-0"})) == ROOT


def test_without_such_devices_nobody_knows(tmp_path: Path) -> None:
    assert osinfo.boot_uuid(Machine(tmp_path)) == ""


@pytest.mark.parametrize(
    ("loaded", "config", "status"),
    [
        ("1\n", "path /var/crash\nfence_kdump_nodes 192.0.2.1\n", 1),
        ("1\n", "#fence_kdump_nodes 192.0.2.1\n", 0),
        ("1\n", None, -1),
        ("0\n", "fence_kdump_nodes 192.0.2.1\n", 0),
        (None, "fence_kdump_nodes 192.0.2.1\n", -1),
    ],
)
def test_a_crash_counts_when_fence_agents_are_told_of_it(
    tmp_path: Path, loaded: str | None, config: str | None, status: int
) -> None:
    for name, text in (("sys/kernel/kexec_crash_loaded", loaded), ("etc/kdump.conf", config)):
        (tmp_path / name).parent.mkdir(parents=True)
        if text is not None:
            (tmp_path / name).write_text(text)
    assert osinfo.kdump_status(Machine(tmp_path)) == status


@pytest.mark.parametrize(("enforce", "mode"), [("1", "1"), ("0\n", "0"), (None, "-1")])
def test_a_kernel_without_selinux_is_told_from_one_that_only_warns(
    tmp_path: Path, enforce: str | None, mode: str
) -> None:
    if enforce is not None:
        (tmp_path / "sys/fs/selinux").mkdir(parents=True)
        (tmp_path / "sys/fs/selinux/enforce").write_text(enforce)
    assert osinfo.selinux_mode(Machine(tmp_path)) == mode
