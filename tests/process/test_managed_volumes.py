# SPDX-License-Identifier: Apache-2.0
"""Managed volumes: the storage room, root's helper behind the real sudo, a real loop device.

os-brick is a stand-in; one test takes the real one where it is installed.
"""

import contextlib
import grp
import json
import os
import pwd
import shutil
import sqlite3
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.brick import python_with_brick
from tests.support.loopdevice import MIB, empty, loop
from tests.support.needs import needs_program, needs_root
from tests.support.room import Called
from vdsm_mp.api.errors_managed import (
    ManagedVolumeAlreadyAttached,
    ManagedVolumeConnectionMismatch,
    ManagedVolumeHelperFailed,
    ManagedVolumeNotSupported,
    ManagedVolumeUnsupportedDevice,
)
from vdsm_mp.common.options import Config, House, Irs
from vdsm_mp.priv import install, sudoers
from vdsm_mp.priv.call import SudoRoot
from vdsm_mp.storage import managed

pytestmark = [needs_root(), needs_program("sudo", "setpriv", "losetup", "mkfs.ext4"), pytest.mark.timeout(120)]

VOLUME, OTHER = "7a000000-aaaa-4bbb-8ccc-000000000001", "7a000000-aaaa-4bbb-8ccc-000000000002"
SD = "5d000000-0000-4000-8000-00000000007a"


