# SPDX-License-Identifier: Apache-2.0
"""Lines for syslog, taken by a real socket of the test's, or by nobody."""

import contextlib
import os
import re
import socket
import syslog
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from vdsm_mp.priv.systemlog import SystemLog

PATIENCE_S = 10.0


@contextlib.contextmanager
def daemon(path: Path, kind: socket.SocketKind = socket.SOCK_DGRAM) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, kind) as bound:
        bound.settimeout(PATIENCE_S)
        path.unlink(missing_ok=True)
        bound.bind(str(path))
        yield bound


@contextlib.contextmanager
def log_to(path: Path) -> Iterator[SystemLog]:
    log = SystemLog("vdsm-test", syslog.LOG_AUTH, path=str(path))
    yield log
    log.close()


def fill(path: Path) -> None:
    """Until nothing more is taken, as when the daemon hangs."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other, contextlib.suppress(BlockingIOError):
        other.connect(str(path))
        other.setblocking(False)
        while True:
            other.send(b"x")


def drain(bound: socket.socket) -> list[bytes]:
    bound.setblocking(False)
    found = []
    with contextlib.suppress(BlockingIOError):
        while True:
            found.append(bound.recv(4096))
    bound.settimeout(PATIENCE_S)
    return found


def test_a_line_is_as_syslog_writes_it(tmp_path: Path) -> None:
    with daemon(tmp_path / "log") as bound, log_to(tmp_path / "log") as log:
        assert log.say(syslog.LOG_NOTICE, "by vdsm: ping: done")
        said = bound.recv(4096).decode()
    assert re.fullmatch(
        rf"<37>[A-Z][a-z]{{2}} [ \d]\d \d\d:\d\d:\d\d vdsm-test\[{os.getpid()}\]: by vdsm: ping: done", said
    )


def test_a_daemon_that_takes_nothing_is_waited_for_once_and_told_later_what_was_lost(tmp_path: Path) -> None:
    with daemon(tmp_path / "log") as bound, log_to(tmp_path / "log") as log:
        fill(tmp_path / "log")
        began = time.monotonic()
        assert not log.say(syslog.LOG_NOTICE, "first")
        waited_s = time.monotonic() - began
        assert not any(log.say(syslog.LOG_NOTICE, "another") for _ in range(20))
        assert time.monotonic() - began < waited_s + 2
        drain(bound)
        assert log.say(syslog.LOG_NOTICE, "here again")
        assert bound.recv(4096).endswith(b": here again (lost before it: 21)")
        assert log.say(syslog.LOG_NOTICE, "as ever")
        assert bound.recv(4096).endswith(b": as ever")


@pytest.mark.parametrize("first", [socket.SOCK_DGRAM, socket.SOCK_STREAM])
def test_a_daemon_that_was_restarted_loses_no_line(tmp_path: Path, first: socket.SocketKind) -> None:
    path = tmp_path / "log"
    with log_to(path) as log:
        with daemon(path, first) as bound:
            if first == socket.SOCK_STREAM:
                bound.listen()
            assert log.say(syslog.LOG_NOTICE, "one")
            if first == socket.SOCK_STREAM:
                taken, _ = bound.accept()
                with taken:
                    assert taken.recv(4096).endswith(b": one\0")
        with daemon(path) as bound:
            assert log.say(syslog.LOG_NOTICE, "two")
            assert bound.recv(4096).endswith(b": two")


def test_a_line_that_nobody_takes_is_counted_in_the_next(tmp_path: Path) -> None:
    with log_to(tmp_path / "log") as log:
        assert not log.say(syslog.LOG_NOTICE, "one")
        with daemon(tmp_path / "log") as bound:
            assert log.say(syslog.LOG_NOTICE, "two")
            assert bound.recv(4096).endswith(b": two (lost before it: 1)")
