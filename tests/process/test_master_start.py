# SPDX-License-Identifier: Apache-2.0
"""What keeps the agent from starting: said at once, in one go, with exit code 3."""

import fcntl
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator

import pytest

from tests.support.eventually import eventually
from tests.support.house import RunningHouse
from tests.support.needs import needs_root
from tests.support.roguehouse import house_to_begin

pytestmark = needs_root()


@pytest.fixture
def house() -> Iterator[RunningHouse]:
    with house_to_begin() as made:
        yield made


def refused(house: RunningHouse, within_s: float = 20) -> str:
    house.begin()
    assert house.process is not None
    assert house.process.wait(within_s) == 3
    return house.log_text()


def test_everything_that_is_missing_is_said_at_once(house: RunningHouse) -> None:
    (house.root / "log").chmod(0o555)
    (house.root / "state").rmdir()
    (house.root / "libexec/helper-storage").unlink()
    said = refused(house)
    assert "log is not writable" in said
    assert "state does not exist" in said
    assert "helper-storage is not installed" in said


@pytest.mark.parametrize("name", ["vrun", "repo", "run"])
def test_a_directory_that_workers_need_is_missed_before_they_are_forked(house: RunningHouse, name: str) -> None:
    os.chown(house.root / name, 0, 0)
    assert f"{name} is not writable" in refused(house)
    shutil.rmtree(house.root / name)
    said = refused(house)
    assert f"{name} does not exist" in said and "Traceback" not in said


def test_what_root_left_in_the_run_directory_is_replaced_or_named(house: RunningHouse) -> None:
    (house.root / "run/vdsm-mp.pid").write_text("1\n")
    (house.root / "run/e-1-1").mkdir()
    (house.root / "run/e-1-1/virt").touch()
    (house.root / "run/control.sock").mkdir()
    said = refused(house)
    assert "run/control.sock: Is a directory" in said and "Traceback" not in said
    (house.root / "run/control.sock").rmdir()
    house.begin()
    house.wait_ready()
    assert house.process is not None
    assert (house.root / "run/vdsm-mp.pid").read_text() == f"{house.process.pid}\n"


def test_who_waits_before_it_tries_again_keeps_nobody_from_starting(house: RunningHouse) -> None:
    (house.root / "state").rmdir()
    house.environment["SUPERVISOR_ENABLED"] = "1"
    house.begin()
    eventually(lambda: "state does not exist" in (house.root / "stderr.log").read_text(), within_s=30)
    assert house.process is not None and house.process.poll() is None
    with open(house.root / "run/vdsm-mp.lock") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    assert house.process.wait(30) == 3


def test_sudo_that_does_not_let_us_is_noticed(house: RunningHouse) -> None:
    house._sudoers.unlink()
    assert "sudo does not let us run" in refused(house)


def test_a_helper_that_hangs_keeps_nobody_waiting_for_its_end(house: RunningHouse) -> None:
    pid_file = house.root / "helper.pid"
    helper = house.root / "libexec/helper-storage"
    helper.write_text(f"#!/bin/sh\necho $$ > {pid_file}\nexec sleep 300\n")
    try:
        house.table = "tests.support.hasty_table"
        assert "sudo does not let us run" in refused(house, within_s=60)
    finally:
        os.kill(int(pid_file.read_text()), signal.SIGKILL)


def test_another_user_than_the_configured_one_is_refused(house: RunningHouse) -> None:
    text = house.config_file.read_text()
    house.config_file.write_text(text + "user = root\n")
    assert "must run as user root, not as vdsm" in refused(house)


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("[vars]\nno_such_option = 1", "[vars] has no option no_such_option"),
        ("[addresses]\nmanagement_port = many", "[addresses] management_port: Expected `int`"),
        ("[vars]\nssl = maybe", "'maybe' is neither true nor false"),
        ("[vars]\ncpu_affinity = 4711", "cpu_affinity = '4711': online are"),
        ("not an option", "drop.conf"),
    ],
)
def test_a_fault_in_a_file_names_file_and_line(house: RunningHouse, line: str, sentence: str) -> None:
    folder = house.config_file.with_name("vdsm.conf.d")
    folder.mkdir()
    (folder / "drop.conf").write_text(f"# a drop-in\n{line}\n")
    said = refused(house)
    assert sentence in said
    assert "cpu_affinity" in sentence or "drop.conf:3" in said or "drop.conf" in sentence


def test_a_bad_logger_conf_is_a_clear_failure(house: RunningHouse) -> None:
    (house.root / "etc/logger.conf").write_text("[loggers]\nkeys=root\n")
    assert "logger.conf: " in refused(house)


def test_a_port_that_is_taken_is_named(house: RunningHouse) -> None:
    with RunningHouse.start(table="tests.support.rogue_table") as other:
        text = house.config_file.read_text()
        house.config_file.write_text(text.replace(f"management_port = {house.port}", f"management_port = {other.port}"))
        assert f"cannot listen on 127.0.0.1 port {other.port}: Address already in use" in refused(house)


def test_options_of_vdsm_without_a_meaning_here_are_named_once(house: RunningHouse) -> None:
    text = house.config_file.read_text()
    house.config_file.write_text(text + "[rpc]\nworker_threads = 8\n")
    house.begin()
    house.wait_ready()
    assert house.log_text().count("[rpc] worker_threads") == 1


def test_the_trace_level_is_known_to_logger_conf(house: RunningHouse) -> None:
    path = house.root / "etc/logger.conf"
    path.write_text(path.read_text().replace("level=INFO", "level=TRACE"))
    house.begin()
    house.wait_ready()


def test_no_core_file_when_so_configured(house: RunningHouse) -> None:
    text = house.config_file.read_text()
    house.config_file.write_text(text.replace("[vars]", "[vars]\ncore_dump_enable = false"))
    house.begin()
    house.wait_ready()
    limits = subprocess.run(
        ["grep", "core", f"/proc/{house.pid_of('steady')}/limits"], capture_output=True, text=True, check=True
    )
    assert limits.stdout.split()[4] == "0"
