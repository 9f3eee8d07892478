# SPDX-License-Identifier: Apache-2.0
"""A newer program is installed while the house runs: no process mixes the two, and the whole house changes over."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.support.eventually import eventually
from tests.support.house import RunningHouse, program
from tests.support.needs import needs_root
from vdsm_mp.common import controlsocket

pytestmark = needs_root()

TABLE = "tests.support.rogue_table"
#: Long enough for a change of times to be one.
_STEP_NS = 10_000_000


@pytest.fixture
def house() -> Iterator[RunningHouse]:
    with RunningHouse.start(table=TABLE) as running:
        yield running


@contextmanager
def replaced() -> Iterator[None]:
    """A file of the program is newer than the one that runs; as it was, afterwards."""
    path = program() / "vdsm_mp/cli/watch.py"
    facts = path.stat()
    os.utime(path, ns=(facts.st_atime_ns, facts.st_mtime_ns + _STEP_NS))
    try:
        yield
    finally:
        os.utime(path, ns=(facts.st_atime_ns, facts.st_mtime_ns))


def ended(house: RunningHouse) -> int:
    assert house.process is not None
    return house.process.wait(20)


def test_a_worker_that_dies_beside_an_upgrade_takes_the_house_with_it(house: RunningHouse) -> None:
    pids = house.all_pids()
    with replaced():
        assert house.all_pids() == pids  # who runs goes on
        os.kill(house.pid_of("rogue"), signal.SIGKILL)
        assert ended(house) == 1  # supervisord starts it again
        assert "rogue died: exit 4; the program on the disk is another one: the house restarts" in house.log_text()
        house.begin()
        house.wait_ready()


def test_nothing_is_forked_of_a_program_that_is_replaced_while_the_master_starts(house: RunningHouse) -> None:
    house.terminate()
    forked = house.log_text().count("forked pid=")
    hooks = house.root / "hooks/before_vdsm_start"
    hooks.mkdir()
    hook, begun = hooks / "wait", house.root / "state/begun"
    hook.write_text(f"#!/bin/sh\ntouch {begun}\nwhile test -e {begun}; do sleep 0.05; done\n")
    hook.chmod(0o755)
    house.begin()
    eventually(begun.exists)
    with replaced():
        begun.unlink()
        assert ended(house) == 3  # under supervisord it tries again
    assert "cannot start: another program is being installed" in house.log_text()
    assert house.log_text().count("forked pid=") == forked


def test_a_worker_that_fails_to_start_while_it_is_upgraded_is_not_given_up(house: RunningHouse) -> None:
    # It began with the old program and found half of the new one: an import that fails, which else is for ever.
    (house.root / "state/rogue.build").write_text("never, later")
    os.kill(house.pid_of("rogue"), signal.SIGKILL)
    building = house.root / "state/building"
    eventually(building.exists)
    with replaced():
        building.unlink()
        assert ended(house) == 1
    assert "the program on the disk is another one: the house restarts" in house.log_text()


def test_a_worker_that_dies_when_the_program_was_removed_waits_for_it_and_the_others_serve(house: RunningHouse) -> None:
    steady, rogue, tree = house.pid_of("steady"), house.pid_of("rogue"), program() / "vdsm_mp"
    aside = tree.rename(tree.with_name("aside"))
    try:
        os.kill(rogue, signal.SIGKILL)
        problem = f"the program is gone: {tree}/__main__.py is not there"
        eventually(lambda: house.status()["premises_problem"] == problem)
        assert house.worker("rogue")["state"] == "waiting" and house.status()["verdict"] == "degraded"
    finally:
        aside.rename(tree)
    house.wait_other_pid("rogue", rogue)
    assert house.pid_of("steady") == steady
    assert house.status()["premises_problem"] == ""


def test_a_single_worker_is_not_restarted_into_another_program(house: RunningHouse) -> None:
    pids = house.all_pids()
    with replaced(), pytest.raises(controlsocket.Refused, match="only the whole house can be restarted"):
        house.ask("restart", worker="rogue")
    assert house.all_pids() == pids


def status_command(house: RunningHouse) -> list[str]:
    """What `vdsm-mp status` says is wrong."""
    env = {"PATH": os.environ["PATH"], "PYTHONPATH": str(program()), "VDSM_MP_CONFIG": str(house.config_file)}
    argv = [sys.executable, "-B", "-m", "vdsm_mp.cli.main", "status", "--json"]
    done = subprocess.run(argv, env=env, cwd="/", capture_output=True, text=True, timeout=60, check=False)
    said: list[str] = json.loads(done.stdout)["problems"]
    # This house has no door.
    return [problem for problem in said if not problem.startswith("the door ")]


def test_the_command_says_what_another_start_would_change_or_fail_at(house: RunningHouse) -> None:
    assert status_command(house) == []
    with replaced():
        assert status_command(house) == [
            "another program is installed than the one that runs; restart the agent to change over"
        ]
    text = house.config_file.read_text()
    house.config_file.write_text(text + "\n[jobs]\nautodelete_delay = 7\n")
    assert status_command(house) == [
        "the configuration has changed since the agent started; restart it to have it in force"
    ]
    house.config_file.write_text(text + "\n[jobs]\nautodelete = 7\n")
    (fault,) = status_command(house)
    assert fault.startswith("the agent could not start again: ") and fault.endswith("[jobs] has no option autodelete")


def test_what_runs_is_told_by_its_status(house: RunningHouse) -> None:
    status = house.status()
    assert status["program"] == str(program() / "vdsm_mp")
    assert status["build"].startswith(status["version"] + "-")
