# SPDX-License-Identifier: Apache-2.0
"""The lives of `deaths` and `domains`: an operation with a fault at its step 1, 2, 3 …, a worker that comes after it
and may die too, and one that looks. Each is a session of its own, forked from a process without threads.

Faults:

    kill          the worker and its I/O children, by SIGKILL, before the step
    cut           the same, and what was not synced is lost (`powercut`)
    EIO …         the step fails with that errno, once
    child         the I/O child dies at the step, and the worker lives on with a new one
    full          from the step on the file system is full, until the worker ends
    kill+kill     killed at a step, and the next worker at a step while it takes over what was left, at each in turn
    cut+cut       the same with power cuts
    kill+EIO …    killed, and a step of the next worker fails
    EIO+kill …    a step fails, and the worker is killed at a step of what it does then: going on, or undoing
    full+kill     the same on a full file system
"""

import errno
import os
import signal
import sys
import traceback
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from tests.faults.powercut import Stage
from tests.faults.steps import CHILD, Steps
from tests.support.eventually import eventually
from vdsm_mp.common import kernel

#: So many states that are wrong are enough to look into.
_ENOUGH = 5


@dataclass(frozen=True)
class Fault:
    """first: of the operation; then: of the next worker, or (when the first is no death) of the same; "" = none."""

    first: str
    then: str = ""

    @classmethod
    def of(cls, word: str) -> "Fault":
        return cls(*word.split("+"))

    @property
    def cuts(self) -> bool:
        return "cut" in (self.first, self.then)

    @property
    def kills(self) -> bool:
        return _kills(self.first)

    @property
    def same_life(self) -> bool:
        return bool(self.then) and not self.kills

    @property
    def takes_image(self) -> bool:
        """A file system of its own: one that can be full, or is left twice in the same state, numbers of its inodes
        included, which a move writes down."""
        return self.cuts or "full" in (self.first, self.then) or (bool(self.then) and not self.same_life)

    def steps(self, where: Stage) -> Steps:
        # Who dies before a sync, and keeps the power, leaves the same as who dies after it; and no sync is read-only.
        return Steps(where.balloon, syncs=not {self.first, self.then} <= {"kill", "child", "EROFS", ""})

    def arm(self, steps: Steps, at: int, later: int) -> None:
        """For the operation. later: the steps from `at` to a death in the same life, 0 = none."""
        steps.arm(at, _number(self.first), fills=self.first == "full", die_at=at + later if later else 0)

    def arm_next(self, steps: Steps, at: int) -> None:
        """For the worker that comes next."""
        steps.arm(at, _number(self.then), fills=self.then == "full")


def _kills(word: str) -> bool:
    return word in ("kill", "cut")


def _number(word: str) -> int:
    if word == "child":
        return CHILD
    return 0 if _kills(word) or word in ("full", "") else int(getattr(errno, word))


@dataclass(frozen=True)
class Lives:
    """live(step, later): the operation; `notes/hit` tells that a fault which is no death has come. recover(step): the
    next worker. look: what the last one finds, in a word."""

    live: Callable[[int, int], None]
    recover: Callable[[int], None]
    look: Callable[[], str]


def run_all(where: Stage, fault: Fault, stride: int, lives: Lives, report: Path) -> dict[str, Any]:
    """{"steps": how many, "deaths": faults that came, "outcomes": {outcome: count}, "problems": [text]}."""
    told = _Told()
    step, more = 1, True
    while more and len(told.problems) < _ENOUGH:
        if fault.then:
            more = _two(where, fault, step, stride, lives, report, told)
        else:
            where.begin()
            code = in_session(partial(lives.live, step, 0))
            where.over()
            more = _hit(where, fault.kills, code)
            told.deaths += more
            _look(where, lives, report, told, f"step {step}", code)
        step += stride
    return {
        "steps": step - stride - 1,
        "deaths": told.deaths,
        "outcomes": told.outcomes,
        "problems": told.problems,
    }


class _Told:
    def __init__(self) -> None:
        self.deaths = 0
        self.outcomes: Counter[str] = Counter()
        self.problems: list[str] = []


def _two(where: Stage, fault: Fault, step: int, stride: int, lives: Lives, report: Path, told: _Told) -> bool:
    """The first fault at a step with the second at each of those that follow. Did the first come?"""
    # Other steps of what follows each time, so that a stride leaves none out for every first step.
    later, again, came = 1 + (step // stride) % stride, True, True
    if not fault.same_life:
        where.begin()
        code = in_session(partial(lives.live, step, 0))
        where.over()
        where.mark()
        if not _hit(where, fault.kills, code):
            return False
    while again and len(told.problems) < _ENOUGH:
        if fault.same_life:
            where.begin()
            code = in_session(partial(lives.live, step, later))
            where.over()
            again = code == -signal.SIGKILL
            came = again or _hit(where, fault.kills, code)
        else:
            where.again()
            code = in_session(partial(lives.recover, later))
            where.over()
            again = _hit(where, _kills(fault.then), code)
        told.deaths += again
        _look(where, lives, report, told, f"step {step} and {later}", code)
        later += stride
    return came


def _hit(where: Stage, kills: bool, code: int) -> bool:
    return code == -signal.SIGKILL if kills else (where.notes / "hit").exists()


def _look(where: Stage, lives: Lives, report: Path, told: _Told, what: str, code: int) -> None:
    report.unlink(missing_ok=True)
    looked = in_session(lambda: report.write_text(lives.look()) and None, report)
    if code not in (0, -signal.SIGKILL) or looked != 0:
        said = report.read_text() if looked == 1 else ""
        told.problems.append(f"{what}: the run ended with {code}, the look with {looked}: {said}")
    else:
        told.outcomes[report.read_text()] += 1


def in_session(function: Callable[[], None], why: Path | None = None) -> int:
    """Run in a forked session; its wait status as an exit code, negative = killed. why: takes what it raised."""
    kernel.adopt_orphans()  # init may take its time to reap them
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            os.setsid()
            function()
            code = 0
        except BaseException as e:
            traceback.print_exc()
            if why is not None:
                why.write_text(f"{type(e).__name__}: {e}")
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    eventually(lambda: _is_empty(pid))
    return code


def _is_empty(session: int) -> bool:
    """Its children may die a little later; they are ours to reap then."""
    with suppress(ChildProcessError):
        while os.waitpid(-session, os.WNOHANG)[0]:
            continue
    try:
        os.killpg(session, 0)
    except ProcessLookupError:
        return True
    return False
