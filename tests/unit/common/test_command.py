# SPDX-License-Identifier: Apache-2.0
"""Running programs: deadlines, bounds, and errors that say what happened."""

import os
import threading
import time

import pytest

from tests.support.eventually import eventually
from vdsm_mp.common import command
from vdsm_mp.common.command import CommandAborted, CommandFailed, CommandOverdue, run


def test_output_status_and_input_pass_through() -> None:
    assert run(["cat"], stdin=b"x" * 300_000, deadline_s=10).out == b"x" * 300_000
    assert run(["sh", "-c", "exit 3"], accept=(0, 3), deadline_s=10).status == 3


def test_no_core_of_a_program_lies_where_ours_do() -> None:
    assert run(["pwd"], deadline_s=10).out == b"/\n"
    assert run([*command.UNTRUSTED, "sh", "-c", "ulimit -c"], deadline_s=10).out == b"0\n"


def test_a_failure_carries_command_status_and_the_end_of_stderr() -> None:
    with pytest.raises(CommandFailed) as caught:
        run(["sh", "-c", "echo no such thing >&2; exit 4"], deadline_s=10)
    assert caught.value.status == 4
    assert "no such thing" in str(caught.value)


def test_a_missing_program_is_a_failure_with_its_name() -> None:
    with pytest.raises(CommandFailed, match="no-such-program"):
        run(["no-such-program"], deadline_s=10)


@pytest.mark.parametrize("apart", ["", "setsid"])
def test_a_program_that_overstays_is_killed_with_its_children(apart: str) -> None:
    seen: list[bytes] = []
    with pytest.raises(CommandOverdue):
        run(["sh", "-c", f"{apart} sleep 77 & echo $!; wait"], deadline_s=0.5, on_output=seen.append)
    grandchild = int(b"".join(seen))
    eventually(lambda: not os.path.exists(f"/proc/{grandchild}") or _state(grandchild) == "Z", within_s=5)


def _state(pid: int) -> str:
    with open(f"/proc/{pid}/stat") as file:
        return file.read().rpartition(")")[2].split()[0]


def test_a_flood_of_output_is_cut_off() -> None:
    with pytest.raises(CommandFailed, match="more than 1000000 bytes"):
        run(["yes"], deadline_s=20, max_output_bytes=1_000_000)


def test_an_aborted_job_kills_its_program() -> None:
    stop = threading.Event()
    threading.Timer(0.1, stop.set).start()
    with pytest.raises(CommandAborted):
        run(["sleep", "60"], deadline_s=60, abort=stop.is_set)


def test_a_daemon_that_keeps_the_pipes_open_does_not_hold_us_up() -> None:
    began = time.monotonic()
    result = run(["sh", "-c", "setsid sleep 3 & echo left"], deadline_s=30)
    assert result.out == b"left\n"
    assert time.monotonic() - began < 2.5


def test_programs_are_not_bound_to_the_agents_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    every = os.sched_getaffinity(0)
    monkeypatch.setattr(command, "free_cpus", frozenset(every))
    os.sched_setaffinity(0, {min(every)})
    try:
        said = run(["sh", "-c", "sleep 0.2; exec nproc"], deadline_s=10).out
    finally:
        os.sched_setaffinity(0, every)
    assert int(said) == len(every)
