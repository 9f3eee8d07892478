# SPDX-License-Identifier: Apache-2.0
"""Two hosts fight for the SPM role of one pool under real sanlock, and are killed meanwhile: never two at a time."""

import itertools
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.eventually import eventually
from tests.support.loopdevice import MIB, ext4_on_loop
from tests.support.needs import needs_program, needs_root
from vdsm_mp.workers.storage import INCONSISTENT

pytestmark = [
    pytest.mark.system,
    needs_root(),
    needs_program("sanlock", "mkfs.ext4", "losetup"),
    pytest.mark.timeout(600),
]

_WHOLE = os.environ.get("VDSM_MP_FAULTS_STRIDE") == "1"
#: Times the role changes hands.
TAKEOVERS = 50 if _WHOLE else 8


@pytest.fixture
def place() -> Iterator[Path]:
    made = Path(tempfile.mkdtemp(prefix="spm-", dir="/tmp"))
    made.chmod(0o755)
    yield made
    shutil.rmtree(made)


@pytest.fixture
def device(place: Path) -> Iterator[str]:
    with ext4_on_loop(place / "disk", 256 * MIB, f"{os.getuid()}:108") as made:
        yield made


class Fighter:
    """A host: its sanlock daemon, which lives on, and its agent, which is killed and started again."""

    def __init__(self, place: Path, device: str, host_id: int) -> None:
        self.host_id = host_id
        self.history = place / "history"
        self._base = place / f"host{host_id}"
        self._device = device
        run_dir = place / f"s{host_id}"
        run_dir.mkdir()
        self._env = {**os.environ, "SANLOCK_RUN_DIR": str(run_dir), "SANLOCK_PRIVILEGED": "0"}
        self._sanlock = subprocess.Popen(
            ["/usr/sbin/sanlock", "daemon", "-D", "-w", "0", "-e", f"host-{host_id}"],
            env=self._env,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        eventually((run_dir / "sanlock.sock").exists)
        self._agent: subprocess.Popen[bytes] | None = None

    def run(self, *more: str) -> subprocess.Popen[bytes]:
        argv = [sys.executable, "-m", "tests.faults.spm_agent", str(self._base), self._device, str(self.host_id)]
        return subprocess.Popen(
            [*argv, str(self.history), *more],
            env=self._env,
            cwd=Path(__file__).parents[2],
            start_new_session=True,
            stderr=subprocess.DEVNULL,
        )

    def begin(self) -> None:
        self._agent = self.run()

    def kill_sanlock(self) -> None:
        self._sanlock.kill()
        self._sanlock.wait(10)

    def kill(self) -> None:
        if self._agent is not None:
            with self.history.open("a") as f:
                f.write(f"{time.monotonic():.6f} {self.host_id} {self._agent.pid} killed\n")
            os.killpg(self._agent.pid, signal.SIGKILL)
            self._agent.wait(10)
            self._agent = None

    def stop(self) -> None:
        self.kill()
        self._sanlock.kill()
        self._sanlock.wait(10)
        for mount in (self._base / "dc/mnt").glob("*"):
            subprocess.run(["umount", mount], check=True)


@pytest.fixture
def fighters(place: Path, device: str) -> Iterator[list[Fighter]]:
    made = [Fighter(place, device, host_id) for host_id in (1, 2)]
    yield made
    for fighter in made:
        fighter.stop()


def spans(history: Path) -> list[tuple[float, float, int]]:
    """[(from, until, host)] of every time somebody had the role; a death ends it."""
    found: list[tuple[float, float, int]] = []
    open_since: dict[int, tuple[float, int]] = {}
    for line in sorted(history.read_text().splitlines(), key=lambda text: float(text.split()[0])):
        at, host, pid, what = line.split()
        if what == "begin":
            open_since[int(pid)] = (float(at), int(host))
        elif int(pid) in open_since:
            began, _ = open_since.pop(int(pid))
            found.append((began, float(at), int(host)))
    found += [(began, float("inf"), host) for began, host in open_since.values()]
    return sorted(found)


def changes(history: Path) -> int:
    hosts = [host for _, _, host in spans(history)] if history.exists() else []
    return sum(a != b for a, b in itertools.pairwise(hosts))


def test_there_is_never_more_than_one_spm(fighters: list[Fighter], place: Path) -> None:
    history = place / "history"
    assert fighters[0].run("make").wait(120) == 0
    for fighter in fighters:
        fighter.begin()
    eventually(lambda: changes(history) >= 1, within_s=60)
    deadline = time.monotonic() + 500
    killed = 0
    while changes(history) < TAKEOVERS and time.monotonic() < deadline:
        victim = random.choice(fighters)
        before = len(spans(history))
        eventually(lambda: len(spans(history)) >= before + 2, within_s=60)  # noqa: B023
        victim.kill()
        killed += 1
        victim.begin()
    for fighter in fighters:
        fighter.kill()
    found = spans(history)
    assert changes(history) >= TAKEOVERS
    assert killed >= 2
    overlaps = [(a, b) for a, b in itertools.pairwise(found) if b[0] < a[1]]
    assert overlaps == []
    assert {host for _, _, host in found} == {1, 2}


def lines(history: Path, host_id: int, what: str) -> list[float]:
    """When."""
    found = [line.split() for line in history.read_text().splitlines()] if history.exists() else []
    return [float(at) for at, host, _, word in found if (int(host), word) == (host_id, what)]


def who_loses_the_lease_ends_and_writes_nothing_when_the_next_has_it(fighters: list[Fighter], place: Path) -> None:
    """Its sanlock is killed; no watchdog resets the host here."""
    history = place / "history"
    assert fighters[0].run("make").wait(120) == 0
    keeper = fighters[0].run("keep")
    try:
        eventually(lambda: len(lines(history, 1, "write")) > 20, within_s=60)
        fighters[1].begin()
        fighters[0].kill_sanlock()
        killed_mono = time.monotonic()
        assert keeper.wait(30) == INCONSISTENT
        assert time.monotonic() - killed_mono < 5
        eventually(lambda: lines(history, 2, "begin"), within_s=150)
    finally:
        keeper.kill()
        keeper.wait(10)
    assert max(lines(history, 1, "write")) < min(lines(history, 2, "begin"))


if _WHOLE:  # it waits until a host is taken for dead
    test_who_loses_the_lease = who_loses_the_lease_ends_and_writes_nothing_when_the_next_has_it
