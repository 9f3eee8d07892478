# SPDX-License-Identifier: Apache-2.0
"""A host whose folders for temporary files take nothing."""

import ctypes
import os
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.support.eventually import eventually
from tests.support.house import RunningHouse, program
from tests.support.needs import needs_program, needs_root

pytestmark = [needs_root(), needs_program("mount")]

_CLONE_FS, _CLONE_NEWNS = 0x00000200, 0x00020000
_FOLDERS = ("/tmp", "/var/tmp", "/dev/shm")


def _begin_without(house: RunningHouse) -> None:
    """Runs in a thread of its own, whose mounts are its own from then on; so are those of the house."""
    if ctypes.CDLL(None, use_errno=True).unshare(_CLONE_NEWNS | _CLONE_FS):
        raise OSError(ctypes.get_errno(), "no mounts of its own")
    subprocess.run(["mount", "--make-rprivate", "/"], check=True)
    kept = [str(house.root), str(program())]
    for folder in (*_FOLDERS, *kept):  # what is kept is a mount of its own, which stays as it is
        subprocess.run(["mount", "--bind", folder, folder], check=True)
    for folder in _FOLDERS:
        subprocess.run(["mount", "-o", "remount,ro,bind", folder], check=True)
    house.begin()


@pytest.fixture
def house() -> Iterator[RunningHouse]:
    with RunningHouse({}, tls=True, table="", libvirt_uri="test:///default") as made:
        with ThreadPoolExecutor(1) as thread:
            thread.submit(_begin_without, made).result(60)
        made.wait_ready()
        yield made


def test_nothing_of_the_agent_needs_a_folder_for_temporary_files(house: RunningHouse) -> None:
    assert house.process is not None
    inside = Path(f"/proc/{house.process.pid}/root")
    for folder in _FOLDERS:
        assert os.statvfs(f"{inside}{folder}").f_flag & os.ST_RDONLY, folder
    for worker in ("virt", "clientif"):
        house.kill_worker(worker)
    for verb in ("Host.getCapabilities", "Host.getAllVmStats", "Host.getStorageRepoStats"):
        eventually(lambda verb=verb: house.call(verb) is not None)  # type: ignore[misc]
    assert house.terminate() == 0
    said = [line for line in house.log_text().splitlines() if "Read-only file system" in line or "Traceback" in line]
    assert said == []
