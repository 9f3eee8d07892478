# SPDX-License-Identifier: Apache-2.0
"""Injects faults into a whole house under load and says what was kept and what was not.

    python -m tests.faults.run [--full] [--scenario A1 …] [--repeat N] [--minutes N] [--soak MINUTES] [--json FILE] …

Rounds: each scenario is spread evenly over as many rounds as the most frequent one has, in an order of its own in each;
deaths of the master come last in a round, because they begin the back-off anew. Only injections that really happened
are counted. Exit code 1 when a promise is broken (with --strict also when a limit was exceeded). Needs root, libvirtd
and QEMU.
"""

import argparse
import json
import os
import platform
import random
import subprocess
import sys
import tempfile
import time
import traceback
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.faults import checker, clients, crowd, page, report, soak
from tests.faults.injections import CannotRun
from tests.faults.report import Row
from tests.faults.scenarios import BY_TESTS, NOT_HERE, UNDER_LOAD, ByTests, Scenario
from tests.faults.world import Fault, World
from tests.support.house import forget_program
from tests.support.load import check

ROOT = Path(__file__).parents[2]
#: Between two injections; every tenth time it is long, and calls during a fault are compared with those.
PAUSE_S, LONG_PAUSE_S, LONG_EVERY = 0.8, 5.0, 10
#: Of clients that take too much, in full runs.
CONNECTIONS = 10_000
#: Of a quick run, with the limits as shipped only.
FEW_CONNECTIONS, PROCESSES = 300, 4
#: Of a soak in a full run, unless told otherwise.
SOAK_MINUTES = 30.0
#: Where a line about the progress goes.
Say = Callable[[str], None]
#: Last in a round.
_LAST = ("E3", "A7", "E7", "E13", "E13i", "H4", "H1")


@dataclass(frozen=True, slots=True)
class Wish:
    """How much of it. repeat: for every scenario; 0 = as the table says."""

    full: bool = False
    repeat: int = 0
    minutes: float = 0.0
    guests: int = 2
    callers: int = 50
    per_s: float = 50.0
    seed: int = 1
    #: Minutes of a soak, 0 = none.
    soak: float = 0.0

    def times(self, scenario: Scenario) -> int:
        return self.repeat or (scenario.full if self.full else scenario.quick)


def under_load(scenarios: Sequence[Scenario], wish: Wish, say: Say) -> dict[str, Any]:
    """One world, all the scenarios. {"rows", "requests", "broken", "records"} as in the report."""
    rows = {s.id: Row(s.id, s.title, wanted=wish.times(s) * s.at_once, limits=dict(s.limits)) for s in scenarios}
    faults: dict[str, list[Fault]] = {s.id: [] for s in scenarios}
    rng = random.Random(wish.seed)
    until = time.monotonic() + wish.minutes * 60 if wish.minutes else float("inf")
    with World.open(guests=wish.guests, callers=wish.callers, per_s=wish.per_s, seed=wish.seed) as world:
        rounds = max(wish.times(s) for s in scenarios)
        for number in range(rounds):
            due = [s for s in scenarios if _due(wish.times(s), number, rounds) and not rows[s.id].not_run]
            rng.shuffle(due)
            due.sort(key=lambda s: _LAST.index(s.id) if s.id in _LAST else -1)
            went_on = all(
                time.monotonic() < until and _inject(world, scenario, rows[scenario.id], faults[scenario.id], say)
                for scenario in due
            )
            say(f"round {number + 1}: {sum(row.executed for row in rows.values())} injections")
            if not went_on:
                break
        try:
            world.settle()
            stumbled = []
        except Exception as error:
            stumbled = [f"the harness stumbled: {error!r}"]
        log = world.house.log_text()
    history = world.load.history
    others = report.unaffected(history, faults, world.faults)
    for row in rows.values():
        row.unaffected = others.get(row.id, {})
        row.judge()
    broken = [f"{row.id}: {line}" for row in rows.values() for line in dict.fromkeys(row.broken)]
    broken += [*stumbled, *check(history, {}), *checker.judge(world.record), *tracebacks(log)]
    return {
        "rows": [row.as_json() for row in rows.values()],
        "requests": report.requests(history) | {"reconnects": world.load.reconnects, "per_s": wish.per_s},
        "broken": broken,
        "records": [checker.written(world.record)],
        "raw": {row.id: row.measures for row in rows.values()},
    }


