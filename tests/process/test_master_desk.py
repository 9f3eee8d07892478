# SPDX-License-Identifier: Apache-2.0
"""What operators tell and ask the master: signals, the control socket, looks into workers. One house for all of it."""

import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress

import pytest

from tests.support.eventually import eventually
from tests.support.house import RunningHouse
from tests.support.needs import needs_root
from tests.support.roguehouse import done, rogue_house
from vdsm_mp.common import controlsocket

pytestmark = needs_root()


@pytest.fixture(scope="module")
def shared() -> Iterator[RunningHouse]:
    with rogue_house() as running:
        yield running


@pytest.fixture
def house(shared: RunningHouse) -> RunningHouse:
    """Ready again, whatever the test before has asked it."""
    shared.wait_ready()
    return shared


def test_sighup_and_sigusr1_reach_the_workers(house: RunningHouse) -> None:
    assert house.process is not None
    house.process.send_signal(signal.SIGHUP)
    eventually(lambda: "reloaded" in done(house))
    house.process.send_signal(signal.SIGUSR1)
    eventually(lambda: "spm stopped" in done(house))


def test_a_log_file_that_was_moved_away_is_followed(house: RunningHouse) -> None:
    log = house.root / "log/vdsm.log"
    log.rename(house.root / "log/vdsm.log.1")
    house.ask("restart", worker="rogue")
    assert "rogue ready" in house.log_text() and log.exists()


def test_stacks_and_profiles_can_be_looked_at(house: RunningHouse) -> None:
    assert "thread MainThread" in house.ask("stacks", worker="steady")
    assert "samples in 0.3 s" in house.ask("profile", worker="steady", seconds=0.3)


@pytest.mark.parametrize(("do", "seconds"), [("profile", 1e9), ("profile", -1), ("trace", 1e9), ("trace", 0)])
def test_nobody_looks_longer_than_an_answer_is_waited_for(house: RunningHouse, do: str, seconds: float) -> None:
    with pytest.raises(controlsocket.Refused, match=f"a {do} takes 0.1 to "):
        house.ask(do, worker="steady", seconds=seconds, timeout_s=5)


def test_the_messages_of_a_worker_can_be_traced_for_a_while(house: RunningHouse) -> None:
    assert "for 5 s each message" in house.ask("trace", worker="steady")


def test_who_looks_at_a_worker_that_dies_meanwhile_is_told_at_once(house: RunningHouse) -> None:
    with ThreadPoolExecutor(1) as pool:
        looking = pool.submit(house.ask, "profile", worker="steady", seconds=30, timeout_s=30)
        pid = house.pid_of("steady")
        eventually(lambda: "looking.py" in house.ask("stacks", worker="steady"))
        os.kill(pid, signal.SIGKILL)
        with pytest.raises(controlsocket.Refused, match="steady died before it answered"):
            looking.result(10)


def test_files_and_sockets_are_for_the_group_only(house: RunningHouse) -> None:
    run = house.root / "run"
    assert (run / "control.sock").stat().st_mode & 0o777 == 0o660
    bus = next(run.glob("e-*"))
    assert bus.stat().st_mode & 0o777 == 0o700
    assert all(path.stat().st_mode & 0o077 == 0 for path in bus.iterdir())


def test_a_stranger_is_turned_away_from_the_control_socket(house: RunningHouse) -> None:
    path = str(house.root / "run/control.sock")
    os.chmod(path, 0o666)  # as if somebody had opened it by force
    code = (
        "import socket,sys; s=socket.socket(socket.AF_UNIX); s.settimeout(5); s.connect(sys.argv[1]);"
        's.sendall(b\'{"do":"stop"}\\n\'); print(s.recv(100))'
    )
    said = subprocess.run(
        ["/usr/bin/python3", "-c", code, path], user=65534, group=65534, extra_groups=[],
        capture_output=True, text=True, timeout=20, check=False,
    )  # fmt: skip
    os.chmod(path, 0o660)
    assert "b''" in said.stdout or "Error" in said.stderr
    assert house.status()["state"] == "running"


@pytest.mark.parametrize(
    "line", [b"{}", b"garbage", b'{"do":"reboot"}', b'{"do":"restart","worker":7}', b"\xff\xfe", b"x" * 9000]
)
def test_a_bad_request_gets_a_sentence_and_changes_nothing(house: RunningHouse, line: bytes) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(10)
        sock.connect(str(house.root / "run/control.sock"))
        sock.sendall(line + b"\n")
        assert b'"ok":false' in sock.recv(65536)
    assert house.status()["verdict"] == "ok"


def test_operators_who_never_finish_asking_keep_nobody_out(house: RunningHouse) -> None:
    with _idle_callers(house, 40):
        eventually(house.ready, within_s=15)


@contextmanager
def _idle_callers(house: RunningHouse, count: int) -> Iterator[None]:
    socks = []
    for _ in range(count):
        sock = socket.socket(socket.AF_UNIX)
        sock.settimeout(5)
        with suppress(BlockingIOError):  # the backlog is full: that is an answer too
            sock.connect(str(house.root / "run/control.sock"))
        socks.append(sock)
    yield
    for sock in socks:
        sock.close()
