# SPDX-License-Identifier: Apache-2.0
"""The master under a real supervisord, with the shipped program section and the plug-in of supervisorctl."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.support.eventually import eventually
from tests.support.house import CHECKOUT, RunningHouse, ends_with_us, program
from tests.support.needs import needs_root
from vdsm_mp.common import controlsocket

pytestmark = needs_root()

TABLE = "tests.support.rogue_table"


@contextmanager
def full_tmpfs(folder: Path) -> Iterator[Path]:
    """A file system of the agent's without room in place of `folder`; the file that fills it."""
    owner = folder.stat()
    argv = ["mount", "-t", "tmpfs", "-o", f"size=64k,uid={owner.st_uid},gid={owner.st_gid}", "tmpfs", str(folder)]
    subprocess.run(argv, check=True)
    try:
        filler = folder / "filler"
        with suppress(OSError), open(filler, "wb", buffering=0) as file:
            while True:
                file.write(bytes(4096))
        yield filler
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


class Supervised:
    """A house whose master is started by supervisord."""

    def __init__(self, house: RunningHouse) -> None:
        self.house = house
        root = house.root
        self._conf = root / "supervisord.conf"
        self._env = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(program()),
            "PYTHONDONTWRITEBYTECODE": "1",
            "VDSM_MP_CONFIG": str(house.config_file),
        }
        command = f"{sys.executable} -m vdsm_mp --config {house.config_file} --table {TABLE}"
        section = (CHECKOUT / "supervisor/vdsm.conf").read_text()
        section = re.sub(r"(?m)^command=.*", f"command={command}", section)
        section = re.sub(r"(?m)^stdout_logfile=.*", f"stdout_logfile={root}/supervisor-vdsm.log", section)
        (root / "conf.d").mkdir()
        (root / "conf.d/vdsm.conf").write_text(section)
        shipped = (CHECKOUT / "supervisor/supervisord.conf").read_text()
        self._conf.write_text(re.sub(r"/(var/log|run)/vdsm-mp-demo|/etc/supervisor(?=/conf.d)", str(root), shipped))
        self.launch()

    def launch(self) -> None:
        """supervisord, which starts the master."""
        argv = [*ends_with_us(), sys.executable, "-m", "supervisor.supervisord", "-n", "-c", str(self._conf)]
        self.daemon = subprocess.Popen(
            argv, env=self._env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )

    def ctl(self, *words: str) -> tuple[int, str]:
        """(exit status, output) of supervisorctl."""
        argv = [sys.executable, "-m", "supervisor.supervisorctl", "-c", str(self._conf), *words]
        done = subprocess.run(argv, env=self._env, capture_output=True, text=True, timeout=60, check=False)
        return done.returncode, done.stdout + done.stderr

    def ready(self) -> bool:
        try:
            return all(worker["state"] == "ready" for worker in self.house.status()["workers"].values())
        except (controlsocket.NotRunning, controlsocket.Refused, OSError):
            return False

    def state(self) -> str:
        """supervisord's word for the program."""
        words = self.ctl("status", "vdsm")[1].split()
        return words[1] if len(words) > 1 else ""

    def log_text(self) -> str:
        """What supervisord kept of the master's words."""
        path = self.house.root / "supervisor-vdsm.log"
        return path.read_text() if path.exists() else ""

    def stop(self) -> None:
        self.daemon.terminate()
        self.daemon.wait(30)


@pytest.fixture
def supervised() -> Iterator[Supervised]:
    house = RunningHouse({}, tls=False, table=TABLE, libvirt_uri="test:///default")
    try:
        running = Supervised(house)
        try:
            yield running
        finally:
            running.stop()
    finally:
        house.stop()


def test_supervisorctl_shows_and_restarts_single_workers_and_stops_the_house(supervised: Supervised) -> None:
    eventually(supervised.ready, within_s=20)
    status, said = supervised.ctl("vdsm", "status")
    assert status == 0
    assert re.search(r"rogue +ready +pid \d+", said) and re.search(r"steady +ready", said)
    pid = supervised.house.pid_of("rogue")
    status, said = supervised.ctl("vdsm", "restart", "rogue")
    assert status == 0 and "rogue: ready after" in said
    assert supervised.house.pid_of("rogue") != pid
    status, said = supervised.ctl("vdsm", "restart", "nobody")
    assert status != 0 and "no worker is called nobody" in said
    assert supervised.ctl("vdsm")[0] != 0
    assert "stopped" in supervised.ctl("stop", "vdsm")[1]
    assert not (supervised.house.root / "run/control.sock").exists()
    status, said = supervised.ctl("vdsm", "status")
    assert status != 0 and "the agent is not running" in said


def test_a_killed_master_is_started_again_and_nothing_of_the_old_house_is_left(supervised: Supervised) -> None:
    eventually(supervised.ready, within_s=20)
    before = supervised.house.all_pids()
    os.kill(before[0], signal.SIGKILL)
    eventually(lambda: supervised.ready() and supervised.house.status()["pid"] != before[0], within_s=20)
    # They end at once; who adopted them may take a moment to reap them.
    eventually(lambda: not any(Path(f"/proc/{pid}").exists() for pid in before))


def test_what_cannot_start_is_not_tried_again_and_says_why(supervised: Supervised) -> None:
    eventually(supervised.ready, within_s=20)
    supervised.ctl("stop", "vdsm")
    (supervised.house.root / "state").rename(supervised.house.root / "gone")
    supervised.ctl("start", "vdsm")
    eventually(lambda: supervised.state() == "EXITED", within_s=20)
    assert "state does not exist" in (supervised.house.root / "supervisor-vdsm.log").read_text()
    assert (supervised.house.root / "supervisord.log").read_text().count("spawned: 'vdsm'") == 2


def test_a_second_master_beside_the_supervised_one_gives_way(supervised: Supervised) -> None:
    eventually(supervised.ready, within_s=20)
    pids = supervised.house.all_pids()
    supervised.house.begin()
    assert supervised.house.process is not None
    assert supervised.house.process.wait(20) == 3
    supervised.house.process = None
    assert supervised.house.all_pids() == pids


def test_a_master_outlives_its_supervisord_and_the_next_one_takes_over_when_told(supervised: Supervised) -> None:
    eventually(supervised.ready, within_s=20)
    first = supervised.house.status()
    assert not first["abandoned"]
    supervised.daemon.kill()
    supervised.daemon.wait(10)
    (supervised.house.root / "supervisor.sock").unlink(missing_ok=True)
    eventually(lambda: supervised.house.status()["abandoned"])
    supervised.launch()
    eventually(lambda: f"already running pid {first['pid']}; tried again in 10 s" in supervised.log_text(), within_s=20)
    assert supervised.house.status()["pid"] == first["pid"]
    supervised.house.ask("stop")
    eventually(lambda: supervised.ready() and supervised.house.status()["pid"] != first["pid"], within_s=40)
    assert not supervised.house.status()["abandoned"]
    eventually(lambda: supervised.state() == "RUNNING")


def test_a_start_that_finds_no_room_is_tried_again_until_there_is_some(supervised: Supervised) -> None:
    eventually(supervised.ready, within_s=20)
    assert "stopped" in supervised.ctl("stop", "vdsm")[1]
    with full_tmpfs(supervised.house.root / "run") as filler:
        supervised.ctl("start", "vdsm")
        eventually(
            lambda: "vdsm-mp.lock: No space left on device; tried again in 10 s" in supervised.log_text(), within_s=20
        )
        filler.unlink()
        eventually(supervised.ready, within_s=40)
        supervised.ctl("stop", "vdsm")
