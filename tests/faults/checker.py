# SPDX-License-Identifier: Apache-2.0
"""Judges what was recorded while faults were injected. Pure: records in, broken promises out, each as a sentence.

Requests are judged by `tests.support.load.check`. Here: tasks, the SPM role, guests, and what may not grow. A record
that proves nothing (no sighting, one sample) is a broken promise too: silence of the recorder is not success.

    python -m tests.faults.checker RECORD.json      judges a record that `tests.faults.run --json` has written
"""

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(slots=True)
class TaskLife:
    """What the client knows of one task. CLOCK_MONOTONIC; inf = not yet."""

    id: str
    acknowledged: float
    clear_asked: float = float("inf")


@dataclass(frozen=True, slots=True)
class Sighting:
    """The list of tasks that the holder of the SPM role gave; asked and answered at these times."""

    asked: float
    answered: float
    ids: frozenset[str]


@dataclass(frozen=True, slots=True)
class Held:
    """One host was told that it is the SPM, and until when it certainly did not know better."""

    host: str
    since: float
    until: float


@dataclass(frozen=True, slots=True)
class Beat:
    """A guest, looked at from outside. counter rises while it runs; boots: how often it has started."""

    at: float
    counter: int
    boots: int


@dataclass(frozen=True, slots=True)
class Size:
    """What one process holds."""

    descriptors: int
    threads: int
    rss_kib: int


@dataclass
class Record:
    """All that one run has written down, beside its requests."""

    tasks: list[TaskLife] = field(default_factory=list)
    sightings: list[Sighting] = field(default_factory=list)
    held: list[Held] = field(default_factory=list)
    guests: dict[str, list[Beat]] = field(default_factory=dict)
    sizes: list[dict[str, Size]] = field(default_factory=list)
    zombies: list[str] = field(default_factory=list)
    died: list[str] = field(default_factory=list)


#: A guest says that it lives about once a second; a host that is short of processors lets it wait.
GUEST_SILENCE_S = 15.0
#: What a process may hold more at the end than at the beginning.
MORE_DESCRIPTORS, MORE_THREADS = 8, 8
#: Of memory: this share and this much (the allocator keeps what a busy time has needed).
MORE_RSS, MORE_RSS_KIB = 0.05, 12 * 1024


def judge(record: Record) -> list[str]:
    """Every broken promise of a record; empty when all were kept."""
    return [
        *tasks_forgotten(record.tasks, record.sightings),
        *two_at_once(record.held),
        *guests_disturbed(record.guests),
        *grown(record.sizes),
        *(f"zombie: {name}" for name in record.zombies),
        *(f"a guest was reported Down: {name}" for name in record.died),
    ]


def tasks_forgotten(tasks: Iterable[TaskLife], sightings: Sequence[Sighting]) -> list[str]:
    """A task whose id a client was given is listed until the client asks to clear it."""
    tasks = list(tasks)
    if tasks and not sightings:
        return [f"{len(tasks)} tasks were acknowledged and nobody looked at the list: the record proves nothing"]
    broken = []
    for task in tasks:
        for seen in sightings:
            due = task.acknowledged < seen.asked and seen.answered < task.clear_asked
            if due and task.id not in seen.ids:
                broken.append(f"task {task.id} was acknowledged, not cleared, and is forgotten")
                break
    return broken


def two_at_once(held: Iterable[Held]) -> list[str]:
    """At any time at most one host has the role."""
    broken = []
    last: Held | None = None
    for now in sorted(held, key=lambda h: h.since):
        if last is not None and now.host != last.host and now.since < last.until:
            broken.append(f"{now.host} was SPM from {now.since:.2f}, while {last.host} was until {last.until:.2f}")
        if last is None or now.until > last.until:
            last = now
    return broken


def guests_disturbed(guests: Mapping[str, Sequence[Beat]]) -> list[str]:
    """Guests go on counting, and none starts anew."""
    broken = []
    for name, beats in guests.items():
        if len(beats) < 2:
            broken.append(f"guest {name} was seen {len(beats)} times: the record proves nothing")
            continue
        if max(beat.boots for beat in beats) > 1:
            broken.append(f"guest {name} was started again")
        rose = beats[0]
        for beat in beats[1:]:
            if beat.counter < rose.counter:
                broken.append(f"guest {name} counted backwards, from {rose.counter} to {beat.counter}")
                break
            if beat.counter > rose.counter:
                rose = beat
            elif beat.at - rose.at > GUEST_SILENCE_S:
                broken.append(f"guest {name} stood still for {beat.at - rose.at:.0f} s at {rose.counter}")
                break
    return broken


def grown(sizes: Sequence[Mapping[str, Size]]) -> list[str]:
    """The first look against the last: by name of the process, since numbers change with every restart."""
    if not sizes:
        return []
    if len(sizes) < 2:
        return ["processes were measured once: the record proves nothing"]
    first, last = sizes[0], sizes[-1]
    broken = [f"{name} is missing at the end" for name in sorted(set(first) - set(last))]
    for name in sorted(set(first) & set(last)):
        was, now = first[name], last[name]
        if now.descriptors > was.descriptors + MORE_DESCRIPTORS:
            broken.append(f"{name} had {was.descriptors} descriptors and has {now.descriptors}")
        if now.threads > was.threads + MORE_THREADS:
            broken.append(f"{name} had {was.threads} threads and has {now.threads}")
        if now.rss_kib > was.rss_kib * (1 + MORE_RSS) + MORE_RSS_KIB:
            broken.append(f"{name} had {was.rss_kib >> 10} MiB and has {now.rss_kib >> 10} MiB")
    return broken


def read(text: str) -> Record:
    """A record as `written` made it."""
    raw: dict[str, Any] = json.loads(text)
    return Record(
        tasks=[TaskLife(t["id"], t["acknowledged"], _or_inf(t["clear_asked"])) for t in raw["tasks"]],
        sightings=[Sighting(s["asked"], s["answered"], frozenset(s["ids"])) for s in raw["sightings"]],
        held=[Held(**held) for held in raw["held"]],
        guests={name: [Beat(*beat) for beat in beats] for name, beats in raw["guests"].items()},
        sizes=[{name: Size(*size) for name, size in look.items()} for look in raw["sizes"]],
        zombies=raw["zombies"],
        died=raw["died"],
    )


def written(record: Record) -> dict[str, Any]:
    """For JSON."""
    return {
        "tasks": [
            {"id": t.id, "acknowledged": t.acknowledged, "clear_asked": _or_none(t.clear_asked)} for t in record.tasks
        ],
        "sightings": [{"asked": s.asked, "answered": s.answered, "ids": sorted(s.ids)} for s in record.sightings],
        "held": [{"host": h.host, "since": h.since, "until": h.until} for h in record.held],
        "guests": {name: [[b.at, b.counter, b.boots] for b in beats] for name, beats in record.guests.items()},
        "sizes": [{n: [s.descriptors, s.threads, s.rss_kib] for n, s in look.items()} for look in record.sizes],
        "zombies": record.zombies,
        "died": record.died,
    }


def _or_inf(value: float | None) -> float:
    return float("inf") if value is None else value


def _or_none(value: float) -> float | None:
    return None if value == float("inf") else value


def main() -> int:
    found = json.loads(Path(sys.argv[1]).read_text())
    broken = [line for record in found.get("records", [found]) for line in judge(read(json.dumps(record)))]
    print("\n".join(broken) or "every promise was kept")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
