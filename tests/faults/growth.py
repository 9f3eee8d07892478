# SPDX-License-Identifier: Apache-2.0
"""Does anything grow over time? Pure: looks at a house in, trends and broken promises out.

Every process is judged by itself, as long as it lives: what it holds after a warming up is a line through the medians
of all pairs of looks (Theil and Sen), which single peaks do not tilt. The host's part (files, sockets, mounts) is one
more life. A life that is too short to say anything is not judged; one that should have been is a fault of the record.
"""

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

#: What a process has done for the first time is no growth: caches fill, pools get their threads.
WARM_S = 180.0
#: A life that is judged lasts so long after that.
ENOUGH_S = 240.0
#: More than this many looks say nothing more about a line, and pairs grow with the square.
_MOST_LOOKS = 200

#: {kind: (what an hour may add, what is too little to be told from chance)}
LIMITS: Mapping[str, tuple[float, float]] = {
    "descriptors": (4.0, 4.0),
    "sockets": (4.0, 4.0),
    "threads": (4.0, 4.0),
    "rss_kib": (1024.0, 1024.0),
    "files": (4.0, 6.0),
    "unix_sockets": (4.0, 8.0),
    "mounts": (1.0, 1.0),
}


@dataclass(frozen=True, slots=True)
class Look:
    """One look at one life: "virt", its pid, when (CLOCK_MONOTONIC), {kind: how much}. pid 0: the host."""

    name: str
    pid: int
    at: float
    held: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Trend:
    """One kind of one life. an_hour: slope; rose: by how much the line rises in the time that was judged."""

    name: str
    pid: int
    kind: str
    seconds: float
    median: float
    an_hour: float
    rose: float

    @property
    def broken(self) -> str:
        most_an_hour, chance = LIMITS[self.kind]
        if self.an_hour <= most_an_hour or self.rose <= chance:
            return ""
        return (
            f"{self.name} (pid {self.pid}): {self.kind} rose by {self.rose:.1f} in {self.seconds:.0f} s, "
            f"{self.an_hour:.1f} an hour, at most {most_an_hour:g} was promised"
        )


def trends(looks: Iterable[Look]) -> list[Trend]:
    """Of each kind of each life that lasted long enough."""
    lives: dict[tuple[str, int], list[Look]] = {}
    for look in looks:
        lives.setdefault((look.name, look.pid), []).append(look)
    found = []
    for (name, pid), life in lives.items():
        warm = [look for look in life if look.at >= life[0].at + WARM_S]
        if warm and warm[-1].at - warm[0].at >= ENOUGH_S:
            kept = warm[:: len(warm) // _MOST_LOOKS + 1]
            found += [_trend(name, pid, kind, kept) for kind in kept[0].held if kind in LIMITS]
    return found


def _trend(name: str, pid: int, kind: str, looks: Sequence[Look]) -> Trend:
    points = [(look.at, look.held[kind]) for look in looks]
    slope = statistics.median((b[1] - a[1]) / (b[0] - a[0]) for n, a in enumerate(points) for b in points[n + 1 :])
    seconds = points[-1][0] - points[0][0]
    median = statistics.median(value for _, value in points)
    return Trend(name, pid, kind, seconds, median, slope * 3600, slope * seconds)


def judge(found: Sequence[Trend], wanted: Iterable[str]) -> list[str]:
    """Broken promises as sentences. wanted: names that must have been judged."""
    judged = {trend.name for trend in found}
    missing = [f"{name} was not looked at for long enough: nothing is proved" for name in wanted if name not in judged]
    return missing + [trend.broken for trend in found if trend.broken]
