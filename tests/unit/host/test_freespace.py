# SPDX-License-Identifier: Apache-2.0
"""Free space of folders, one of which hangs with its disk."""

import contextlib
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.eventually import eventually
from tests.support.hangfs import HangFs
from tests.support.needs import needs_root
from vdsm_mp.host.freespace import FreeSpace

pytestmark = needs_root()


@pytest.fixture
def dead_disk(tmp_path: Path) -> Iterator[HangFs]:
    (tmp_path / "source").mkdir()
    fs = HangFs(tmp_path / "source", tmp_path / "target")
    with contextlib.ExitStack() as stack:
        stack.callback(fs.stop)
        stack.callback(fs.go_on)
        yield fs


def asking() -> int:
    """Threads of its own: in a process of tests those of others come and go."""
    return sum(one.is_alive() for one in threading.enumerate() if one.name.startswith("free "))


def test_a_disk_that_hangs_holds_up_no_other_folder_and_one_thread(dead_disk: HangFs, tmp_path: Path) -> None:
    free = FreeSpace((str(dead_disk.target), str(tmp_path), "/nowhere"))
    assert set(free.mib()) == {str(dead_disk.target), str(tmp_path)}
    dead_disk.hang()
    for _ in range(3):
        began = time.monotonic()
        assert set(free.mib()) == {str(tmp_path)}
        assert time.monotonic() - began < 2
    eventually(lambda: asking() == 1)  # those that answered have just ended
    dead_disk.go_on()
    eventually(lambda: set(free.mib()) == {str(dead_disk.target), str(tmp_path)})
    eventually(lambda: asking() == 0)
