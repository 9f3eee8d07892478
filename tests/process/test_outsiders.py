# SPDX-License-Identifier: Apache-2.0
"""What people at the host's keyboard do to processes of the agent: debuggers, and signals to all that have its name."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from tests.support.debugger import holding
from tests.support.eventually import eventually
from tests.support.house import RunningHouse
from tests.support.needs import needs_root
from tests.support.roguehouse import order
from vdsm_mp.common import kernel
from vdsm_mp.house import remains

pytestmark = needs_root()


@pytest.fixture
def house() -> Iterator[RunningHouse]:
    with RunningHouse.start(table="tests.support.rogue_table") as running:
        yield running


def test_a_worker_and_a_log_writer_in_debuggers_are_replaced_as_what_hangs(house: RunningHouse) -> None:
    pid, steady, writer = house.pid_of("rogue"), house.pid_of("steady"), int(house.status()["log"]["pid"])
    with holding(pid) as debugger, holding(writer):
        began = time.monotonic()
        house.wait_other_pid("rogue", pid)
        # Without waiting for what the debugger keeps of it.
        assert time.monotonic() - began < 5.5
        assert [lost["pid"] for lost in house.status()["lost"]] == [pid]
        eventually(lambda: house.status()["log"]["pid"] not in (None, writer), within_s=15)
        assert f"survives SIGKILL: pid {debugger.pid} debugs it and keeps it" in house.log_text()
        assert house.status()["log"]["lost"] == 0
    eventually(lambda: house.status()["lost"] == [] and not kernel.process(pid) and not kernel.process(writer))
    assert house.pid_of("steady") == steady


def test_signals_that_are_for_the_master_end_nobody_else(house: RunningHouse) -> None:
    order(house, "child one hello")
    eventually(lambda: [c for c in house.status()["children"] if c["name"] == "one"])
    status = house.status()
    pids = [*house.all_pids(), int(status["log"]["pid"])]
    for number in (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
        for pid in pids:
            os.kill(pid, number)
        eventually(lambda: all(w["last_heartbeat_ago_s"] < 0.5 for w in house.status()["workers"].values()))
    assert [*house.all_pids(), int(house.status()["log"]["pid"])] == pids


_FLOOD = """
import os, signal, sys
print("begun", flush=True)
try:
    while True:
        os.kill(int(sys.argv[1]), signal.SIGHUP)
except ProcessLookupError:
    pass
"""


def test_a_flood_of_signals_hides_no_order_to_stop_and_does_not_spoil_its_end(house: RunningHouse) -> None:
    assert house.process is not None
    flood = subprocess.Popen([sys.executable, "-c", _FLOOD, str(house.process.pid)], stdout=subprocess.PIPE, text=True)
    try:
        assert flood.stdout is not None
        assert flood.stdout.readline() == "begun\n"
        assert house.terminate(within_s=15) == 0
    finally:
        flood.kill()
        flood.communicate()


@pytest.mark.parametrize(
    ("number", "by_others"),
    [(signal.SIGKILL, True), (signal.SIGALRM, True), (signal.SIGQUIT, True), (signal.SIGSEGV, False),
     (signal.SIGABRT, False), (signal.SIGSYS, False)],
)  # fmt: skip
def test_who_is_to_blame_for_a_death_by_a_signal(number: signal.Signals, by_others: bool) -> None:
    assert remains.by_others(int(number)) is by_others


def test_an_exit_is_nobody_elses_doing() -> None:
    assert not remains.by_others(1 << 8)
