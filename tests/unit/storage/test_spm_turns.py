# SPDX-License-Identifier: Apache-2.0
"""The SPM role when several clients begin and end it at the same moment: one step after the other, never two."""

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

import pytest

from tests.support.eventually import eventually
from tests.support.storage_room import StorageRoom, code_of
from vdsm_mp.api.errors_storage import IsSpm, NotSpm, PoolNotConnected
from vdsm_mp.common.errors import Error
from vdsm_mp.storage import spm as spm_module
from vdsm_mp.storage.locks import LocalLock, Locks
from vdsm_mp.storage.pool import Pools
from vdsm_mp.storage.resources import Resources
from vdsm_mp.storage.spm import Spm

pytestmark = pytest.mark.timeout(60)

_T = TypeVar("_T")


@pytest.fixture
def spm(tmp_path: Path) -> Iterator[StorageRoom]:
    made = StorageRoom(tmp_path).make()
    yield made
    made.stop()


@pytest.fixture
def free(spm: StorageRoom) -> StorageRoom:
    """Connected, and not SPM."""
    stop(spm)
    return spm


def part_of(room: StorageRoom, kind: type[_T]) -> _T:
    return next(thing for thing in room.room.room.state if isinstance(thing, kind))


def lock_of(room: StorageRoom) -> LocalLock:
    found = part_of(room, Locks)._locks[room.sd_id]
    assert isinstance(found, LocalLock)
    return found


def start(room: StorageRoom) -> Any:
    params = {"prevID": -1, "prevLver": "-1", "enableScsiFencing": "false", "domVersion": "5"}
    return room.call("StoragePool.spmStart", storagepoolID=room.pool_id, **params)


def stop(room: StorageRoom) -> Any:
    return room.call("StoragePool.spmStop", storagepoolID=room.pool_id)


def disconnect(room: StorageRoom) -> Any:
    return room.call("StoragePool.disconnect", storagepoolID=room.pool_id, hostID=1, scsiKey="")


def connect(room: StorageRoom) -> Any:
    params = {"hostID": 1, "scsiKey": "", "masterSdUUID": room.sd_id, "masterVersion": 1}
    params["domainDict"] = {room.sd_id: "active"}
    return room.call("StoragePool.connect", storagepoolID=room.pool_id, **params)


def reconstruct(room: StorageRoom) -> Any:
    params = {"hostId": 1, "name": "pool", "masterSdUUID": room.sd_id, "masterVersion": 2}
    params |= {"domainDict": {room.sd_id: "active"}, "lockRenewalIntervalSec": 5, "leaseTimeSec": 60}
    params |= {"ioOpTimeoutSec": 10, "leaseRetries": 3}
    return room.call("StoragePool.reconstructMaster", storagepoolID=room.pool_id, **params)


def status(room: StorageRoom) -> str:
    found: str = room.call("StoragePool.getSpmStatus", storagepoolID=room.pool_id)["spmStatus"]
    return found


def is_spm_with_its_lease(room: StorageRoom) -> bool:
    return status(room) == "SPM" and lock_of(room).holds(lock_of(room).sdm)


class Gate:
    """Whoever comes waits in it, after it has said so; what is behind it is the real thing."""

    def __init__(self, behind: Callable[..., Any]) -> None:
        self._behind = behind
        self.reached, self.open = threading.Event(), threading.Event()

    def __call__(self, *args: Any, **params: Any) -> Any:
        self.reached.set()
        assert self.open.wait(20)
        return self._behind(*args, **params)


@contextmanager
def beside() -> Iterator[Callable[..., "Future[Any]"]]:
    """Calls in threads of their own."""
    with ThreadPoolExecutor(16) as threads:
        yield threads.submit


def outcome(call: "Future[Any]") -> int:
    """0 or the code of its error."""
    found = call.exception(30)
    if found is None:
        return 0
    assert isinstance(found, Error), found
    return found.code


