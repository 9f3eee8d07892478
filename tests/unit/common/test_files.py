# SPDX-License-Identifier: Apache-2.0
"""Small files: whole or not at all, and never more than expected."""

import os
from pathlib import Path

import pytest

from vdsm_mp.common import files


def test_a_replaced_file_has_the_new_content_and_the_asked_mode(tmp_path: Path) -> None:
    path = tmp_path / "state"
    files.replace(path, b"one")
    files.replace(path, b"two", mode=0o600)
    assert path.read_bytes() == b"two"
    assert path.stat().st_mode & 0o777 == 0o600
    assert os.listdir(tmp_path) == ["state"]


def test_a_failed_replacement_leaves_the_old_content_and_no_litter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "state"
    files.replace(path, b"one")

    def full(fd: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)  # a full disk shows up here; a real one is a system test's job
    with pytest.raises(OSError, match="No space"):
        files.replace(path, b"two")
    assert path.read_bytes() == b"one"
    assert os.listdir(tmp_path) == ["state"]


def test_a_file_that_grew_beyond_its_bound_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "report"
    path.write_bytes(b"x" * 11)
    with pytest.raises(files.FileTooLarge):
        files.read(path, limit_bytes=10)
    assert files.read(path, limit_bytes=11) == b"x" * 11
