# SPDX-License-Identifier: Apache-2.0
"""Load with a memory, and a checker that knows what may not have happened.

`Load` keeps many callers busy, gives every operation an id, and writes down what was asked and answered. The other
side writes down what it really ran (`Journal`). `check` puts both together afterwards and returns every broken
promise as a sentence:

- each operation got exactly one answer, in time;
- what changes something ran at most once; answered "done" means it ran, "has surely not run" (99, busy) that it
  never did; an unknown outcome allows both;
- the answer belongs to the question.

"Timed out" is not "failed". A fault counts only when it really happened (`Faults`).
"""

import asyncio
import os
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from vdsm_mp.api.errors import Busy, StillStarting
from vdsm_mp.common.errors import Error, Unavailable

#: An answer may come so much later than its deadline: one loop that is busy killing and starting processes.
GRACE_S = 1.0


@dataclass(slots=True)
class Operation:
    """One question. changes: asking twice would do harm. answers: (CLOCK_MONOTONIC, outcome, value)."""

    id: str
    verb: str
    changes: bool
    asked_mono: float
    deadline_s: float
    expected: object = None
    answers: list[tuple[float, str, object]] = field(default_factory=list)

    @property
    def outcome(self) -> str:
        """ "done", "not run", "unknown" or "failed"; "" without an answer."""
        return self.answers[0][1] if self.answers else ""


def outcome_of(error: Error) -> str:
    """What the caller may conclude from an error."""
    if isinstance(error, StillStarting | Busy) or error.code == StillStarting.code:
        return "not run"
    return "unknown" if isinstance(error, Unavailable) else "failed"


class Journal:
    """What ran, appended to one file by every incarnation of the worker; a line survives the death of its writer."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def ran(self, operation: str) -> None:
        os.write(self._fd, operation.encode() + b"\n")

    def close(self) -> None:
        os.close(self._fd)

    def read(self) -> "Counter[str]":
        """{operation id: how often it ran}."""
        return Counter(self.path.read_text().split())


@dataclass(slots=True)
class Faults:
    """Injections that really happened, by name."""

    executed: "Counter[str]" = field(default_factory=Counter)

    def happened(self, name: str) -> None:
        self.executed[name] += 1


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of question. ask(id) returns the answer; expected(id) what it must be, None = anything."""

    verb: str
    changes: bool
    weight: int
    deadline_s: float
    ask: Callable[[str], Awaitable[object]]
    expected: Callable[[str], object] = lambda _: None


class Load:
    """`callers` askers, each with one question at a time, until told to stop. Seeded, so that a run can be repeated."""

    def __init__(self, kinds: Iterable[Kind], callers: int, seed: int) -> None:
        self._kinds = list(kinds)
        self._callers = callers
        self._random = random.Random(seed)
        self.history: list[Operation] = []
        self._stopping = False

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            for caller in range(self._callers):
                group.create_task(self._caller(caller))

    def stop(self) -> None:
        """Ask nothing new; `run` ends when the last answer is there."""
        self._stopping = True

    async def _caller(self, caller: int) -> None:
        number = 0
        while not self._stopping:
            kind = self._random.choices(self._kinds, [k.weight for k in self._kinds])[0]
            number += 1
            outcome = await self._once(kind, f"{caller}-{number}")
            if outcome == "not run":
                await asyncio.sleep(0.01)  # as a client would: the worker is away or full

    async def _once(self, kind: Kind, name: str) -> str:
        operation = Operation(name, kind.verb, kind.changes, time.monotonic(), kind.deadline_s, kind.expected(name))
        self.history.append(operation)
        try:
            value: object = await kind.ask(name)
            outcome = "done"
        except Error as error:
            value, outcome = str(error), outcome_of(error)
        operation.answers.append((time.monotonic(), outcome, value))
        return outcome


def check(history: Iterable[Operation], ran: Mapping[str, int]) -> list[str]:
    """Every broken promise, as a sentence; empty when all were kept."""
    broken: list[str] = []
    seen: set[str] = set()
    for operation in history:
        if operation.id in seen:
            broken.append(f"{operation.id} was asked under an id that is taken: the history proves nothing")
        seen.add(operation.id)
        broken += _answered_once(operation)
        if operation.changes:
            broken += _ran_as_told(operation, ran.get(operation.id, 0))
    broken += [f"{name} ran, but nobody asked for it" for name in sorted(set(ran) - seen)]
    return broken


def _answered_once(operation: Operation) -> list[str]:
    what = f"{operation.verb} {operation.id}"
    if not operation.answers:
        return [f"{what} was never answered"]
    if len(operation.answers) > 1:
        return [f"{what} was answered {len(operation.answers)} times"]
    at_mono, outcome, value = operation.answers[0]
    broken = []
    took_s = at_mono - operation.asked_mono
    if took_s > operation.deadline_s + GRACE_S:
        broken.append(f"{what} was answered after {took_s:.1f}s, its deadline is {operation.deadline_s:.1f}s")
    if outcome == "done" and operation.expected is not None and value != operation.expected:
        broken.append(f"{what} got {value!r}, which answers another question: {operation.expected!r} was due")
    return broken


def _ran_as_told(operation: Operation, times: int) -> list[str]:
    what = f"{operation.verb} {operation.id}"
    if times > 1:
        return [f"{what} ran {times} times"]
    if operation.outcome == "done" and times == 0:
        return [f"{what} was answered as done and never ran"]
    if operation.outcome == "not run" and times:
        return [f"{what} ran, and its caller was told that it surely had not"]
    return []


def summary(history: Iterable[Operation], faults: Faults) -> str:
    """One line for people: how much, how it went, how slow, what was done to it."""
    answered = [operation for operation in history if operation.answers]
    outcomes = Counter(operation.outcome for operation in answered)
    slowest_s = max((o.answers[0][0] - o.asked_mono for o in answered), default=0.0)
    return f"{len(answered)} answers {dict(outcomes)}, slowest {slowest_s:.2f}s, faults {dict(faults.executed)}"
