# SPDX-License-Identifier: Apache-2.0
"""A directory that is saved while the operating system refuses one of its calls, each in turn."""

import errno
import itertools
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from vdsm_mp.storage.ioproc_compound import drop_directory, save_directory
from vdsm_mp.storage.ioproc_paths import Root

OLD, NEW = {"a": "old a", "last": "old"}, {"a": "new a", "b": "new b", "last": "new"}
CALLS = ("mkdir", "open", "fchmod", "pwrite", "fsync", "rename", "unlink", "rmdir")


class Refusing:
    """Fails the call `at` of those that change something."""

    def __init__(self, patch: pytest.MonkeyPatch, at: int) -> None:
        self.count, self._at = 0, at
        for name in CALLS:
            patch.setattr(os, name, self._counting(name, getattr(os, name)))

    def _counting(self, name: str, call: Any) -> Any:
        def counted(*args: Any, **more: Any) -> Any:
            if name != "open" or args[1] & os.O_CREAT:
                self.count += 1
                if self.count == self._at:
                    raise OSError(errno.EIO, f"{name} fails")
            return call(*args, **more)

        return counted


def believed(top: Path) -> dict[str, str]:
    """What a reader takes, in its order."""
    for form in ("", ".temp", ".backup"):
        where = top / f"task{form}"
        if (where / "last").exists():
            return {path.name: path.read_text() for path in where.iterdir()}
    return {}


@pytest.mark.parametrize("before", [{}, OLD], ids=["new", "replaced"])
def test_a_save_that_fails_leaves_what_was_there_whichever_call_is_refused(
    tmp_path: Path, before: dict[str, str]
) -> None:
    outcomes = []
    for at in itertools.count(1):
        top = tmp_path / str(at)
        top.mkdir()
        root = Root(str(top))
        if before:
            save_directory(root, "task", before)
        with pytest.MonkeyPatch.context() as patch:
            refusing = Refusing(patch, at)
            try:
                save_directory(root, "task", NEW)
                outcomes.append("saved")
            except OSError:
                outcomes.append("failed")
        # One that was written whole, and is not there yet, was never told to anybody.
        found = believed(top) if before else believed(top) if outcomes[-1] == "saved" else {}
        assert found == (NEW if outcomes[-1] == "saved" else before), f"call {at}"
        save_directory(root, "task", NEW)
        assert believed(top) == NEW
        if refusing.count < at:
            break
    assert outcomes.count("failed") >= 10


@pytest.mark.parametrize("left", [".temp", ".backup"])
def test_what_a_save_has_left_is_not_believed_while_a_task_is_cleared(tmp_path: Path, left: str) -> None:
    for at in itertools.count(1):
        top = tmp_path / str(at)
        top.mkdir()
        root = Root(str(top))
        save_directory(root, "task", OLD)
        shutil.copytree(top / "task", top / "aside")
        save_directory(root, "task", NEW)
        shutil.move(top / "aside", top / f"task{left}")
        with pytest.MonkeyPatch.context() as patch:
            refusing = Refusing(patch, at)
            try:
                drop_directory(root, "task", "last")
            except OSError:
                assert believed(top) in (NEW, {}), f"call {at}"
        drop_directory(root, "task", "last")
        assert list(top.iterdir()) == []
        if refusing.count < at:
            break
    assert at > 5
