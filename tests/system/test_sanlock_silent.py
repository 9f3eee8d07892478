# SPDX-License-Identifier: Apache-2.0
"""A sanlock daemon that does not answer, a real one that is stopped: nobody waits for it for long, and what it does
when it goes on is taken back.
"""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import sanlock

from tests.support.eventually import eventually
from tests.support.needs import needs_program
from tests.support.sanlock_daemon import SanlockDaemon
from vdsm_mp.api.errors_storage import (
    HostIdNotAcquired,
    HostIdNotReleased,
    LockInitFailed,
    LockNotAcquired,
    LockNotInspected,
    LockNotReleased,
)
from vdsm_mp.common.errors import Error
from vdsm_mp.storage.locks import Lease
from vdsm_mp.storage.sanlock import SanlockLock
from vdsm_mp.storage.sdm_lease import sdm_held

pytestmark = [pytest.mark.system, needs_program("sanlock"), pytest.mark.timeout(60)]


_OTHERS: set[threading.Thread] = set()


def _threads() -> set[threading.Thread]:
    return {one for one in threading.enumerate() if one.name == "sanlock"}


@pytest.fixture(autouse=True)
def threads_of_others() -> None:
    _OTHERS.clear()
    _OTHERS.update(_threads())


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
        assert _asking() < 5  # the first, whether it answers anybody, others' of this process; not each of the twenty

    def answers() -> bool:
        try:
            return lock.inspect(lock.sdm).host_id is None
        except LockNotInspected:
            return False

    eventually(answers, within_s=20)
    eventually(lambda: _asking() == 0, within_s=10)


def _asking() -> int:
    """Threads of this test that wait for an answer. Others may wait for daemons of tests that are over."""
    return len(_threads() - _OTHERS)


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


def refused(error: type[Error], work: Callable[..., object], *args: object) -> str:
    """What it says, which does not take long."""
    began = time.monotonic()
    with pytest.raises(error) as told:
        work(*args)
    assert time.monotonic() - began < 10
    return str(told.value)


def is_free(lock: SanlockLock) -> bool:
    try:
        return lock.inspect(lock.sdm).host_id is None
    except LockNotInspected:
        return False


def can_be_had(lock: SanlockLock) -> bool:
    try:
        lock.acquire(lock.sdm, 1)
    except LockNotAcquired:
        return False
    lock.release(lock.sdm)
    return True


def test_a_lease_that_is_taken_too_late_is_given_back(lock: SanlockLock, daemon: SanlockDaemon) -> None:
    lock.wait_host_id(1)
    version = lock.inspect(lock.sdm).version
    with silent(daemon):
        assert "given back" in refused(LockNotAcquired, lock.acquire, lock.sdm, 1)
        began = time.monotonic()
        for _ in range(20):
            refused(LockNotAcquired, lock.acquire, lock.sdm, 1)
        assert time.monotonic() - began < 2
        assert _asking() <= 2  # the first, and whether it answers anybody
        assert not lock.holds(lock.sdm)
    eventually(lambda: is_free(lock), within_s=20)
    assert lock.inspect(lock.sdm).version == version + 1  # it was taken
    assert not lock.holds(lock.sdm)
    lock.acquire(lock.sdm, 1)
    assert lock.holds(lock.sdm)
    lock.release(lock.sdm)
    eventually(lambda: _asking() == 0, within_s=10)


@pytest.mark.parametrize("asked_before", [False, True])
def test_a_lease_that_could_not_be_released_goes_when_it_answers(
    lock: SanlockLock, daemon: SanlockDaemon, asked_before: bool
) -> None:
    """asked_before: somebody waits for an answer on the connection that is to be closed."""
    lock.wait_host_id(1)
    lock.acquire(lock.sdm, 1)
    with silent(daemon):
        if asked_before:
            refused(LockNotInspected, lock.holds, lock.sdm)
        refused(LockNotReleased, lock.release, lock.sdm)
        assert not lock.holds(lock.sdm)
        refused(LockNotAcquired, lock.acquire, lock.sdm, 1)
    eventually(lambda: is_free(lock), within_s=20)
    assert can_be_had(lock)
    eventually(lambda: _asking() == 0, within_s=10)


def test_a_host_id_that_could_not_be_given_back_goes_when_it_answers(lock: SanlockLock, daemon: SanlockDaemon) -> None:
    lock.wait_host_id(1)
    with silent(daemon):
        refused(LockNotInspected, lock.inspect, lock.sdm)  # so that giving it back is not even begun
        refused(HostIdNotReleased, lock.release_host_id, 1)
    eventually(lambda: has_left(lock), within_s=20)


def has_left(lock: SanlockLock) -> bool:
    return lock._name not in [one["lockspace"] for one in sanlock.get_lockspaces()]


def test_a_host_id_that_is_wanted_again_stays(lock: SanlockLock, daemon: SanlockDaemon) -> None:
    lock.wait_host_id(1)
    with silent(daemon):
        refused(LockNotInspected, lock.inspect, lock.sdm)
        refused(HostIdNotReleased, lock.release_host_id, 1)
        lock.request_host_id(1)
    lock.wait_host_id(1, within_s=20)
    eventually(lambda: is_free(lock))
    eventually(lambda: _asking() == 0, within_s=10)
    assert lock.has_host_id(1)


def test_who_waits_for_a_host_id_is_told_and_one_that_comes_for_nobody_goes(
    lock: SanlockLock, daemon: SanlockDaemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vdsm_mp.storage.sanlock_seat._LOOK_S", 0.5)
    with silent(daemon):
        assert "does not answer" in refused(HostIdNotAcquired, lambda: lock.wait_host_id(1, wanted=lambda: False))
        refused(HostIdNotAcquired, lambda: lock.wait_host_id(1, wanted=lambda: False))
    joined = [one for one in threading.enumerate() if one.name == "join"]
    for one in joined:
        one.join(40)
    assert not any(one.is_alive() for one in joined)
    eventually(lambda: has_left(lock), within_s=20)
    lock.wait_host_id(1)


def test_leases_are_written_or_told_as_not_known_and_nothing_overtakes(
    lock: SanlockLock, daemon: SanlockDaemon
) -> None:
    made = Lease("made", lock.sdm.path, 0)
    with silent(daemon):
        assert "not known" in refused(LockInitFailed, lock.write_lease, made)
        began = time.monotonic()
        refused(LockInitFailed, lock.clear_lease, made)
        refused(LockNotInspected, lock.name_at, made)
        assert time.monotonic() - began < 1

    def name() -> str | None:
        try:
            return lock.name_at(made)
        except LockNotInspected:
            return None

    eventually(lambda: name() == "made", within_s=20)
    lock.clear_lease(made)
    assert lock.name_at(made) is None


def test_what_a_lease_holds_is_not_known_when_silence_comes_over_it(lock: SanlockLock, daemon: SanlockDaemon) -> None:
    lock.wait_host_id(1)

    def work() -> None:
        with lock.holding_value(lock.sdm) as value:
            value.write(b"before")
            os.kill(daemon.pid, signal.SIGSTOP)
            value.write(b"after")

    try:
        refused(LockNotInspected, work)
        refused(LockNotAcquired, work)
    finally:
        os.kill(daemon.pid, signal.SIGCONT)
    eventually(lambda: is_free(lock), within_s=20)
    with lock.holding_value(lock.sdm) as value:
        assert value.read().rstrip(b"\0") in (b"before", b"after")