def _due(times: int, number: int, rounds: int) -> bool:
    """Whether a scenario that is wanted so many times runs in this round."""
    return times * (number + 1) // rounds > times * number // rounds


def _inject(world: World, scenario: Scenario, row: Row, faults: list[Fault], say: Say) -> bool:
    """One injection and the quiet time after it. False: the world is of no more use."""
    before, began, usable = len(world.faults), time.monotonic(), True
    try:
        scenario.inject(world)
        say(f"  {scenario.id}: {time.monotonic() - began:.1f} s")
    except CannotRun as error:
        row.not_run = str(error)
    except Exception as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        row.broken.append(f"{type(error).__name__}: {error} ({Path(where.filename).name}:{where.lineno})")
        say(f"  {scenario.id}: {row.broken[-1]}")
        usable = _recovered(world, row)
    for fault in world.faults[before:]:
        row.take(fault)
        faults.append(fault)
    time.sleep(PAUSE_S if len(world.faults) % LONG_EVERY else LONG_PAUSE_S)
    return usable


def _recovered(world: World, row: Row) -> bool:
    try:
        world.recover()
    except Exception as error:
        row.broken.append(f"afterwards the house did not work again: {error!r}; the run ends here")
        return False
    return True


def tracebacks(log: str) -> list[str]:
    """Errors nobody had foreseen, as the log tells them: what was said before each, where it was, what it is. The first
    few kinds; the log itself goes with the world."""
    lines, found = log.splitlines(), dict[str, str]()
    for number, line in enumerate(lines):
        if "uncaught exception" in line:
            found.setdefault(line[-200:], line[:300])
        elif "Traceback (most recent" in line:
            rest = lines[number + 1 : number + 100]
            length = next((n for n, text in enumerate(rest) if not text.startswith(" ")), len(rest))
            error = rest[length] if length < len(rest) else "unfinished"
            told = [*lines[max(number - 1, 0) : number + 1], *rest[max(length - 2, 0) : length], error]
            found.setdefault(error[:200], " | ".join(text.strip()[:300] for text in told))
    return [f"in the log: {text}" for text in list(found.values())[:5]]


def by_tests(rows: Sequence[ByTests], wish: Wish) -> tuple[list[Row], list[str]]:
    """The rows that tests execute, in one session of pytest a repetition."""
    found = {row.id: Row(row.id, row.title) for row in rows}
    for _ in range(wish.repeat or (5 if wish.full else 1)):
        for node, outcome, why in _pytest({node for row in rows for node in row.nodes}, wish.full):
            for row in rows:
                if any(node == wanted or node.startswith((wanted + "[", wanted + "::")) for wanted in row.nodes):
                    _take_outcome(found[row.id], node, outcome, why)
    return list(found.values()), [f"{r.id}: {line}" for r in found.values() for line in r.broken]


def _take_outcome(row: Row, node: str, outcome: str, why: str) -> None:
    row.wanted += 1
    if outcome == "passed":
        row.executed += 1
    elif outcome == "skipped":
        row.not_run = why
    else:
        row.broken.append(f"{node}: {why[:300]}")


#: What makes tests do everything, those in throw-away hosts included.
_FULL = ("VDSM_MP_FAULTS_STRIDE", "VDSM_MP_TESTBED")


def _pytest(nodes: Iterable[str], full: bool) -> list[tuple[str, str, str]]:
    """[(node below tests/, outcome, why)]."""
    present = sorted(node for node in nodes if (ROOT / "tests" / node.partition("::")[0]).exists())
    env = {**os.environ, **(dict.fromkeys(_FULL, "1") if full else {})}
    with tempfile.TemporaryDirectory(prefix="vdsm-mp-faults-") as folder:
        file = Path(folder) / "report.xml"
        argv = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-n", "2", f"--junitxml={file}"]
        argv += ["--timeout=1800"] if full else []
        subprocess.run([*argv, *(f"tests/{node}" for node in present)], cwd=ROOT, env=env, check=False)
        if not file.exists():
            return [(node, "failed", "pytest ended without a report") for node in present]
        return [_outcome(case) for case in ET.parse(file).iter("testcase")]


def _outcome(case: ET.Element) -> tuple[str, str, str]:
    module = case.get("classname", "").removeprefix("tests.").replace(".", "/") + ".py"
    node = f"{module}::{case.get('name', '')}"
    for kind, word in (("failure", "failed"), ("error", "failed"), ("skipped", "skipped")):
        found = case.find(kind)
        if found is not None:
            return node, word, found.get("message", "").removeprefix("Skipped: ")
    return node, "passed", ""


