# SPDX-License-Identifier: Apache-2.0
"""A sanlock daemon that does not answer, a real one that is stopped: who only looks at a lease is not held up by it."""

import os
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.support.eventually import eventually
from tests.support.needs import needs_program
from tests.support.sanlock_daemon import SanlockDaemon
from vdsm_mp.api.errors_storage import LockNotInspected
from vdsm_mp.storage import sanlock
from vdsm_mp.storage.sanlock import SanlockLock

pytestmark = [pytest.mark.system, needs_program("sanlock"), pytest.mark.timeout(60)]

_ALIGNMENT = 2**20


@pytest.fixture
def place() -> Iterator[Path]:
    """On a disk: the daemon reads and writes past the page cache."""
    made = Path(tempfile.mkdtemp(prefix="slk-", dir="/var/tmp"))
    yield made
    shutil.rmtree(made)


@pytest.fixture
def lock(place: Path, daemon: SanlockDaemon, monkeypatch: pytest.MonkeyPatch) -> SanlockLock:
    """Of a domain that has nothing but its leases."""
    monkeypatch.setattr(sanlock, "ANSWERS_WITHIN_S", 0.5)
    for name in ("ids", "leases"):
        (place / name).write_bytes(bytes(2 * _ALIGNMENT))
    domain: Any = SimpleNamespace(
        sd_id="5d000000-0000-4000-8000-000000000009",
        meta=SimpleNamespace(alignment=_ALIGNMENT, block_size=512),
        io=SimpleNamespace(path_of=lambda name: str(place / Path(name).name)),
    )
    made = SanlockLock(domain, io_timeout_s=1)
    made.initialize()
    return made


def test_a_silent_daemon_holds_up_one_look_and_no_second_one(lock: SanlockLock, daemon: SanlockDaemon) -> None:
    assert lock.inspect(lock.sdm).host_id is None
    assert not lock.has_host_id(1)
    os.kill(daemon.pid, signal.SIGSTOP)
    try:
        threads = threading.active_count()
        began = time.monotonic()
        with pytest.raises(LockNotInspected, match=r"sanlock has not answered for 2\.5 s"):
            lock.inspect(lock.sdm)
        assert 2.4 < time.monotonic() - began < 10
        began = time.monotonic()
        for _ in range(20):
            with pytest.raises(LockNotInspected, match="sanlock has not answered for"):
                lock.inspect(lock.sdm)
            assert not lock.has_host_id(1)
        assert time.monotonic() - began < 2
        assert threading.active_count() == threads + 1
    finally:
        os.kill(daemon.pid, signal.SIGCONT)

    def answers() -> bool:
        try:
            return lock.inspect(lock.sdm).host_id is None
        except LockNotInspected:
            return False

    eventually(answers, within_s=20)
    eventually(lambda: threading.active_count() == threads, within_s=10)
