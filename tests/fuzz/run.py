# SPDX-License-Identifier: Apache-2.0
"""As many mutants as asked for, at every reader and at a live door, with what it took written down.

    python -m tests.fuzz.run [--inputs 10000000] [--seed N] [--totals FILE] [TARGET...]
    make fuzz [N=10000000]

One process; what a live door gets comes from threads beside. What a reader did with an input (the value's type, or
the line that raised) is its mark; a mutant with a new mark becomes a seed, so that mutants come further than the seeds
did. An input that breaks a rule is kept in the corpus, counted once a mark, and the run goes on. Rules: only declared
errors, two seconds of processor time, memory that stays (RSS at the end of the first tenth against the worst), a door
that answers everybody.

--totals FILE: goes on where the file says that an earlier run ended, and writes it every few seconds.
"""

import argparse
import json
import logging
import os
import random
import resource
import sys
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path

from tests.fuzz import documents, live, verbs, wire
from vdsm_mp.api.errors import InvalidParameters
from vdsm_mp.common import kernel

#: Mutants that became seeds, of one target.
MOST_SEEDS = 400
#: Longer ones are no seeds: they would grow from one to the next.
LONGEST_SEED = 16 * 1024
#: Marks that are remembered of one target.
MOST_MARKS = 20_000
#: Inputs of one target before the next has its turn.
BLOCK = 500
#: What the process may take at all; an input that wants more meets MemoryError, which nobody declares.
MOST_MEMORY = 4 * 2**30
#: How much more than after the first tenth.
MORE_MIB = 96.0


@dataclass
class Totals:
    """What an unfinished run is continued from, and what a finished one has found."""

    seed: int
    inputs: dict[str, int] = field(default_factory=dict)
    marks: dict[str, int] = field(default_factory=dict)
    findings: list[str] = field(default_factory=list)
    seconds: float = 0.0
    rss_mib_early: float = 0.0
    rss_mib_worst: float = 0.0
    slowest_ms: dict[str, float] = field(default_factory=dict)
    runs: int = 0

    @property
    def all(self) -> int:
        return sum(self.inputs.values())


@dataclass
class Target:
    """make: a mutant. judge: its mark; raises what breaks a rule. keep: into the corpus. beside: waits for others."""

    make: Callable[[random.Random], bytes]
    judge: Callable[[bytes], str]
    keep: Callable[[bytes], Path]
    learn: Callable[[bytes], None] = lambda _: None
    weight: int = 1
    beside: bool = False


def _where(error: BaseException) -> str:
    at = error.__traceback__
    line = ""
    while at is not None:
        line = f"{at.tb_frame.f_code.co_name}:{at.tb_lineno}"
        at = at.tb_next
    return f"{type(error).__name__} {line}"


def _document(name: str) -> Target:
    kind = documents.KINDS[name]
    seeds = [*kind.seeds, *(path.read_bytes() for known, path in documents.known() if known == name)]

    def judge(data: bytes) -> str:
        try:
            return type(kind.read(data)).__name__
        except kind.declared as error:
            return _where(error)

    def make(rng: random.Random) -> bytes:
        return documents.mutant(rng, documents.Kind(tuple(seeds), kind.read, kind.declared, kind.words))

    return Target(make, judge, lambda data: documents.keep(name, data), _learner(seeds))


def _learner(seeds: list[bytes]) -> Callable[[bytes], None]:
    first = len(seeds)

    def learn(data: bytes) -> None:
        if len(data) <= LONGEST_SEED and len(seeds) < first + MOST_SEEDS:
            seeds.append(data)

    return learn


def _parsers(rng: random.Random) -> Target:
    seeds = wire.corpus()

    def judge(data: bytes) -> str:
        return wire.judge(data, rng)

    return Target(lambda rng: wire.mutant(rng, seeds), judge, wire.keep, _learner(seeds))


def _verbs() -> Target:
    def judge(data: bytes) -> str:
        name = data.partition(b" ")[0].decode()
        try:
            return f"{name} {type(verbs.read(data)).__name__}"
        except InvalidParameters as error:
            return f"{name} {_where(error)}"

    return Target(verbs.mutant, judge, lambda data: documents.keep("verbs", data), weight=3)


def _octets_at(door: live.Door) -> Target:
    seeds = wire.corpus()

    def judge(data: bytes) -> str:
        wire.throw(door, data)
        door.bus.asked.clear()
        return "thrown"

    return Target(lambda rng: wire.mutant(rng, seeds), judge, wire.keep, beside=True)


class _Requests:
    """Requests in batches on one connection; a batch with a bad answer is kept whole."""

    def __init__(self, door: live.Door) -> None:
        self._door, self._talker, self._waiting = door, live.Talker(door), list[bytes]()

    def make(self, rng: random.Random) -> bytes:
        return verbs.request(verbs.mutant(rng))

    def judge(self, data: bytes) -> str:
        self._waiting.append(data)
        if len(self._waiting) == 100:
            batch, self._waiting = self._waiting, []
            try:
                self._talker.ask(batch)
            except Exception as error:
                self._talker.close()
                self._talker = live.Talker(self._door)
                where = documents.keep("requests", b"\n".join(batch))
                raise AssertionError(f"{error!r}, somewhere in {where}") from error
        return "asked"


