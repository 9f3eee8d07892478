# SPDX-License-Identifier: Apache-2.0
"""Runs one operation on leases, volumes with leases, or the SPM role under real sanlock again and again, with a death
before its step 1, 2, 3 … until none is left:

    python -m tests.faults.leases SCENARIO DIRECTORY [STRIDE] [FAULT]

FAULT: "kill", the worker and its I/O children; or "child", the I/O child alone. What the worker asks sanlock for is a
step, too. A process without threads, as `deaths`; the sanlock daemon and the domains, on two loop devices, stay: each
look ends by taking back what was done. DIRECTORY must have a short name, for the daemon's socket. Prints one JSON line
as `deaths` does.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sanlock

from tests.faults.lease_changes import SCENARIOS, Reported, Scenario
from tests.faults.lease_hosts import LeaseHost, tasks_are_over
from tests.faults.lives import Fault, Lives, in_session, run_all
from tests.faults.powercut import Stage
from tests.faults.steps import Steps
from tests.support.eventually import eventually
from tests.support.loopdevice import MIB, ext4_on_loop
from tests.support.sanlock_daemon import SanlockDaemon
from vdsm_mp.common.errors import Error
from vdsm_mp.tasks import undoing

#: What changes something for others. To join and to leave a lockspace takes seconds each time, and is tried elsewhere.
_ASKED = ("write_resource", "acquire", "release", "set_lvb")


class SharedStage(Stage):
    """Nothing is copied for a run: sanlock has the files open."""

    def begin(self) -> None:
        for one in self.notes.iterdir():
            one.unlink()


@dataclass(frozen=True)
class Place:
    """devices: of the first master and of the second domain."""

    stage: Stage
    devices: tuple[str, str]

    def host(self) -> LeaseHost:
        return LeaseHost(self.stage.root, self.devices)


def live(place: Place, scenario: Scenario, fault: Fault, at: int) -> None:
    undoing.UNDO_PAUSE_S = 0.01
    steps = Steps(place.stage.balloon, syncs=False)
    for name in _ASKED:
        setattr(sanlock, name, steps._counting(getattr(sanlock, name)))
    host = place.host().connected()
    patiently(scenario.before, host)
    (place.stage.notes / "begun").touch()
    fault.arm(steps, at, 0)
    said = ""
    try:
        scenario.act(host)
    except (Error, Reported) as e:
        said = f"{type(e).__name__}: {e}"
    (place.stage.notes / ("said" if said else "said-done")).write_text(said)
    if steps.disarm() >= at:
        (place.stage.notes / "hit").touch()
    host.stop()


def look(place: Place, scenario: Scenario) -> str:
    notes = place.stage.notes
    assert (notes / "begun").exists(), "it died before its time"
    said_done = (notes / "said-done").exists()
    host = place.host().connected()
    eventually(lambda: tasks_are_over(host), within_s=30)
    told = {one["taskResult"] for one in host.call("Host.getAllTasksStatuses").values()}
    assert "cleanFailure" not in told, host.call("Host.getAllTasksStatuses")
    host.clear_tasks()
    outcome = "done"
    if not scenario.done(host):
        assert not said_done, "it was said to be done, and is not"
        assert "success" not in told, "its task was told as done, and is not"
        outcome = "done at the second try"
        patiently(scenario.act, host)
        assert scenario.done(host), "not even when asked again"
    patiently(scenario.after, host)
    host.stop()
    return outcome


def patiently(ask: Callable[[LeaseHost], object], host: LeaseHost) -> None:
    """Sanlock gives up after a second here, which a disk that others use may take: an engine asks again."""
    for _ in range(2):
        with suppress(Error, Reported):
            ask(host)
            return
    ask(host)


@contextmanager
def places(directory: Path) -> Iterator[Place]:
    (directory / "s").mkdir()
    daemon = SanlockDaemon(directory / "s")
    os.environ.update(daemon.environment)
    with ExitStack() as stack:
        stack.callback(daemon.stop)
        owner = f"{os.getuid()}:108"
        devices = [stack.enter_context(ext4_on_loop(directory / name, 128 * MIB, owner)) for name in ("one", "two")]
        stage = SharedStage(directory)
        stack.callback(_leave, stage.root)
        yield Place(stage, (devices[0], devices[1]))


def _leave(root: Path) -> None:
    for left in sanlock.get_lockspaces():
        sanlock.rem_lockspace(left["lockspace"], left["host_id"], left["path"])
    for mount in (root / "dc/mnt").glob("*"):
        if os.path.ismount(mount):
            subprocess.run(["umount", mount], check=True)


def run(directory: Path, name: str, stride: int = 1, fault: str = "kill") -> dict[str, Any]:
    """As `lives.run_all`."""
    scenario, wanted = SCENARIOS[name], Fault.of(fault)
    with places(directory) as place:
        lives = Lives(
            lambda at, later: live(place, scenario, wanted, at),
            _nobody_comes_between,
            lambda: look(place, scenario),
        )
        assert in_session(lambda: place.host().make().stop()) == 0
        return run_all(place.stage, wanted, stride, lives, directory / "outcome")


def _nobody_comes_between(at: int) -> None:
    raise AssertionError(f"one fault at a time: {at}")


def main() -> None:
    name, directory, stride, fault = [*sys.argv[1:], *("1", "kill")[len(sys.argv) - 3 :]]
    print(json.dumps(run(Path(directory), name, int(stride), fault)))


if __name__ == "__main__":
    main()