def machine() -> dict[str, Any]:
    return {
        "processors": os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "load_average_at_start": round(os.getloadavg()[0], 1),
    }


def run(
    wish: Wish,
    wanted: Sequence[str] = (),
    say: Say = lambda line: print(line, flush=True),
    keep: Callable[[dict[str, Any]], None] = lambda found: None,
) -> dict[str, Any]:
    """The whole report. wanted: ids of scenarios, or their beginnings; empty = all.

    keep: gets the report as far as it goes after each part, so that a run which is broken off leaves that.
    """

    def asked(name: str) -> bool:
        return not wanted or any(name == w or name.split(maxsplit=1)[0] == w for w in wanted)

    began, about = time.monotonic(), machine()
    loaded = [s for s in UNDER_LOAD if asked(s.id) and wish.times(s)]
    tested = [t for t in BY_TESTS if asked(t.id) and (wish.full or not t.full_only)]
    found: dict[str, Any] = {"rows": [], "requests": report.requests([]), "broken": [], "records": [], "raw": {}}
    found |= {"executed": 0, "took_s": 0.0, "machine": about, "full": wish.full, "seed": wish.seed}
    found["not_here"] = dict(NOT_HERE) if not wanted else {}

    def by_load() -> None:
        found.update(under_load(loaded, wish, say))

    def by_pytest() -> None:
        rows, broken = by_tests(tested, wish)
        found["rows"] += [row.as_json() for row in rows]
        found["broken"] += broken

    def by_clients() -> None:
        found["rows"] += [row.as_json() for row in clients.as_report(clients.measure(CONNECTIONS, wish.repeat or 3))]

    def by_crowd() -> None:
        some = (CONNECTIONS, PROCESSES) if wish.full else (FEW_CONNECTIONS, PROCESSES, ["as shipped"])
        found["rows"] += [row.as_json() for row in crowd.as_report(crowd.run(*some))]

    def by_soak() -> None:
        row = soak.as_row(soak.run(wish.soak))
        found["rows"].append(row.as_json())
        found["broken"] += [f"E11: {line}" for line in row.broken]

    parts = (
        ([s.id for s in loaded], by_load),
        ([t.id for t in tested], by_pytest),
        (["F1c"] if asked("F1c") and wish.full else [], by_clients),
        (["F1d"] if asked("F1d") else [], by_crowd),
        (["E11"] if asked("E11") and wish.soak else [], by_soak),
    )
    for ids, part in parts:
        if not ids:
            continue
        if wish.minutes and part is not by_load and time.monotonic() - began > wish.minutes * 60:
            found["not_here"] |= dict.fromkeys(ids, "not begun: the time was over")
            continue
        part()
        found["executed"] = sum(row["executed"] for row in found["rows"])
        found["took_s"] = round(time.monotonic() - began, 1)
        keep(found)
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true", help="as often as promises need; hours")
    parser.add_argument("--scenario", nargs="+", default=[], metavar="ID", help="only these")
    parser.add_argument("--repeat", type=int, default=0, help="so often, whatever the table says")
    parser.add_argument("--minutes", type=float, default=0.0, help="begin nothing after that time")
    parser.add_argument("--soak", type=float, help=f"minutes of a soak (E11); {SOAK_MINUTES:g} in full runs, else none")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--strict", action="store_true", help="a limit that was exceeded is a failure too")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--html", type=Path)
    asked = parser.parse_args()
    more = {"guests": 8, "per_s": 100.0} if asked.full else {}
    soaked = asked.soak if asked.soak is not None else SOAK_MINUTES * asked.full
    if 0 < soaked < soak.SHORTEST_MINUTES:
        parser.error(f"a soak judges processes after {soak.SHORTEST_MINUTES:.0f} minutes")
    wish = Wish(soak=soaked, full=asked.full, repeat=asked.repeat, minutes=asked.minutes, seed=asked.seed, **more)

    def keep(found: dict[str, Any]) -> None:
        if asked.json:
            asked.json.write_text(json.dumps(found, indent=1))
        if asked.html:
            asked.html.write_text(page.html(found))

    try:
        found = run(wish, asked.scenario, keep=keep)
    finally:
        forget_program()
    print(report.text(found))
    missed = any(row["missed"] for row in found["rows"])
    return 1 if found["broken"] or (asked.strict and missed) else 0


if __name__ == "__main__":
    sys.exit(main())
