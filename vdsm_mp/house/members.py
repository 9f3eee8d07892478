# SPDX-License-Identifier: Apache-2.0
"""One record for each process the master is responsible for, and the rules of restarting. No I/O, no clock.

Life of a worker: STARTING (forked) -> READY -> LEAVING (told to) -> gone; any death that was not asked for leads to
WAITING (back-off) -> STARTING, except FAILED (it said that it can never start) which only an operator ends.
"""

import enum
import os
import signal
import socket
from collections import deque
from typing import Any

import msgspec

from vdsm_mp.workers.table import ChildSpec, WorkerSpec

#: Seconds before the n-th restart in a row; the last one is kept.
BACK_OFF_S = (0.0, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0)
#: More deaths than this within the window and the worker is called degraded.
INTENSITY, WINDOW_S = 5, 60.0
#: So long without a death and the back-off begins anew.
HEALTHY_S = 600.0
#: A worker that lived for so long and was killed by somebody else then says nothing about itself: no back-off for that.
STEADY_S = 5.0
#: The loop beats every second; after this silence it is stuck.
SILENCE_S = 3.5
#: So much longer while it starts: nothing beats before its loop runs.
STARTING_SILENCE_S = 5.0
#: What the master may be late and still trust its clock.
AWAY_S = 1.0
#: From SIGABRT (which makes it write its stacks) to SIGKILL, and from SIGKILL to being written off.
DUMP_S, KILL_S = 1.0, 2.0


class State(enum.Enum):
    STARTING = "starting"
    READY = "ready"
    LEAVING = "leaving"
    WAITING = "waiting"
    FAILED = "failed"
    STOPPED = "stopped"


class History(msgspec.Struct):
    """Deaths of one worker. Monotonic seconds."""

    deaths: deque[float] = msgspec.field(default_factory=lambda: deque(maxlen=INTENSITY + 1))
    in_a_row: int = 0
    restarts: int = 0
    last_reason: str = ""
    last_at_mono: float = 0.0

    def died(self, now_mono: float, lived_s: float, reason: str, *, by_others: bool = False) -> float:
        """Note a death that was not asked for; returns the seconds to wait before the next start.

        by_others: of a signal that neither itself, the master, nor the kernel's want of memory has sent.
        """
        if lived_s >= HEALTHY_S:
            self.in_a_row = 0
        if by_others and lived_s >= STEADY_S:
            wait_s = 0.0
        else:
            wait_s = BACK_OFF_S[min(self.in_a_row, len(BACK_OFF_S) - 1)]
            self.in_a_row += 1
        self.restarts += 1
        self.deaths.append(now_mono)
        self.last_reason, self.last_at_mono = reason, now_mono
        return wait_s

    def degraded(self, now_mono: float) -> bool:
        """More than INTENSITY deaths within WINDOW_S, and the last of them not long ago."""
        if len(self.deaths) <= INTENSITY:
            return False
        return self.deaths[-1] - self.deaths[0] <= WINDOW_S and now_mono - self.deaths[-1] < WINDOW_S


class Process(msgspec.Struct):
    """What the master holds of one running process. `killing`: the signals it still gets, with their times."""

    name: str
    pid: int
    pidfd: int
    started_mono: float
    pipe: socket.socket | None = None
    stacks_fd: int = -1
    killing: list[tuple[float, int]] = msgspec.field(default_factory=list)
    why_killed: str = ""


class Worker(msgspec.Struct):
    """One row of the process table, alive or not."""

    spec: WorkerSpec
    state: State = State.STOPPED
    epoch: int = 0
    process: Process | None = None
    history: History = msgspec.field(default_factory=History)
    ready_mono: float = 0.0
    beat_mono: float = 0.0
    late_s: float = 0.0
    pss_kib: int = 0
    vitals: dict[str, Any] = msgspec.field(default_factory=dict)
    next_start_mono: float = 0.0
    said: str = ""

    @property
    def up(self) -> bool:
        return self.state is State.READY

    def overdue(self, process: Process, now: float) -> str:
        """Why its process is to be ended, "" = it is well."""
        starting = self.state is State.STARTING
        if starting and now - process.started_mono > self.spec.start_s:
            return f"not ready within {self.spec.start_s:g} s"
        silent_s = now - self.beat_mono
        if silent_s > SILENCE_S + (STARTING_SILENCE_S if starting else 0.0):
            return f"hung: no heartbeat for {silent_s:.1f} s"
        return ""

    def forgive(self, late_s: float, now: float) -> None:
        """The master itself looks so much too late: then silence in that time proves nothing.

        The worker may have been away as well, and come back after it: as long again, if that has passed.
        """
        if late_s > AWAY_S:
            self.beat_mono = min(now, self.beat_mono + 2 * late_s)


class Child(msgspec.Struct):
    """A process that a worker asked for."""

    spec: ChildSpec
    name: str
    process: Process


class Lost(msgspec.Struct, frozen=True):
    """A process that even SIGKILL does not end: it hangs in the kernel. Counted and shown, never waited for."""

    name: str
    kind: str
    pid: int
    since_mono: float


def how_it_ended(status: int, why_killed: str) -> str:
    """A wait status in words: "exit 1", "signal SIGKILL (hung: no heartbeat for 3.5 s)"."""

    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        try:
            name = signal.Signals(number).name
        except ValueError:
            name = str(number)
        words = f"signal {name}"
    else:
        words = f"exit {os.WEXITSTATUS(status)}"
    return f"{words} ({why_killed})" if why_killed else words
