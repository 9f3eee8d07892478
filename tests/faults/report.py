# SPDX-License-Identifier: Apache-2.0
"""What a fault run found, as data: JSON for machines, a table for the terminal. The page is made in `page.py`.

python -m tests.faults.report REPORT.json …      the table as docs/reliability.md has it
"""

import bisect
import json
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.faults.world import AFTERMATH_S, Fault
from tests.support.load import Operation
from vdsm_mp.api.catalogue import VERBS

#: Verbs whose worker asks others; it waits for them no longer than a second or two, but it waits.
_ASKS = {
    "Host.getStats": {"virt", "storage", "network"},
    "Host.getJobs": {"virt", "storage"},
    "Host.getCapabilities": {"virt", "network"},
}
#: Fewer calls than this and a p99 is the slowest one, which says nothing.
ENOUGH_CALLS = 200


@dataclass
class Row:
    """One scenario. Times are in seconds. `missed`: limits that were exceeded; `broken`: promises not kept."""

    id: str
    title: str
    wanted: int = 0
    executed: int = 0
    not_run: str = ""
    broken: list[str] = field(default_factory=list)
    missed: list[str] = field(default_factory=list)
    measures: dict[str, list[float]] = field(default_factory=dict)
    limits: dict[str, float] = field(default_factory=dict)
    unaffected: dict[str, Any] = field(default_factory=dict)

    def take(self, fault: Fault) -> None:
        """One injection; only what really happened counts."""
        self.broken += fault.broken
        if not fault.happened:
            return
        self.executed += 1
        found = {"seen": fault.seen_s, "ready": fault.ready_s, **fault.numbers}
        for name, value in found.items():
            if value is not None:
                self.measures.setdefault(name, []).append(value)

    def judge(self) -> None:
        for name, most in self.limits.items():
            values = self.measures.get(name, [])
            if values and p99(values) > most:
                self.missed.append(f"{name}: {p99(values):.2f}, at most {most:g} was promised")

    def as_json(self) -> dict[str, Any]:
        measures = {name: summary(values) for name, values in self.measures.items()}
        return {
            "id": self.id, "title": self.title, "wanted": self.wanted, "executed": self.executed,
            "not_run": self.not_run, "broken": self.broken, "missed": self.missed, "measures": measures,
            "limits": self.limits, "unaffected": self.unaffected,
        }  # fmt: skip


def p99(values: Sequence[float]) -> float:
    return sorted(values)[min(len(values) - 1, int(len(values) * 0.99))]


