# SPDX-License-Identifier: Apache-2.0
"""Keeps the time of the timetable: no drift, missed beats skipped and counted, back-off after failures. No I/O.

A beat that is still running when it is due again is skipped, never queued. After a failure the next ones come later
(twice the period, four times, ... eight times at most), until one succeeds.
"""

from collections.abc import Iterable
from typing import Any

import msgspec

from vdsm_mp.schedule.timetable import Beat

_MOST_BACK_OFF = 8


class _Row(msgspec.Struct):
    beat: Beat
    due_mono: float
    running: bool = False
    failures: int = 0
    missed: int = 0
    done: int = 0
    took_s: float = 0.0
    began_mono: float = 0.0
    error: str = ""
    again: bool = False


class Beats:
    """Used by one thread at a time for `due`; `done` and `failed` come from pool threads (the caller locks)."""

    def __init__(self, timetable: Iterable[Beat], now_mono: float) -> None:
        self._rows = {beat.name: _Row(beat, now_mono + beat.first_s) for beat in timetable}

    def due(self, now_mono: float) -> list[Beat]:
        """What must start now, the longest waiting first; marks it as running."""
        found: list[_Row] = []
        for row in sorted(self._rows.values(), key=lambda row: row.due_mono):
            if row.due_mono > now_mono:
                break
            if row.running:
                row.missed += 1
            else:
                found.append(row)
            self._plan(row, now_mono)
        for row in found:
            row.running, row.began_mono = True, now_mono
        return [row.beat for row in found]

    def next_mono(self) -> float:
        """When `due` will have something, or something will be missed."""
        return min((row.due_mono for row in self._rows.values()), default=float("inf"))

    def done(self, name: str, now_mono: float) -> None:
        row = self._end(name, now_mono)
        row.done += 1
        row.failures = 0
        row.error = ""
        self._hurried(row, now_mono)

    def failed(self, name: str, now_mono: float, error: str) -> None:
        """The beat ran and failed, or could not be started."""
        row = self._end(name, now_mono)
        row.failures += 1
        row.error = error
        wait_s = row.beat.period_s * min(2 ** min(row.failures - 1, 8), _MOST_BACK_OFF)
        row.due_mono = max(row.due_mono, row.began_mono + wait_s)
        self._hurried(row, now_mono)

    def hurry(self, name: str, now_mono: float) -> None:
        """Make a beat due now and forget its failures: its owner is back. One that runs is due when it is over: it may
        have asked the owner that is gone."""
        row = self._rows.get(name)
        if row is not None and row.running:
            row.again = True
        elif row is not None:
            row.due_mono, row.failures = min(row.due_mono, now_mono), 0

    def status(self) -> dict[str, dict[str, Any]]:
        """{name: {done, missed, failures in a row, took_s of the last, error of the last}}"""
        return {
            name: {
                "done": row.done,
                "missed": row.missed,
                "failures": row.failures,
                "took_s": round(row.took_s, 3),
                "error": row.error,
            }
            for name, row in self._rows.items()
        }

    def _end(self, name: str, now_mono: float) -> _Row:
        row = self._rows[name]
        row.running = False
        row.took_s = now_mono - row.began_mono
        return row

    @staticmethod
    def _hurried(row: _Row, now_mono: float) -> None:
        if row.again:
            row.again, row.due_mono, row.failures = False, now_mono, min(row.failures, 1)

    @staticmethod
    def _plan(row: _Row, now_mono: float) -> None:
        """The next time on the row's own grid: a late beat does not move those after it."""
        period = row.beat.period_s
        behind = now_mono - row.due_mono
        skipped = int(behind // period)
        row.missed += skipped
        row.due_mono += (skipped + 1) * period