def test_of_many_starts_one_is_not_refused_though_all_found_the_role_free(free: StorageRoom) -> None:
    """They wait until the pool is free."""
    with beside() as begin:
        with part_of(free, Resources).claim("test", exclusive=(("pool", free.pool_id),)):
            starts = [begin(start, free) for _ in range(8)]
            eventually(lambda: waiting(free) == 8)
            assert status(free) == "Free"
        codes = sorted(outcome(one) for one in starts)
    assert codes == [0, *[IsSpm.code] * 7]
    [task_id] = [one.result() for one in starts if outcome(one) == 0]
    free.finished(task_id)
    assert is_spm_with_its_lease(free)


def test_a_start_beside_a_stop_that_is_not_over_gets_a_lease_of_its_own(
    spm: StorageRoom, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the stop lets go was taken for the new one's."""
    gate = Gate(lock_of(spm).release)
    with beside() as begin:
        monkeypatch.setattr(lock_of(spm), "release", gate)
        stopping = begin(stop, spm)
        assert gate.reached.wait(20)
        monkeypatch.undo()
        starting = begin(start, spm)
        eventually(lambda: starting.done() or waiting(spm) == 1)
        eventually(lambda: waiting(spm) == 1 or outcome(starting) == IsSpm.code)
        gate.open.set()
        assert outcome(stopping) == 0
    if outcome(starting) == 0:
        spm.finished(starting.result())
        assert is_spm_with_its_lease(spm)
    else:
        assert outcome(starting) == IsSpm.code


def test_a_start_beside_a_disconnect_is_refused(free: StorageRoom, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = Gate(part_of(free, Pools).disconnect)
    monkeypatch.setattr(part_of(free, Pools), "disconnect", gate)
    with beside() as begin:
        leaving = begin(disconnect, free)
        assert gate.reached.wait(20)
        starting = begin(start, free)
        with suppress(TimeoutError):
            starting.exception(0.5)
        gate.open.set()
        assert outcome(leaving) == 0
        assert outcome(starting) == PoolNotConnected.code
    connect(free)
    assert status(free) == "Free"


def test_a_master_that_is_rebuilt_is_not_taken_meanwhile(free: StorageRoom) -> None:
    """The end of the rebuilding let the lease of the new SPM go."""
    with beside() as begin:
        with part_of(free, Resources).claim("test", exclusive=(("pool", free.pool_id),)):
            rebuilding = begin(reconstruct, free)
            eventually(lambda: waiting(free) == 1)
            starting = begin(start, free)
            eventually(lambda: waiting(free) == 2)
        assert (outcome(rebuilding), outcome(starting)) == (0, 0)
    free.finished(starting.result())
    assert is_spm_with_its_lease(free)


def waiting(room: StorageRoom) -> int:
    """For the pool."""
    queue = part_of(room, Resources)._queues.get(("pool", room.pool_id))
    return 0 if queue is None else len(queue.waiting)


def test_a_start_that_is_stopped_before_its_turn_leaves_the_role_free(free: StorageRoom) -> None:
    busy = threading.Event()
    for n in range(8):  # all threads
        free.room.background.start(f"busy {n}", lambda: assert_true(busy.wait(20)))
    task_id = start(free)
    assert status(free) == "Contend"
    free.call("Task.stop", taskID=task_id)
    busy.set()
    assert free.ended(task_id)["taskResult"] == "cleanSuccess"
    assert status(free) == "Free"
    free.finished(start(free))
    assert is_spm_with_its_lease(free)


def assert_true(what: bool) -> None:
    assert what


def test_who_contends_when_the_role_is_to_end_does_not_get_it(
    free: StorageRoom, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A host that is fenced: it waited for its lease, and was SPM a moment later."""
    gate = Gate(lock_of(free).acquire)
    monkeypatch.setattr(lock_of(free), "acquire", gate)
    task_id = start(free)
    assert gate.reached.wait(20)
    part_of(free, Spm).stop_now("the master was asked to stop it")
    gate.open.set()
    assert free.ended(task_id)["taskResult"] == "cleanSuccess"
    assert status(free) == "Free"
    assert not lock_of(free).holds(lock_of(free).sdm)


def test_the_watch_over_the_lease_finds_nothing_lost_while_the_role_ends(
    spm: StorageRoom, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It asked, the role was given up, and the answer ended the process."""
    role, said = part_of(spm, Spm), []
    monkeypatch.setattr(role, "_panic", said.append)
    gate = Gate(lock_of(spm).holds)
    monkeypatch.setattr(lock_of(spm), "holds", gate)
    with beside() as begin:
        looking = begin(role._look, role._role.times)
        assert gate.reached.wait(20)
        stop(spm)
        gate.open.set()
        assert outcome(looking) == 0
    assert said == []


def test_many_clients_at_once_never_make_an_spm_without_its_lease(spm: StorageRoom) -> None:
    """Four of them, in no order, for two seconds."""
    ends = time.monotonic() + 2
    codes: set[int] = set()
    without: list[str] = []

    def client(*steps: Callable[[StorageRoom], Any]) -> None:
        while time.monotonic() < ends:
            for step in steps:
                codes.add(_code(step))

    def _code(step: Callable[[StorageRoom], Any]) -> int:
        try:
            step(spm)
        except Error as e:
            return e.code
        return 0

    def look() -> None:
        role, lock = part_of(spm, Spm), lock_of(spm)
        while time.monotonic() < ends:
            with role._role.still():
                if role.ours and not lock.holds(lock.sdm):
                    without.append("SPM without its lease")

    with beside() as begin:
        calls = [begin(client, *steps) for steps in ((start, stop), (stop, start), (start,), (disconnect, connect))]
        calls += [begin(client, reconstruct), begin(look)]
        assert [outcome(one) for one in calls] == [0] * 6
    assert without == []
    assert codes <= {0, IsSpm.code, NotSpm.code, PoolNotConnected.code}
    eventually(lambda: part_of(spm, Spm).state.value != "Contend")
    with suppress(Error):
        connect(spm)
    with suppress(NotSpm):
        stop(spm)
    spm.finished(start(spm))
    assert is_spm_with_its_lease(spm)
    assert code_of(start, spm) == IsSpm.code


@pytest.fixture
def watched(spm: StorageRoom, monkeypatch: pytest.MonkeyPatch) -> tuple[StorageRoom, list[str]]:
    """An SPM whose lease is looked at twenty times a second, and why it would have ended."""
    monkeypatch.setattr(spm_module, "WATCHDOG_S", 0.05)
    said: list[str] = []
    monkeypatch.setattr(part_of(spm, Spm), "_panic", said.append)
    stop(spm)
    spm.finished(start(spm))
    return spm, said


def lose_the_lease(room: StorageRoom) -> None:
    lock_of(room).release(lock_of(room).sdm)


def test_a_lost_lease_is_seen_though_the_background_is_full(watched: tuple[StorageRoom, list[str]]) -> None:
    room, said = watched
    busy = threading.Event()
    try:
        for n in range(8):  # all threads
            room.room.background.start(f"busy {n}", lambda: assert_true(busy.wait(20)))
        lose_the_lease(room)
        eventually(lambda: said, within_s=5)
    finally:
        busy.set()
    assert set(said) == {f"the SPM lease of domain {room.sd_id} is lost"}


def test_the_lease_is_looked_at_after_a_stop_that_was_refused(
    watched: tuple[StorageRoom, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody looked just then, found that the role was about to end, and nobody looked ever again."""
    room, said = watched
    role = part_of(room, Spm)
    looked = Gate(role._look)
    looked.open.set()
    monkeypatch.setattr(role, "_look", looked)
    assert role._role.begin_end("it is given up")
    looked.reached.clear()
    assert looked.reached.wait(20)
    role._role.stays()
    lose_the_lease(room)
    eventually(lambda: said, within_s=5)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_watch_that_breaks_ends_the_process(
    watched: tuple[StorageRoom, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    room, said = watched

    def broken(lease: object) -> bool:
        raise RuntimeError

    monkeypatch.setattr(lock_of(room), "holds", broken)
    eventually(lambda: said == ["the SPM lease is watched no more"], within_s=5)
