# SPDX-License-Identifier: Apache-2.0
"""What somebody removes from the run directory of a house that runs: it is made again, and nobody is cut off."""

import fcntl
import os
import selectors
import shutil
import signal
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.eventually import eventually
from tests.support.house import RunningHouse
from tests.support.needs import needs_root
from vdsm_mp.cli.status import house_problems
from vdsm_mp.common import controlsocket
from vdsm_mp.house import claim, premises
from vdsm_mp.house.desk import Desk
from vdsm_mp.house.house import House, HouseState
from vdsm_mp.house.logwriter import LogWriter
from vdsm_mp.house.premises import Premises

pytestmark = needs_root()


@pytest.fixture(scope="module")
def house() -> Iterator[RunningHouse]:
    with RunningHouse.start() as running:
        running.call("Host.getAllVmStats")  # who has never met cannot meet without a directory
        yield running


def answers(house: RunningHouse) -> bool:
    try:
        return bool(house.status()["verdict"] == "ok")
    except (controlsocket.NotRunning, controlsocket.Refused, OSError):
        return False


def bus(house: RunningHouse) -> Path:
    (found,) = (house.root / "run").glob("e-*")
    return found


def virt_can_be_replaced(house: RunningHouse) -> None:
    """The next virt worker binds, finds its peers and is found by them; all others stay who they are."""
    before = {name: worker["pid"] for name, worker in house.status()["workers"].items()}
    os.kill(before["virt"], signal.SIGKILL)
    house.wait_other_pid("virt", before["virt"])
    assert [vm["vmName"] for vm in house.call("Host.getAllVmStats")] == ["test"]
    eventually(lambda: house.call("Host.getStats")["vmCount"] == 1, within_s=20)
    after = {name: worker["pid"] for name, worker in house.status()["workers"].items()}
    assert {name for name in before if before[name] != after[name]} == {"virt"}


def test_a_control_socket_that_was_removed_is_made_again_for_the_same_people(house: RunningHouse) -> None:
    path, pid = house.root / "run/control.sock", house.status()["pid"]
    before = path.stat()
    path.unlink()
    eventually(lambda: answers(house))
    after = path.stat()
    assert house.status()["pid"] == pid
    assert (after.st_uid, after.st_gid, stat.S_IMODE(after.st_mode)) == (before.st_uid, before.st_gid, 0o660)


def test_without_the_directory_of_the_bus_calls_go_on_and_the_next_worker_comes_in(house: RunningHouse) -> None:
    folder = bus(house)
    shutil.rmtree(folder)
    assert [vm["vmName"] for vm in house.call("Host.getAllVmStats")] == ["test"]
    eventually(lambda: len(list(folder.glob("*"))) == 15)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    virt_can_be_replaced(house)


def test_single_sockets_that_were_removed_are_made_again(house: RunningHouse) -> None:
    folder = bus(house)
    removed = [path for path in folder.iterdir() if path.name.startswith(("storage.", "clientif."))]
    assert len(removed) == 6
    for path in removed:
        path.unlink()
    eventually(lambda: all(path.exists() for path in removed))
    virt_can_be_replaced(house)


def test_a_run_directory_that_cannot_be_made_again_is_told_and_filled_when_it_is_back(house: RunningHouse) -> None:
    run, status = house.root / "run", house.status()
    owner = run.stat()
    shutil.rmtree(run)  # below a folder of root's, as /run is
    pid, virt = status["pid"], status["workers"]["virt"]["pid"]
    with pytest.raises(controlsocket.Refused, match=f"the agent runs as pid {pid}, but .*No such file"):
        house.status()
    assert [vm["vmName"] for vm in house.call("Host.getAllVmStats")] == ["test"]
    eventually(lambda: f"the directory {run} does not exist" in house.log_text())
    os.kill(virt, signal.SIGKILL)
    eventually(lambda: "virt died: signal SIGKILL" in house.log_text())
    run.mkdir(mode=0o755)
    os.chown(run, owner.st_uid, owner.st_gid)
    eventually(lambda: answers(house))
    assert house.status()["pid"] == pid
    assert house.worker("virt")["restarts"] <= status["workers"]["virt"]["restarts"] + 3
    virt_can_be_replaced(house)
    assert (run / "vdsm-mp.pid").read_text() == f"{pid}\n"
    serving = house.process
    house.begin()
    second, house.process = house.process, serving
    assert second is not None
    assert second.wait(20) == 3
    assert f"already running pid {pid}" in house.log_text()


def test_a_directory_that_is_gone_is_told_before_a_worker_fails_and_nobody_is_started_without(
    house: RunningHouse,
) -> None:
    folder, aside = house.root / "vrun", house.root / "aside"
    before = house.worker("virt")
    folder.rename(aside)
    try:
        sentence = f"the directory {folder} does not exist"
        eventually(lambda: sentence in house.status()["premises_problem"])
        assert any(sentence in problem for problem in house_problems(house.status()))
        assert house.call("Host.ping2") is True
        with pytest.raises(controlsocket.Refused, match=f"could not start again: the directory {folder}"):
            house.ask("restart", worker="storage")
        os.kill(before["pid"], signal.SIGKILL)
        eventually(lambda: house.worker("virt")["state"] == "waiting")
    finally:
        aside.rename(folder)
    house.wait_ready(within_s=10)
    assert house.worker("virt")["restarts"] == before["restarts"] + 1


def test_a_house_whose_lock_another_master_has_taken_gives_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(premises, "EVERY_S", 0.0)
    lock_fd = claim.lock(tmp_path)
    house = House(
        (), (), lambda *_: 0, build="", config={}, inherited={}, log_writer=LogWriter(), broadcast=lambda _: None
    )
    house.state = HouseState.RUNNING
    with selectors.DefaultSelector() as selector, claim.bus_dir(tmp_path) as bus_dir:
        desk = Desk(tmp_path / "control.sock", house, selector, "root", "root")
        looks = Premises(tmp_path, bus_dir, lock_fd, house, desk)
        looks.beat()
        assert house.ground.problem == ""
        (tmp_path / "vdsm-mp.lock").unlink()
        with open(tmp_path / "vdsm-mp.lock", "w+") as other:
            fcntl.flock(other, fcntl.LOCK_EX)
            other.write("4711\n")
            other.flush()
            looks.beat()
            assert house.ground.problem.endswith("already running pid 4711")
            assert house.state is HouseState.RUNNING
            monkeypatch.setattr(premises, "GIVE_WAY_S", 0.0)
            looks.beat()
        assert house.state in (HouseState.STOPPING, HouseState.EMPTY)
        assert house.verdict == 3
        desk.close()
    house.log_writer.close()
    os.close(lock_fd)
