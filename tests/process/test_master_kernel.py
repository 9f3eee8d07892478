# SPDX-License-Identifier: Apache-2.0
"""The master against the kernel: processes that cannot be killed, memory that runs out, time that passes without us."""

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.eventually import eventually
from tests.support.hangfs import HangFs
from tests.support.house import RunningHouse
from tests.support.needs import lacks, needs_root
from tests.support.roguehouse import done, house_to_begin, order, rogue_house
from vdsm_mp.common import kernel

pytestmark = needs_root()


@pytest.fixture
def house() -> Iterator[RunningHouse]:
    with rogue_house() as running:
        yield running


@pytest.fixture
def dead_server(tmp_path: Path) -> Iterator[HangFs]:
    """A mount whose file `file` never answers."""
    if not os.path.exists("/dev/fuse"):
        lacks("FUSE")
    source = tmp_path / "source"
    source.mkdir()
    (source / "file").write_text("data")
    for folder in (tmp_path, *tmp_path.parents):
        if folder.is_relative_to("/tmp/pytest-of-root"):
            folder.chmod(0o755)
    fs = HangFs(source, tmp_path / "mount")
    try:
        yield fs
    finally:
        fs.stop()


def hang_a_child(house: RunningHouse, fs: HangFs, name: str) -> int:
    """A child that waits in the kernel for ever; its pid."""
    fs.hang()
    order(house, f"child {name} read {fs.target}/file")
    eventually(lambda: f"{name}: hanging" in done(house))
    pid: int = next(child["pid"] for child in house.status()["children"] if child["name"] == name)
    return pid


def test_a_child_that_cannot_be_killed_is_written_off_counted_capped_and_taken_back(
    house: RunningHouse, dead_server: HangFs
) -> None:
    pids = []
    for name in ("one", "two"):
        pids.append(hang_a_child(house, dead_server, name))
        order(house, f"close {name}")
        eventually(lambda: house.status()["lost"] and house.status()["lost"][-1]["pid"] == pids[-1])
        assert kernel.process(pids[-1]) is not None
    assert [lost["name"] for lost in house.status()["lost"]] == ["toy one", "toy two"]
    assert house.status()["verdict"] == "degraded"
    assert house.worker("rogue")["state"] == "ready"
    order(house, "child three hello")
    eventually(lambda: "three: TooManyLost" in done(house))
    dead_server.go_on()
    eventually(lambda: house.status()["lost"] == [])
    assert not any(kernel.process(pid) for pid in pids)
    order(house, "child four hello")
    eventually(lambda: "four: hello" in done(house))


def test_a_stop_with_a_child_that_cannot_be_killed_ends_in_time_and_names_it(
    house: RunningHouse, dead_server: HangFs
) -> None:
    pid = hang_a_child(house, dead_server, "stuck-domain")
    assert house.terminate(within_s=15) == 0
    assert f"left behind, hanging in the kernel: toy stuck-domain pid={pid}" in house.log_text()
    dead_server.go_on()
    eventually(lambda: (facts := kernel.process(pid)) is None or facts.state == "Z")


def test_a_worker_that_hangs_in_the_kernel_itself_is_written_off_replaced_and_taken_back(
    house: RunningHouse, dead_server: HangFs
) -> None:
    pid, steady, epoch = house.pid_of("rogue"), house.pid_of("steady"), house.worker("rogue")["epoch"]
    dead_server.hang()
    order(house, f"read {dead_server.target}/file")
    house.wait_other_pid("rogue", pid)
    facts = kernel.process(pid)
    assert facts is not None and facts.state == "D"
    [lost] = house.status()["lost"]
    assert (lost["name"], lost["kind"], lost["pid"]) == ("rogue", "worker", pid)
    assert "written off (hung: no heartbeat" in house.worker("rogue")["last_death"]
    # The old one keeps no name on the bus: whoever comes back from the kernel is of an epoch that nobody asks.
    assert house.worker("rogue")["epoch"] == epoch + 1 and house.pid_of("steady") == steady
    order(house, "child one hello")
    eventually(lambda: "one: hello" in done(house))
    dead_server.go_on()
    eventually(lambda: house.status()["lost"] == [] and kernel.process(pid) is None)
    assert house.worker("rogue")["state"] == "ready" and house.pid_of("steady") == steady


def test_a_worker_that_runs_out_of_memory_dies_alone_and_says_why(house: RunningHouse) -> None:
    group = Path(f"/sys/fs/cgroup/memory/vdsm-mp-test-{os.getpid()}")
    try:
        group.mkdir()
        (group / "memory.limit_in_bytes").write_text(str(64 << 20))
    except OSError:
        lacks("a memory control group to limit")
    pid, steady = house.pid_of("rogue"), house.pid_of("steady")
    try:
        (group / "cgroup.procs").write_text(str(pid))
        order(house, "hoard 500")
        house.wait_other_pid("rogue", pid)
        assert house.worker("rogue")["last_death"] == "signal SIGKILL (out of memory)"
        assert house.pid_of("steady") == steady
    finally:
        eventually(lambda: not (group / "cgroup.procs").read_text())
        group.rmdir()


def test_a_kill_by_hand_is_not_taken_for_want_of_memory(house: RunningHouse) -> None:
    house.kill_worker("rogue")
    assert house.worker("rogue")["last_death"] == "signal SIGKILL"


def test_when_the_whole_house_was_frozen_nobody_is_blamed_for_the_silence(house: RunningHouse) -> None:
    pids = house.all_pids()
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    time.sleep(5)  # the silence itself
    os.kill(pids[0], signal.SIGCONT)
    house.status()  # the master is back and looks first
    time.sleep(2.2)  # a host under load comes back slowly
    for pid in pids[1:]:
        os.kill(pid, signal.SIGCONT)
    eventually(lambda: all(w["last_heartbeat_ago_s"] < 1 for w in house.status()["workers"].values()))
    assert house.all_pids() == pids


def test_a_careless_umask_opens_nothing_to_others() -> None:
    with house_to_begin() as house:
        before = os.umask(0)
        try:
            house.begin()
        finally:
            os.umask(before)
        house.wait_ready()
        made = [*(house.root / "run").rglob("*"), *(house.root / "log").iterdir()]
        assert [path for path in made if path.lstat().st_mode & 0o002] == []


def test_a_stop_does_not_wait_for_a_worker_that_is_not_ready_yet() -> None:
    with house_to_begin() as house:
        (house.root / "state/rogue.build").write_text("wait")
        house.begin()
        eventually(house.all_pids)
        eventually(lambda: house.worker("steady")["state"] == "ready")
        assert house.terminate(within_s=10) == 0
        assert "told to leave before it was ready" in house.log_text()
