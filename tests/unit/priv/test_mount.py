# SPDX-License-Identifier: Apache-2.0
"""What root runs to mount a volume of gluster, and what it leaves when it cannot."""

import os
import time
from pathlib import Path

import pytest

from vdsm_mp.priv import gluster, mount
from vdsm_mp.priv.child import Children, OperationFailed, Refused
from vdsm_mp.priv.context import Context


def context_of(repository: Path) -> Context:
    return Context({"repository": str(repository)}, Children(), time.monotonic() + 10, os.getuid(), os.getgid())


def test_a_volume_of_gluster_is_mounted_with_the_servers_to_fall_back_to() -> None:
    options = mount.checked_options("backup-volfile-servers=two.example:three.example,ro")
    assert mount.mount_argv("glusterfs", options, "one.example:/data") == [
        "/usr/bin/mount",
        "-c",
        "-t",
        "glusterfs",
        "-o",
        "backup-volfile-servers=two.example:three.example,ro,nosuid,nodev",
        "--",
        "one.example:/data",
    ]


@pytest.mark.parametrize("option", ["backup-volfile-servers=a b", "log-file=/etc/passwd", "xlator-option=a.b=c"])
def test_options_of_gluster_that_could_be_more_than_options_are_refused(option: str) -> None:
    with pytest.raises(Refused):
        mount.checked_options(option)


def test_without_gluster_s_program_its_absence_is_told_and_nothing_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mount, "_PROGRAMS", {"glusterfs": "/nowhere/mount.glusterfs"})
    params = {"remote": "one.example:/data", "vfs_type": "glusterfs", "options": ""}
    with pytest.raises(OperationFailed, match=r"/nowhere/mount\.glusterfs is not installed"):
        mount.mount_posix(context_of(tmp_path), params)
    assert list((tmp_path / "mnt/glusterSD").iterdir()) == []


def test_the_client_of_a_volume_is_kept_out_of_the_agent_s_unit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mount, "_SYSTEMD", tmp_path / "absent")
    assert mount.apart() == []
    monkeypatch.setattr(mount, "_SYSTEMD", tmp_path)
    assert mount.apart()[-2:] == ["--slice=vdsm-glusterfs", "--"]


def test_what_gluster_is_asked() -> None:
    wanted = [
        "/usr/sbin/gluster",
        "--mode=script",
        "--timeout=8",
        "--xml",
        "--remote-host=one",
        "volume",
        "info",
        "data",
    ]
    assert gluster.argv(["--remote-host=one"], "data") == wanted