class Host:
    """The helpers under a prefix of their own, and a storage room that may be started again over the same state."""

    def __init__(self, python: str | None = None, *, with_brick: bool = True) -> None:
        self.root = Path(tempfile.mkdtemp(prefix="vdsm-mp-managed-", dir="/tmp"))
        self.root.chmod(0o755)
        for name in ("repo", "run", "vrun", "state"):
            (self.root / name).mkdir()
        self._notes = self.root / "notes"
        install.install(
            self.root / "libexec",
            repository=str(self.root / "repo"),
            python=python or python_with_brick(self.root / "venv", self._notes if with_brick else None),
        )
        self._rules = Path(f"/etc/sudoers.d/{self.root.name}")
        fresh = self._rules.with_name(f".{self._rules.name}.new")
        fresh.write_text(sudoers.rules(str(self.root / "libexec"), "vdsm"))
        fresh.chmod(0o440)
        fresh.rename(self._rules)
        user = pwd.getpwnam("vdsm")
        step_down = ["setpriv", "--reuid", str(user.pw_uid), "--regid", str(user.pw_gid), "--init-groups", "--"]
        self._sudo_root = SudoRoot("storage", str(self.root / "libexec"), sudo=[*step_down, "sudo", "-n"])
        self.start()

    def start(self) -> None:
        config = Config(
            irs=Irs(repository=str(self.root / "repo")),
            vdsm_mp=House(
                run_dir=str(self.root / "run"),
                vdsm_run_dir=str(self.root / "vrun"),
                state_dir=str(self.root / "state"),
            ),
        )
        self.room = Called("vdsm_mp.workers.storage", config, root=self._sudo_root)

    def restart(self) -> None:
        self.room.stop()
        self.start()

    def attach(self, info: dict[str, Any], vol_id: str = VOLUME) -> dict[str, Any]:
        found: dict[str, Any] = self.room.call(
            "ManagedVolume.attach_volume", vol_id=vol_id, sd_id=SD, connection_info=info
        )
        return found

    def detach(self, vol_id: str = VOLUME) -> None:
        assert self.room.call("ManagedVolume.detach_volume", vol_id=vol_id, sd_id=SD) is True

    def infos(self, *vol_ids: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.room.call("ManagedVolume.volumes_info", vol_ids=list(vol_ids))
        return found

    def notes(self) -> list[list[Any]]:
        return [json.loads(line) for line in self._notes.read_text().splitlines()] if self._notes.exists() else []

    @contextlib.contextmanager
    def busy(self) -> Iterator[None]:
        mark = Path(f"{self._notes}.busy")
        mark.touch()
        yield
        mark.unlink()

    def link(self, vol_id: str = VOLUME) -> Path:
        return self.root / "vrun/managedvolumes" / f"{SD}_{vol_id}"

    @property
    def db(self) -> Path:
        return self.root / "state/storage/managedvolume.db"

    def close(self) -> None:
        self.room.stop()
        self._sudo_root.close()
        self._rules.unlink()
        shutil.rmtree(self.root)


def needs_users() -> None:
    try:
        grp.getgrnam("kvm")
        pwd.getpwnam("vdsm")
    except KeyError:
        pytest.skip("not installed: user vdsm")


@contextlib.contextmanager
def running(*args: Any, **more: Any) -> Iterator[Host]:
    needs_users()
    made = Host(*args, **more)
    try:
        yield made
    finally:
        made.close()


@pytest.fixture
def host() -> Iterator[Host]:
    with running() as made:
        yield made


@pytest.fixture
def device(tmp_path: Path) -> Iterator[str]:
    with loop(empty(tmp_path / "volume.img", 8 * MIB)) as found:
        yield found


def local(device: str, **more: Any) -> dict[str, Any]:
    return {"driver_volume_type": "local", "data": {"device_path": device, **more}}


def test_a_volume_is_attached_used_and_detached(host: Host, device: str) -> None:
    info = local(device)
    assert host.attach(info) == {
        "vol_id": VOLUME,
        "attachment": {"type": "block", "path": device},
        "path": device,
        "managed_path": str(host.link()),
    }
    assert os.path.realpath(host.link()) == device
    owner = os.stat(device)
    assert (owner.st_uid, stat.S_IMODE(owner.st_mode)) == (pwd.getpwnam("vdsm").pw_uid, 0o660)
    assert grp.getgrgid(owner.st_gid).gr_name in ("qemu", "kvm")
    subprocess.run(
        ["setpriv", "--reuid", "vdsm", "--regid", "kvm", "--clear-groups", "--", "dd", "if=/dev/zero",
         f"of={host.link()}", "bs=4096", "count=1", "conv=notrunc", "status=none"],
        check=True,
    )  # fmt: skip
    assert host.infos() == [
        {
            "vol_id": VOLUME,
            "connection_info": info,
            "path": device,
            "exists": True,
            "attachment": {"type": "block", "path": device},
        }
    ]
    assert host.infos(OTHER) == []
    host.detach()
    assert (host.infos(), host.link().is_symlink()) == ([], False)
    assert [what for what, *_ in host.notes()] == ["connect", "disconnect"]
    host.detach()
    assert len(host.notes()) == 2


def test_a_volume_is_attached_once_with_one_connection(host: Host, device: str) -> None:
    host.attach(local(device))
    with pytest.raises(ManagedVolumeAlreadyAttached, match=device):
        host.attach(local(device))
    with pytest.raises(ManagedVolumeConnectionMismatch):
        host.attach(local(device, more=1))
    assert len(host.notes()) == 1
    host.restart()
    with pytest.raises(ManagedVolumeAlreadyAttached):
        host.attach(local(device))
    host.detach()


def test_what_is_refused_leaves_no_record(host: Host, device: str) -> None:
    wrong = {
        "nfs": {"driver_volume_type": "nfs", "data": {"export": "server:/x"}},
        "no multipath": {"driver_volume_type": "iscsi", "data": {"device_path": device}},
        "adapter": {**local(device), "adapter": "../x"},
    }
    for info in wrong.values():
        with pytest.raises(ManagedVolumeUnsupportedDevice):
            host.attach(info)
    for info in (
        local("/etc/shadow"),
        local(device, x="-oProxyCommand=x"),
        local(device, x="a\nb"),
        local(device, uuid="../x"),
    ):
        with pytest.raises(ManagedVolumeHelperFailed, match="not allowed"):
            host.attach(info)
    with pytest.raises(ManagedVolumeHelperFailed, match="said no"):
        host.attach(local(device, fail=True))
    with pytest.raises(ManagedVolumeHelperFailed, match="managedvolume-helper-linstor"):
        host.attach({**local(device), "adapter": "linstor"})
    assert host.infos() == []
    # The one without multipath was attached, and taken down again.
    assert [what for what, *_ in host.notes()] == ["connect", "disconnect", "connect"]


def test_a_device_that_the_host_uses_is_given_to_nobody(host: Host, device: str, tmp_path: Path) -> None:
    subprocess.run(["mkfs.ext4", "-q", device], check=True)
    (tmp_path / "mnt").mkdir()
    subprocess.run(["mount", device, tmp_path / "mnt"], check=True)
    before = os.stat(device).st_uid
    try:
        with pytest.raises(ManagedVolumeUnsupportedDevice, match="busy"):
            host.attach(local(device))
        assert os.stat(device).st_uid == before
    finally:
        subprocess.run(["umount", tmp_path / "mnt"], check=True)
    with pytest.raises(ManagedVolumeUnsupportedDevice, match="not a block device"):
        host.attach(local("/dev/null"))
    assert host.infos() == []


def test_an_attach_that_does_not_end_is_told_and_detached(
    host: Host, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(managed, "_ROOT_S", 2.0)
    info = local(device, hang=True)
    with pytest.raises(ManagedVolumeHelperFailed, match="not known"):
        host.attach(info)
    assert host.infos() == [{"vol_id": VOLUME, "connection_info": info}]
    monkeypatch.undo()
    host.restart()
    host.detach()
    assert host.infos() == []
    assert host.notes()[-1] == ["disconnect", info["data"], {}]


def test_an_attach_that_was_cut_short_is_asked_again(host: Host, device: str) -> None:
    info = local(device)
    host.attach(info)
    # A worker that died behind os-brick: the record has no path, whether or not there is a link.
    with contextlib.closing(sqlite3.connect(host.db)) as db, db:
        db.execute("UPDATE volumes SET path = NULL, attachment = NULL")
    assert host.infos() == [{"vol_id": VOLUME, "connection_info": info}]
    host.restart()
    assert host.attach(info)["path"] == device
    assert host.infos()[0]["exists"] is True


def test_a_detach_that_fails_stays_recorded(host: Host, device: str) -> None:
    host.attach(local(device))
    with host.busy(), pytest.raises(ManagedVolumeHelperFailed, match="device is busy"):
        host.detach()
    assert (len(host.infos()), host.link().is_symlink()) == (1, True)
    host.detach()
    assert host.infos() == []


def test_after_a_start_of_the_host_a_volume_is_attached_anew(host: Host, device: str) -> None:
    info = local(device)
    host.attach(info)
    shutil.rmtree(host.root / "vrun/managedvolumes")
    assert host.attach(info)["managed_path"] == str(host.link())
    with contextlib.closing(sqlite3.connect(host.db)) as db, db:
        db.execute("UPDATE volumes SET path = '/dev/gone'")
    before = len(host.notes())
    host.detach()
    assert (len(host.notes()), host.infos()) == (before, [])


def test_records_of_vdsm_are_read(host: Host, device: str) -> None:
    host.db.parent.mkdir()
    info = local(device)
    with contextlib.closing(sqlite3.connect(host.db)) as db:
        db.executescript(
            "CREATE TABLE volumes (vol_id TEXT PRIMARY KEY, path TEXT, connection_info TEXT, attachment TEXT, "
            "multipath_id TEXT, updated datetime); CREATE UNIQUE INDEX multipath_id ON volumes (multipath_id);"
            "CREATE TABLE versions (version INTEGER PRIMARY KEY, description TEXT, updated datetime);"
            'INSERT INTO versions VALUES (1, "Initial version", datetime("now"));'
        )
        row = (VOLUME, device, json.dumps(info).encode(), json.dumps({"path": device}).encode())
        with db:
            db.execute("INSERT INTO volumes VALUES (?, ?, ?, ?, NULL, datetime('now'))", row)
    assert host.infos(VOLUME)[0]["attachment"] == {"path": device}
    host.detach()
    assert host.notes() == [["disconnect", info["data"], {"path": device}]]
    with contextlib.closing(sqlite3.connect(host.db)) as db, db:
        db.execute("UPDATE versions SET version = 2")
    with pytest.raises(ManagedVolumeHelperFailed, match="version 2"):
        host.infos()


def test_passwords_of_connections_are_not_open_to_others(host: Host, device: str) -> None:
    host.attach(local(device, auth_password="geheim"))
    assert stat.S_IMODE(host.db.stat().st_mode) == 0o600


def test_os_brick_tells_of_the_host(host: Host) -> None:
    found = host.room.call("internal.connector_info")
    assert found == {"multipath": True, "initiator": "iqn.test", "uid": 0}


def test_without_os_brick_it_is_said_so(device: str) -> None:
    with running(with_brick=False) as host:
        with pytest.raises(ManagedVolumeNotSupported):
            host.attach(local(device))
        assert host.infos() == []
        assert host.room.call("internal.connector_info") == {}


def brick_python() -> str | None:
    """One with the real os-brick, that root may run."""
    for python in ("/usr/bin/python3", sys.executable):
        if subprocess.run([python, "-Ic", "import os_brick"], capture_output=True, check=False).returncode == 0:
            return python
    return None


def test_the_local_driver_attaches_by_os_brick_itself_where_it_is_installed(device: str) -> None:
    with running(brick_python()) as host:
        assert host.room.call("internal.connector_info")["multipath"] is True
        found = host.attach(local(device))
        assert found["attachment"]["path"] == device
        assert os.path.realpath(found["managed_path"]) == device
        host.detach()
        assert host.infos() == []
