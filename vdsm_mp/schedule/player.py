# SPDX-License-Identifier: Apache-2.0
"""Plays the timetable: one thread waits for the next beat, the background pool does the work.

Owns the thread. Work that takes long delays nobody but itself.
"""

import threading
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from vdsm_mp.api.ports import Background, Caller
from vdsm_mp.common import log
from vdsm_mp.common.clock import mono_s
from vdsm_mp.common.errors import Error
from vdsm_mp.schedule.beat import Beats
from vdsm_mp.schedule.timetable import Beat

logger = log.named(__name__)

#: Log the first failure of a row and then every so many: a dead owner must not fill the log.
_TELL_EVERY = 20


class Player:
    """own: {name of a row without message: what it does}."""

    def __init__(
        self, timetable: tuple[Beat, ...], call: Caller, background: Background, own: Mapping[str, Callable[[], None]]
    ) -> None:
        missing = [beat.name for beat in timetable if beat.ask is None and beat.name not in own]
        if missing:
            raise TypeError(f"nobody does {', '.join(missing)}")
        self._timetable = timetable
        self._call = call
        self._background = background
        self._own = own
        # Guards the rows: pool threads report to them. Held for moments only.
        self._changed = threading.Condition()
        self._beats = Beats((), 0.0)
        self._stopping = False
        self._thread = threading.Thread(target=self._play, name="beats", daemon=True)

    def start(self) -> None:
        self._beats = Beats(self._timetable, mono_s())
        self._thread.start()

    def stop(self) -> None:
        """No beat starts after this; those that run are the background's to end."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        self._thread.join(2)

    def hurry(self, name: str) -> None:
        with self._changed:
            self._beats.hurry(name, mono_s())
            self._changed.notify_all()

    def status(self) -> dict[str, dict[str, Any]]:
        with self._changed:
            return self._beats.status()

    def vitals(self) -> dict[str, Any]:
        """{"beats_missed": in all, "beats_failing": {name: error}}"""
        rows = self.status()
        return {
            "beats_missed": sum(int(row["missed"]) for row in rows.values()),
            "beats_failing": {name: row["error"] for name, row in rows.items() if row["failures"]},
        }

    def _play(self) -> None:
        with self._changed:
            while not self._stopping:
                for beat in self._beats.due(mono_s()):
                    self._begin(beat)
                self._changed.wait(min(max(self._beats.next_mono() - mono_s(), 0.0), 60.0))

    def _begin(self, beat: Beat) -> None:
        try:
            self._background.start(beat.name, partial(self._run, beat))
        except Error as error:
            self._beats.failed(beat.name, mono_s(), str(error))

    def _run(self, beat: Beat) -> None:
        try:
            if beat.ask is not None:
                self._call.ask(beat.ask, deadline_s=beat.deadline_s)
            else:
                self._own[beat.name]()
        except Error as error:
            self._failed(beat, error)
        except BaseException as error:
            # A bug in one row: the row must not stay "running" for ever. The background logs the traceback.
            self._failed(beat, error)
            raise
        else:
            with self._changed:
                self._beats.done(beat.name, mono_s())
                self._changed.notify_all()  # it may be due at once

    def _failed(self, beat: Beat, error: BaseException) -> None:
        with self._changed:
            self._beats.failed(beat.name, mono_s(), f"{type(error).__name__}: {error}")
            failures: int = self._beats.status()[beat.name]["failures"]
            self._changed.notify_all()
        if failures % _TELL_EVERY == 1:
            logger.warning("%s failed %d times in a row: %s", beat.name, failures, error)
