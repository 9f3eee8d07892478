# SPDX-License-Identifier: Apache-2.0
"""Somebody swaps folders and links while files are opened: what lies outside the domain is never read or touched.

VDSM_MP_FAULTS_STRIDE=1 tries a hundred thousand times instead of a few hundred.
"""

import ctypes
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from vdsm_mp.api.errors_storage import StorageAccessFailed
from vdsm_mp.storage.domain_io import DomainIO

TIMES = 100_000 if os.environ.get("VDSM_MP_FAULTS_STRIDE") == "1" else 300
_AT_FDCWD, _EXCHANGE = -100, 2


def _exchange(one: Path, other: Path) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.renameat2(_AT_FDCWD, bytes(one), _AT_FDCWD, bytes(other), _EXCHANGE):
        raise OSError(ctypes.get_errno(), "renameat2")


@contextmanager
def swapping(one: Path, other: Path) -> Iterator[list[int]]:
    """Exchanges the two in a thread, again and again; [how often]."""
    over, count = threading.Event(), [0]

    def swap() -> None:
        while not over.wait(0.0001):
            _exchange(one, other)
            count[0] += 1

    thread = threading.Thread(target=swap)
    thread.start()
    try:
        yield count
    finally:
        over.set()
        thread.join(10)


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("what", ["folder", "file"])
def test_what_is_swapped_while_it_is_opened_leads_nowhere(io: DomainIO, tmp_path: Path, what: str) -> None:
    outside = tmp_path / "outside"
    outside.mkdir(mode=0o700)
    secret = outside / "file"
    secret.write_bytes(b"secret")
    secret.chmod(0o600)
    io.mkdir("inside")
    io.create("inside/file", b"inside")
    place = Path(io.root) / "inside"
    link = Path(io.root) / "link"
    if what == "folder":
        link.symlink_to(outside)
    else:
        place, link = place / "file", place / "link"
        link.symlink_to(secret)
    before = secret.stat()
    refused = done = 0
    with swapping(place, link) as swaps:
        for number in range(TIMES):
            try:
                match number % 4:
                    case 0:
                        assert b"secret" not in io.read("inside/file")
                    case 1:
                        io.write("inside/file", b"x")
                    case 2:
                        io.chmod("inside/file", 0o666)
                    case _:
                        io.truncate("inside/file", 0)
                done += 1
            except StorageAccessFailed:
                refused += 1
    after = secret.stat()
    assert secret.read_bytes() == b"secret"
    assert (after.st_mode, after.st_uid, after.st_mtime_ns) == (before.st_mode, before.st_uid, before.st_mtime_ns)
    assert refused and done and swaps[0] > 10, (refused, done, swaps)
