# SPDX-License-Identifier: Apache-2.0
"""The process that writes the log: it hangs with its disk or dies, and nobody else notices but the operator."""

import logging
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.eventually import eventually
from tests.support.house import CHECKOUT, RunningHouse
from tests.support.needs import lacks, needs_program, needs_root
from tests.support.roguehouse import house_to_begin, rogue_house
from vdsm_mp.cli.status import house_problems
from vdsm_mp.common import kernel
from vdsm_mp.house import logwriter

pytestmark = [needs_root(), needs_program("fsfreeze", "mke2fs", "losetup", "logrotate")]


class LogDisk:
    """A small file system below the log folder of a house, which can be made to hang."""

    def __init__(self, house: RunningHouse) -> None:
        self.folder = house.root / "log"
        owner = self.folder.stat()
        image = house.root / "log.img"
        with open(image, "wb") as file:
            file.truncate(32 << 20)
        subprocess.run(["mke2fs", "-q", "-F", "-t", "ext4", str(image)], check=True)
        mounted = subprocess.run(["mount", "-o", "loop", str(image), str(self.folder)], check=False)
        if mounted.returncode:
            lacks("a loop device to mount")
        os.chown(self.folder, owner.st_uid, owner.st_gid)
        self._frozen = False

    def hang(self) -> None:
        subprocess.run(["fsfreeze", "--freeze", str(self.folder)], check=True)
        self._frozen = True

    def go_on(self) -> None:
        if self._frozen:
            subprocess.run(["fsfreeze", "--unfreeze", str(self.folder)], check=True)
            self._frozen = False


@pytest.fixture
def house() -> Iterator[RunningHouse]:
    with rogue_house() as running:
        yield running


@pytest.fixture
def on_disk() -> Iterator[tuple[RunningHouse, LogDisk]]:
    with house_to_begin() as made:
        disk = LogDisk(made)
        try:
            made.begin()
            made.wait_ready()
            yield made, disk
        finally:
            disk.go_on()
            subprocess.run(["umount", "--lazy", str(disk.folder)], check=True)


def writer_of(house: RunningHouse) -> int:
    return int(house.status()["log"]["pid"] or 0)


def state_of(pid: int) -> str:
    facts = kernel.process(pid)
    return facts.state if facts is not None else ""


def test_a_log_disk_that_hangs_hangs_nobody_and_is_told(on_disk: tuple[RunningHouse, LogDisk]) -> None:
    house, disk = on_disk
    disk.hang()
    pid, steady = house.pid_of("rogue"), house.pid_of("steady")
    os.kill(pid, signal.SIGKILL)
    house.wait_other_pid("rogue", pid, within_s=5)
    eventually(lambda: state_of(writer_of(house)) == "D")
    eventually(lambda: house.status()["log"]["stuck"], within_s=15)
    slowest_s = 0.0
    for _ in range(20):
        began = time.monotonic()
        status = house.status()
        slowest_s = max(slowest_s, time.monotonic() - began)
    assert slowest_s < 1.0
    assert [problem for problem in house_problems(status) if "nobody writes the log" in problem]
    assert house.pid_of("steady") == steady
    disk.go_on()
    eventually(lambda: not house.status()["log"]["stuck"])
    assert "rogue died: signal SIGKILL" in house.log_text()


def test_a_house_whose_log_disk_hangs_stops_in_time(on_disk: tuple[RunningHouse, LogDisk]) -> None:
    house, disk = on_disk
    disk.hang()
    assert house.process is not None
    house.process.send_signal(signal.SIGHUP)
    eventually(lambda: house.status()["log"]["waiting_bytes"])
    pids = house.all_pids()
    writer = writer_of(house)
    assert house.terminate(within_s=15) == 0
    assert not any(state_of(pid) not in ("", "Z") for pid in pids)
    disk.go_on()
    eventually(lambda: state_of(writer) in ("", "Z"))
    assert "stopped, exit 0" in (disk.folder / "vdsm.log").read_text()


def test_a_writer_that_is_killed_is_followed_by_another_and_no_line_is_lost(house: RunningHouse) -> None:
    writer, pids = writer_of(house), house.all_pids()
    os.kill(writer, signal.SIGSTOP)
    assert house.process is not None
    for _ in range(20):
        house.process.send_signal(signal.SIGHUP)
        time.sleep(0.02)
    os.kill(writer, signal.SIGKILL)
    eventually(lambda: house.status()["log"]["pid"] not in (None, writer))
    assert house.status()["log"]["lost"] == 0
    assert house.log_text().count("log files opened again") >= 5
    assert "the log's writer ended: signal SIGKILL" in house.log_text()
    assert house.all_pids() == pids