def summary(values: Sequence[float]) -> dict[str, float]:
    ordered = sorted(values)
    return {
        "count": len(ordered),
        "median": round(ordered[len(ordered) // 2], 4),
        "p99": round(p99(ordered), 4),
        "worst": round(ordered[-1], 4),
    }


def requests(history: Sequence[Operation]) -> dict[str, Any]:
    """{"asked", "silent", "outcomes", "slowest_s"}."""
    outcomes = Counter(operation.outcome or "silent" for operation in history)
    took = [o.answers[0][0] - o.asked_mono for o in history if o.answers]
    return {
        "asked": len(history), "silent": outcomes.get("silent", 0), "outcomes": dict(outcomes),
        "slowest_s": round(max(took, default=0.0), 3),
    }  # fmt: skip


def unaffected(
    history: Iterable[Operation], faults: Mapping[str, Sequence[Fault]], every: Sequence[Fault]
) -> dict[str, dict[str, Any]]:
    """{scenario: {"calls", "p99_ms", "worst_ms", "worst_verb", "quiet_p99_ms", "ratio"}}: calls not needing the victim.

    Compared are the same verbs: those of the victim's are left out of the quiet times as well.
    """
    done = [o for o in history if o.answers and o.outcome == "done"]
    harm = _Times((f.at_mono, f.until_mono + AFTERMATH_S) for f in every)
    quiet = [o for o in done if not harm.touch(o.asked_mono, o.answers[0][0])]
    found: dict[str, dict[str, Any]] = {}
    for name, ones in faults.items():
        victims = {fault.victim for fault in ones}
        if not ones or "" in victims or "clientif" in victims:
            continue
        times = _Times((f.at_mono, f.until_mono) for f in ones)
        meant = [o for o in done if not _needs(o) & victims and times.touch(o.asked_mono, o.asked_mono)]
        during = [_took_ms(o) for o in meant]
        calm = [_took_ms(o) for o in quiet if not _needs(o) & victims]
        if len(during) >= ENOUGH_CALLS and len(calm) >= ENOUGH_CALLS:
            found[name] = {
                "calls": len(during), "p99_ms": round(p99(during), 2), "worst_ms": round(max(during), 2),
                "worst_verb": max(meant, key=_took_ms).verb, "quiet_p99_ms": round(p99(calm), 2),
                "ratio": round(p99(during) / p99(calm), 2),
            }  # fmt: skip
    return found


class _Times:
    """Spans of time, one after the other."""

    def __init__(self, spans: Iterable[tuple[float, float]]) -> None:
        self._spans = sorted(spans)
        self._begins = [begin for begin, _ in self._spans]

    def touch(self, begin: float, end: float) -> bool:
        """Whether one of them has a moment in common with this one."""
        at = bisect.bisect_right(self._begins, end) - 1
        return at >= 0 and self._spans[at][1] >= begin


def _needs(operation: Operation) -> set[str]:
    """Workers whose answer a verb waits for, if only for a while."""
    return {VERBS[operation.verb].owner} | _ASKS.get(operation.verb, set())


def _took_ms(operation: Operation) -> float:
    return (operation.answers[0][0] - operation.asked_mono) * 1e3


def text(found: Mapping[str, Any]) -> str:
    """The table for people."""
    lines = [f"{'':8}{'scenario':52}{'done':>5}{'of':>5}{'seen p99':>10}{'ready p99':>11}{'worst':>8}   others p99"]
    for row in found["rows"]:
        seen, ready = row["measures"].get("seen"), row["measures"].get("ready")
        others = row["unaffected"]
        lines.append(
            f"{row['id'][:7]:8}{row['title'][:51]:52}{row['executed']:5}{row['wanted']:5}"
            f"{_s(seen, 'p99'):>10}{_s(ready, 'p99'):>11}{_s(ready, 'worst'):>8}"
            + (
                f"   {others['p99_ms']:.1f} ms, {others['ratio']:.2f} x quiet, worst {others['worst_verb']}"
                if others
                else ""
            )
        )
        lines += [f"{'':8}not run: {row['not_run']}"] if row["not_run"] else []
        lines += [f"{'':8}BROKEN: {line}" for line in dict.fromkeys(row["broken"])]
        lines += [f"{'':8}over the limit: {line}" for line in row["missed"]]
    asked = found["requests"]
    lines += [f"BROKEN: {line}" for line in found["broken"]]
    lines.append(
        f"{found['executed']} injections executed, {asked['asked']} requests, {asked['silent']} without an answer, "
        f"slowest {asked['slowest_s']:.1f} s, {len(found['broken'])} promises broken, {found['took_s']:.0f} s"
    )
    return "\n".join(lines)


def _s(values: Mapping[str, float] | None, which: str) -> str:
    return f"{values[which]:.2f} s" if values else ""


def markdown(found: Mapping[str, Any]) -> str:
    """The table of one report for a document."""
    lines = ["| | injection | executed | seen, p99 / worst | ready again, p99 / worst | calls of others, p99 |",
             "|---|---|---|---|---|---|"]  # fmt: skip
    for row in found["rows"]:
        if row["executed"]:
            seen, ready, others = row["measures"].get("seen"), row["measures"].get("ready"), row["unaffected"]
            lines.append(
                f"| {row['id']} | {row['title']} | {row['executed']} | {_both(seen)} | {_both(ready)} | "
                + (f"{others['p99_ms']:.0f} ms, {others['ratio']:.1f} × quiet |" if others else "|")
            )
    return "\n".join(lines)


def _both(values: Mapping[str, float] | None) -> str:
    return f"{values['p99']:.2f} / {values['worst']:.2f} s" if values else ""


if __name__ == "__main__":
    for name in sys.argv[1:]:
        print(markdown(json.loads(Path(name).read_text())), end="\n\n")