def targets(stack: ExitStack, rng: random.Random) -> dict[str, Target]:
    door = stack.enter_context(live.door())
    requests = _Requests(door)
    return {
        "stomp and envelopes": _parsers(rng),
        "verbs": _verbs(),
        "requests at a door": Target(
            requests.make, requests.judge, lambda data: documents.keep("requests", data), beside=True
        ),
        "octets at a door": _octets_at(door),
        **{name: _document(name) for name in documents.KINDS},
    }


def run(wanted: int, totals: Totals, names: list[str], write: Callable[[Totals], None]) -> Totals:
    """Until `wanted` inputs are in the totals."""
    rng = random.Random(f"{totals.seed}-{totals.runs}")
    totals.runs += 1
    began, before_s, written = time.monotonic(), totals.seconds, 0.0
    first = totals.all
    with ExitStack() as stack:
        every = targets(stack, rng)
        chosen = {name: target for name, target in every.items() if not names or name in names}
        for name in chosen:
            totals.inputs.setdefault(name, 0)
        seen: dict[str, set[str]] = {name: set() for name in chosen}
        over = threading.Event()
        stack.callback(over.set)
        beside = [
            threading.Thread(target=_beside, args=(name, target, over, seen[name], totals), daemon=True)
            for name, target in chosen.items()
            if target.beside
        ]
        for thread in beside:
            thread.start()
        while totals.all < wanted:
            for name, target in chosen.items():
                for _ in range(0 if target.beside else BLOCK * target.weight):
                    _one(name, target, rng, seen[name], totals)
            if all(target.beside for target in chosen.values()):
                time.sleep(1)
            totals.seconds = round(before_s + time.monotonic() - began, 1)
            _measure(totals, early=totals.all - first < (wanted - first) / 10)
            if time.monotonic() - written > 5:
                written = time.monotonic()
                totals.marks = {n: max(len(s), totals.marks.get(n, 0)) for n, s in seen.items()}
                write(totals)
        over.set()
        for thread in beside:
            thread.join(60)
        totals.marks = {n: max(len(s), totals.marks.get(n, 0)) for n, s in seen.items()}
    write(totals)
    return totals


def _beside(name: str, target: Target, over: threading.Event, seen: set[str], totals: Totals) -> None:
    rng = random.Random(f"{totals.seed}-{totals.runs}-{name}")
    while not over.is_set():
        _one(name, target, rng, seen, totals)


def _one(name: str, target: Target, rng: random.Random, seen: set[str], totals: Totals) -> None:
    data = target.make(rng)
    totals.inputs[name] += 1
    began = time.thread_time()
    try:
        mark = target.judge(data)
        took = time.thread_time() - began
        assert took < documents.SLOW_S, f"it took {took:.1f} s"
    except Exception as error:
        took, mark = time.thread_time() - began, f"BROKEN {_where(error)}"
        if mark not in seen:
            totals.findings.append(f"{name}: {error!r}"[:500] + f" at {_where(error)}, {target.keep(data)}")
            print(totals.findings[-1], file=sys.stderr, flush=True)
    if mark not in seen and len(seen) < MOST_MARKS:
        seen.add(mark)
        target.learn(data)
    if took * 1e3 > totals.slowest_ms.get(name, 0.0):
        totals.slowest_ms[name] = round(took * 1e3, 1)


def _measure(totals: Totals, *, early: bool) -> None:
    now = kernel.rss_kib(os.getpid()) / 1024
    if early:
        totals.rss_mib_early = round(max(totals.rss_mib_early, now), 1)
    totals.rss_mib_worst = round(max(totals.rss_mib_worst, now), 1)


def verdict(totals: Totals) -> list[str]:
    """Rules that were broken."""
    broken = list(totals.findings)
    if totals.rss_mib_worst > totals.rss_mib_early + MORE_MIB:
        broken.append(f"memory grew from {totals.rss_mib_early} to {totals.rss_mib_worst} MiB")
    return broken


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=200_000)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--totals", type=Path)
    parser.add_argument("targets", nargs="*", metavar="TARGET")
    asked = parser.parse_args()
    logging.disable(logging.WARNING)  # storage warns of each seal that is missing
    resource.setrlimit(resource.RLIMIT_AS, (MOST_MEMORY, MOST_MEMORY))
    totals = Totals(asked.seed)
    if asked.totals is not None and asked.totals.exists():
        totals = Totals(**json.loads(asked.totals.read_text()))

    def write(now: Totals) -> None:
        if asked.totals is not None:
            part = asked.totals.with_suffix(".part")
            part.write_text(json.dumps(asdict(now), indent=1))
            part.replace(asked.totals)

    run(asked.inputs, totals, asked.targets, write)
    print(
        f"{totals.all} inputs in {totals.seconds:.0f} s, seed {totals.seed}, memory {totals.rss_mib_early} MiB after "
        f"the first tenth, {totals.rss_mib_worst} MiB at worst"
    )
    for name, count in totals.inputs.items():
        marks, slowest = totals.marks.get(name, 0), totals.slowest_ms.get(name, 0.0)
        print(f"  {name:22}{count:10}  {marks:5} marks, slowest {slowest:.0f} ms")
    broken = verdict(totals)
    print("\n".join(f"BROKEN: {line}" for line in broken) or "no rule was broken")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
