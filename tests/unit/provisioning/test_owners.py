# SPDX-License-Identifier: Apache-2.0
"""What root does at each installation and upgrade gives the agent's user nothing but what is its own."""

import os
import pwd
import re
from pathlib import Path

import pytest

from provisioning import host, pki
from provisioning.foreign import Ledger
from provisioning.host import Directory
from tests.support.needs import needs_program, needs_root

_PROJECT = Path(__file__).parents[3]


@pytest.fixture
def theirs(tmp_path: Path) -> Path:
    """A folder of another user's."""
    folder = tmp_path / "theirs"
    folder.mkdir()
    os.chown(folder, 65534, 65534)
    return folder


@pytest.fixture
def precious(tmp_path: Path) -> Path:
    """Of root's."""
    folder = tmp_path / "precious"
    folder.mkdir(mode=0o700)
    return folder


def _owner(path: Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_uid, found.st_mode & 0o777


@needs_root()
def test_a_link_in_a_folder_of_the_agents_gives_it_nothing(theirs: Path, precious: Path) -> None:
    name = pwd.getpwuid(65534).pw_name
    wanted = [Directory(str(theirs / place), 0o755, name, "root") for place in ("transient", "storage")]
    (theirs / "transient").symlink_to(precious)
    host.directories(wanted)
    assert _owner(precious) == (0, 0o700)
    assert _owner(theirs / "storage") == (65534, 0o755)


@needs_root()
def test_an_administrators_link_is_followed(tmp_path: Path, precious: Path) -> None:
    (tmp_path / "log").symlink_to(precious)
    host.directories([Directory(str(tmp_path / "log"), 0o755, pwd.getpwuid(65534).pw_name, "root")])
    assert _owner(precious) == (65534, 0o755)


@needs_root()
@needs_program("openssl")
def test_a_link_in_the_place_of_the_hosts_key_is_not_followed(tmp_path: Path, theirs: Path, precious: Path) -> None:
    secret = precious / "shadow"
    secret.write_text("root\n")
    secret.chmod(0o600)
    demo = pki.Pki(theirs / "pki", tmp_path / "authority")
    owner = (pwd.getpwuid(65534).pw_name, "root")
    assert pki.ensure(demo, owner=owner)
    os.chown(demo.key.parent, 65534, 65534)
    demo.key.unlink()
    demo.key.symlink_to(secret)
    assert pki.ensure(demo, owner=owner)
    assert (secret.read_text(), _owner(secret)) == ("root\n", (0, 0o600))
    assert _owner(demo.key) == (65534, 0o440)
    assert not demo.key.is_symlink()
    assert _owner(demo.key.parent) == (0, 0o750)


def test_what_is_written_beside_a_file_is_read_by_nobody_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, modes = tmp_path / "qemu.conf", list[int]()
    path.write_text('vnc_password = "x"\n')
    path.chmod(0o600)
    write = Path.write_bytes

    def seen(target: Path, data: bytes) -> int:
        done = write(target, data)
        if target.name.startswith(".qemu.conf"):
            modes.append(target.stat().st_mode & 0o777)
        return done

    monkeypatch.setattr(Path, "write_bytes", seen)
    Ledger(tmp_path / "ledger").section(path, "namespaces = []\n")
    assert modes == [0o600]
    assert path.stat().st_mode & 0o777 == 0o600


def test_supervisord_writes_no_log_where_the_agents_user_could_put_a_link() -> None:
    """It opens them as root."""
    folders = [Path(directory.path) for directory in host.DIRECTORIES if directory.owner != "root"]
    for section in (_PROJECT / "supervisor").glob("*.conf"):
        for log in re.findall(r"(?m)^[a-z_]*log(?:file|dir)=(\S+)", section.read_text()):
            assert [folder for folder in folders if Path(log).is_relative_to(folder)] == [], (section.name, log)
