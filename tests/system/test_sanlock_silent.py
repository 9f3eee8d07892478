# SPDX-License-Identifier: Apache-2.0
"""A sanlock daemon that does not answer, a real one that is stopped: who only looks at a lease is not held up by it."""

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.support.eventually import eventually
from tests.support.needs import needs_program
from tests.support.sanlock_daemon import SanlockDaemon
from vdsm_mp.api.errors_storage import LockNotInspected
from vdsm_mp.storage.sanlock import SanlockLock
from vdsm_mp.storage.sdm_lease import sdm_held

pytestmark = [pytest.mark.system, needs_program("sanlock"), pytest.mark.timeout(60)]


@contextmanager
def silent(daemon: SanlockDaemon) -> Iterator[None]:
    os.kill(daemon.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(daemon.pid, signal.SIGCONT)


def test_a_silent_daemon_holds_up_one_look_and_no_second_one(lock: SanlockLock, daemon: SanlockDaemon) -> None:
    assert lock.inspect(lock.sdm).host_id is None
    assert not lock.has_host_id(1)
    with silent(daemon):
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
        assert _asking() == 1

    def answers() -> bool:
        try:
            return lock.inspect(lock.sdm).host_id is None
        except LockNotInspected:
            return False

    eventually(answers, within_s=20)
    eventually(lambda: _asking() == 0, within_s=10)


def _asking() -> int:
    """Threads that wait for an answer."""
    return sum(one.name == "sanlock" for one in threading.enumerate())


def test_silence_is_no_answer(lock: SanlockLock, daemon: SanlockDaemon) -> None:
    """Whether a lease is held is refused in time: the SPM looks at its own every 20 s.

    A host id that may be ours is not given back by who wanted it for a change only.
    """
    lock.wait_host_id(1)
    lock.acquire(lock.sdm, 1)
    assert lock.holds(lock.sdm)
    with silent(daemon):
        began = time.monotonic()
        with pytest.raises(LockNotInspected, match=r"sanlock has not answered for 2\.5 s"):
            lock.holds(lock.sdm)
        assert time.monotonic() - began < 10
        assert not lock.has_host_id(1)
        changing = threading.Thread(target=_change, args=(lock,))
        changing.start()
    changing.join(30)
    assert not changing.is_alive()
    assert not lock.holds(lock.sdm)
    assert lock.has_host_id(1)


def _change(lock: SanlockLock) -> None:
    """Of a domain that is watched."""
    with sdm_held(lock, 1, lambda: True):
        pass