def test_a_writer_that_hangs_in_a_pipe_is_replaced_when_the_log_is_to_be_opened_again(house: RunningHouse) -> None:
    log, writer = house.root / "log/vdsm.log", writer_of(house)
    log.rename(log.with_suffix(".1"))
    os.mkfifo(log, 0o666)
    log.chmod(0o666)
    assert house.process is not None
    house.process.send_signal(signal.SIGHUP)
    house.ask("restart", worker="rogue")
    eventually(lambda: house.status()["log"]["stuck"], within_s=15)
    log.unlink()
    house.process.send_signal(signal.SIGHUP)
    eventually(lambda: writer_of(house) not in (0, writer))
    assert "SIGKILL (waits for what it writes to, and lines wait)" in house.log_text()
    assert "rogue ready" in log.read_text() and house.status()["log"]["lost"] == 0


def test_a_stopped_writer_does_not_outlive_the_house(house: RunningHouse) -> None:
    writer = writer_of(house)
    os.kill(writer, signal.SIGSTOP)
    assert house.terminate(within_s=10) == 0
    eventually(lambda: state_of(writer) in ("", "Z"), within_s=5)


def test_the_writer_writes_the_last_lines_and_goes_with_a_killed_master(house: RunningHouse) -> None:
    writer = writer_of(house)
    title = Path(f"/proc/{writer}/cmdline").read_bytes().split(b"\0")[0]
    assert title == b"vdsm-mp: log"
    assert house.process is not None
    house.process.kill()
    house.process.wait(5)
    eventually(lambda: state_of(writer) in ("", "Z"), within_s=5)


def test_a_stopped_writer_goes_with_a_killed_master_too_after_the_last_line(house: RunningHouse) -> None:
    writer = writer_of(house)
    os.kill(writer, signal.SIGSTOP)
    os.kill(writer, signal.SIGCONT)  # by itself that says nothing
    os.kill(writer, signal.SIGSTOP)
    assert house.process is not None
    house.process.send_signal(signal.SIGHUP)
    eventually(lambda: house.status()["log"]["waiting_bytes"])
    house.process.kill()
    house.process.wait(5)
    eventually(lambda: state_of(writer) in ("", "Z"), within_s=5)
    assert "log files opened again" in house.log_text()
    assert "the log's writer ended" not in house.log_text()


def test_a_rotated_file_is_held_by_nobody(house: RunningHouse) -> None:
    log = house.root / "log/vdsm.log"
    holding = [pid for pid in house.all_pids() if str(log) in _open_files(pid)]
    assert holding == []
    old = log.with_suffix(".log.1")
    log.rename(old)
    house.ask("restart", worker="rogue")
    assert "rogue ready" in house.log_text()
    assert str(old) not in _open_files(writer_of(house))


def test_logrotate_takes_every_log_but_that_of_supervisord(house: RunningHouse, tmp_path: Path) -> None:
    folder = house.root / "log"
    owner = folder.stat()
    for name in ("supervisor-vdsm.log", "storage.log"):
        (folder / name).write_text("a line\n")
        os.chown(folder / name, owner.st_uid, owner.st_gid)
    conf = tmp_path / "logrotate.conf"
    conf.write_text((CHECKOUT / "etc/logrotate").read_text().replace("/var/log/vdsm", str(folder)))
    conf.chmod(0o644)
    argv = ["logrotate", "--force", "--state", str(tmp_path / "state"), str(conf)]
    subprocess.run(argv, check=True, timeout=60)
    house.ask("restart", worker="rogue")
    assert "rogue ready" in house.log_text()
    assert sorted(path.name for path in folder.iterdir()) == [
        "storage.log", "storage.log.1", "supervisor-vdsm.log", "vdsm.log", "vdsm.log.1",
    ]  # fmt: skip
    before, now = ((folder / name).read_text() for name in ("vdsm.log.1", "vdsm.log"))
    assert "every worker is ready" in before and "rogue ready" in now
    facts = (folder / "vdsm.log").stat()
    assert (facts.st_uid, facts.st_mode & 0o777) == (owner.st_uid, 0o644)


def _open_files(pid: int) -> list[str]:
    folder = Path(f"/proc/{pid}/fd")
    return [os.readlink(entry) for entry in folder.iterdir() if entry.is_symlink()]


class _File:
    """The order to leave comes while a line is written to it."""

    def write(self, text: str) -> None:
        logwriter._leave()

    def flush(self) -> None: ...


def test_an_order_to_leave_is_heard_while_a_line_is_written() -> None:
    with pytest.raises(logwriter._ToldToLeave):
        logging.StreamHandler(_File()).handle(logging.makeLogRecord({"msg": "a line"}))
