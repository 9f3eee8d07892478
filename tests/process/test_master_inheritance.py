# SPDX-License-Identifier: Apache-2.0
"""What whoever starts the master may have left it: closed streams, blocked or ignored signals, few descriptors."""

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.eventually import eventually
from tests.support.house import RunningHouse
from tests.support.needs import needs_root
from tests.support.roguehouse import house_to_begin

pytestmark = needs_root()

#: Becomes the command after it with every signal blocked, or with those ignored that end and tell of processes.
_BLOCKS = "signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())"
_IGNORES = "[signal.signal(n, signal.SIG_IGN) for n in (signal.SIGCHLD, signal.SIGHUP, signal.SIGTERM)]"


@pytest.fixture
def house() -> Iterator[RunningHouse]:
    with house_to_begin() as made:
        yield made


def lives(house: RunningHouse) -> None:
    """Started, a death is seen and mended, and a stop ends it."""
    house.begin()
    house.wait_ready()
    house.kill_worker("rogue", within_s=3)
    assert house.status()["lost"] == []
    assert house.terminate(within_s=15) == 0


@pytest.mark.parametrize("closes", ["0<&- 1>&- 2>&-", "2>&-", "1>&-"])
def test_closed_standard_streams_are_nobodys_place(house: RunningHouse, closes: str) -> None:
    house.through = ["sh", "-c", f'exec "$@" {closes}', "sh"]
    house.begin()
    house.wait_ready()
    master = Path(f"/proc/{house.status()['pid']}/fd")
    assert not [kind for kind in (str((master / n).readlink()) for n in "012") if "socket" in kind or "lock" in kind]
    os.kill(house.pid_of("rogue"), signal.SIGKILL)
    eventually(lambda: house.worker("rogue")["restarts"] == 1)
    assert (house.root / "run/vdsm-mp.lock").read_text() == f"{house.status()['pid']}\n"
    assert house.terminate(within_s=15) == 0


@pytest.mark.parametrize("does", [_BLOCKS, _IGNORES])
def test_blocked_and_ignored_signals_are_ours_again(house: RunningHouse, does: str) -> None:
    house.through = [sys.executable, "-c", f"import os, signal, sys; {does}; os.execvp(sys.argv[1], sys.argv[1:])"]
    lives(house)


def test_too_few_descriptors_are_told_before_anything_begins(house: RunningHouse) -> None:
    house.through = ["prlimit", "--nofile=64:64"]
    house.begin()
    assert house.process is not None
    assert house.process.wait(20) == 3
    assert "cannot start: at most 64 files may be open in a process, at least 256 are needed" in house.log_text()


def test_a_low_limit_that_may_be_raised_is_raised_for_all(house: RunningHouse) -> None:
    house.through = ["prlimit", "--nofile=64:4096"]
    house.begin()
    house.wait_ready()
    lines = Path(f"/proc/{house.pid_of('rogue')}/limits").read_text().splitlines()
    assert next(line.split()[3] for line in lines if line.startswith("Max open files")) == "1024"
