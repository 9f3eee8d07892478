# SPDX-License-Identifier: Apache-2.0
"""Folders that go with whoever uses them."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from vdsm_mp.common import scratch

_USER = """
import sys, time
from pathlib import Path
from vdsm_mp.common import scratch
with scratch.folder(Path(sys.argv[1])) as folder:
    (folder / "deep").mkdir()
    (folder / "deep" / "overlay").write_bytes(b"x" * 1000)
    print(folder, flush=True)
    time.sleep(60)
"""


def test_what_is_in_use_stays_and_what_a_killed_process_left_goes(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", _USER, str(tmp_path)], stdout=subprocess.PIPE, text=True) as user:
        assert user.stdout is not None
        theirs = Path(user.stdout.readline().strip())
        with scratch.folder(tmp_path) as ours:
            assert (theirs / "deep" / "overlay").exists()
            scratch.sweep(tmp_path)
            assert (theirs / "deep" / "overlay").exists()
            assert ours.is_dir()
            user.send_signal(signal.SIGKILL)
            user.wait(10)
            scratch.sweep(tmp_path)
            assert not theirs.exists()
            assert ours.is_dir()
    assert list(tmp_path.iterdir()) == []


def test_only_its_user_enters_it_and_its_name_leaves_room_for_sockets(tmp_path: Path) -> None:
    with scratch.folder(tmp_path / "new") as made:
        assert made.stat().st_mode & 0o777 == 0o700
        assert len(made.name) < 20


def test_what_others_put_there_is_left_alone(tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.mkdir()
    (target / "kept").touch()
    (tmp_path / "vdsm-mp-w-link").symlink_to(target)
    (tmp_path / "vdsm-mp-w-file").touch()
    scratch.sweep(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"target", "vdsm-mp-w-link", "vdsm-mp-w-file"}
    assert (target / "kept").exists()


def test_one_that_is_swept_while_it_is_made_is_made_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, swept = scratch.tempfile.mkdtemp, []

    def between(**how: object) -> str:
        made = real(**how)  # type: ignore[call-overload]
        if not swept:
            swept.append(made)
            scratch.sweep(tmp_path)
        return str(made)

    monkeypatch.setattr(scratch.tempfile, "mkdtemp", between)
    with scratch.folder(tmp_path) as made:
        assert made.is_dir()
        assert str(made) not in swept
