# SPDX-License-Identifier: Apache-2.0
"""The process that writes the log, for everybody: a log disk that hangs must hang nobody else, the master least of all.

Forked by the master after its workers, and again when it ends. What it has not written is kept on the road
(`common/logroad.py`) meanwhile. It ends when the last process of the house has, after the last line.
"""

import os
import select
import signal
import socket
import time
from functools import partial
from typing import Any

from vdsm_mp.common import kernel, log, logroad
from vdsm_mp.house import killing, spawn
from vdsm_mp.house.members import Process, how_it_ended

logger = log.named("master")

#: From one that ended to the next.
PAUSE_S = 1.0
#: Lines that wait for so long say that it hangs.
STUCK_S = 5.0
#: One that waits for anything but its disk is followed by another one after so long.
REPLACE_S = 30.0
#: The master's end waits for the last lines; so does the writer itself when the master was killed.
LAST_LINES_S = 1.0


class LogWriter:
    """Lives in the master's loop. Everything but `close` returns at once."""

    def __init__(self) -> None:
        self._road = logroad.Road()
        self._process: Process | None = None
        self._next_mono = 0.0
        self._written = 0
        self._moved_mono = time.monotonic()
        log.take(self._road)

    def start(self) -> None:
        """Fork it. Lines wait on the road until then."""
        ends = (self._road.start.fileno(), self._road.end.fileno())
        try:
            main = partial(self._main, os.getpid())
            # SIGCONT: the one signal but SIGKILL that reaches a writer which somebody has stopped.
            self._process = spawn.fork("log", main, ends, with_pipe=False, ends_with_us=signal.SIGCONT)
        except OSError as error:
            self._next_mono = time.monotonic() + PAUSE_S
            logger.error("the log's writer cannot be forked: %s", error)

    def _main(self, master: int, _pipe: socket.socket, _stacks_fd: int) -> int:
        log.take(None)
        self._road.start.close()
        signal.signal(signal.SIGTERM, _leave)
        signal.signal(signal.SIGCONT, lambda *_: _leave() if os.getppid() != master else None)
        try:
            log.write_from(self._road)
        except _ToldToLeave:
            self._road.end.settimeout(LAST_LINES_S)
            try:
                log.write_from(self._road)
            except TimeoutError:
                return 0
        return 0

    def ended(self, pid: int, status: int) -> bool:
        """Was the reaped process ours?"""
        if self._process is None or self._process.pid != pid:
            return False
        reason = how_it_ended(status, self._process.why_killed)
        self._forget(self._process)
        self._next_mono = time.monotonic() + PAUSE_S
        logger.error("the log's writer ended: %s; the next one follows in %g s", reason, PAUSE_S)
        return True

    def beat(self, now: float) -> None:
        if self._process is None and now >= self._next_mono:
            self.start()
        written = self._road.written
        if written != self._written or not self._road.waiting_bytes():
            self._written, self._moved_mono = written, now
        if self._process is not None:
            self._replace_stuck(self._process, now)

    def reload(self) -> None:
        """Files are to be opened again; one that hangs in what was there before does not hear of that."""
        now = time.monotonic()
        if self._process is not None and not self._process.killing and now - self._moved_mono > STUCK_S:
            self._kill(self._process, now)

    def _replace_stuck(self, process: Process, now: float) -> None:
        """One that somebody stopped, soon; one that waits for a pipe, maybe in vain, now and then."""
        if process.killing:
            if killing.carry_on(process, now):
                self._forget(process)  # a debugger keeps what is left of it
        elif now - self._moved_mono > STUCK_S:
            facts = kernel.process(process.pid)
            stopped = facts is not None and facts.stopped
            if stopped or now - max(self._moved_mono, process.started_mono) > REPLACE_S:
                self._kill(process, now)

    def _kill(self, process: Process, now: float) -> None:
        """Unless it hangs in the kernel, with its disk: the next one would only hang, too."""
        facts = kernel.process(process.pid)
        if facts is not None and facts.state != "D":
            words = "stopped" if facts.stopped else "waits for what it writes to"
            killing.begin(process, f"{words}, and lines wait", now, stacks=False)

    @property
    def busy(self) -> bool:
        return self._process is None or bool(self._process.killing)

    def status(self) -> dict[str, Any]:
        """waiting_bytes: of all processes, in the kernel's reckoning. lost: lines of the master's own."""
        return {
            "pid": self._process.pid if self._process is not None else None,
            "waiting_bytes": self._road.waiting_bytes(),
            "stuck": time.monotonic() - self._moved_mono > STUCK_S,
            "lost": self._road.lost,
        }

    def close(self) -> None:
        """The house is empty: wait for the last lines, but not for a disk that hangs."""
        log.take(None)
        self._road.start.close()
        if (process := self._process) is None:
            log.write_from(self._road)  # it never was, or could not be forked again: what waits is ours to write
        self._road.end.close()
        if process is not None:
            select.select([process.pidfd], [], [], LAST_LINES_S)
            if (facts := kernel.process(process.pid)) and facts.stopped:  # it would stay, and hear of no end
                signal.pidfd_send_signal(process.pidfd, signal.SIGKILL)
            os.waitpid(process.pid, os.WNOHANG)
            self._forget(process)

    def _forget(self, process: Process) -> None:
        os.close(process.pidfd)
        os.close(process.stacks_fd)
        self._process = None


class _ToldToLeave(BaseException):
    """The master is gone, or somebody wants another writer. No Exception: logging keeps those that come while it writes
    a line to itself."""


def _leave(*_: object) -> None:
    raise _ToldToLeave
