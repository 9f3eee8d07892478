# SPDX-License-Identifier: Apache-2.0
"""Calls of the sanlock daemon that have a deadline; its library has none.

The daemon may be stopped, or wait for storage that hangs. Nobody of ours waits for that without end, few threads do:

* who only looks (`ask`) is told after a while that there is no answer;
* who changes something (`change`) waits as long as the daemon answers others, since taking the lease of a dead host may
  take minutes. Is it silent, nobody knows whether the change comes; should it, it is undone then, before anybody else
  is served;
* what has to be done once it answers again is owed to it (`owe`).

While one is late all others are refused at once.
"""

import logging
import threading
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from vdsm_mp.common.clock import mono_s

_log = logging.getLogger("storage.sanlock")

_T = TypeVar("_T")


class NotBegun(TimeoutError):
    """Something else is late; nothing was asked."""


class _Call(Generic[_T]):
    """One, in a thread of its own. undo: of a result that nobody waits for any more."""

    def __init__(self, work: Callable[[], _T], undo: Callable[[_T], None], ended: Callable[[], None]) -> None:
        self.began_mono = mono_s()
        self.ended = False
        self._work, self._undo, self._tell_end = work, undo, ended
        self._changed = threading.Condition()
        self._answered = False
        self._abandoned = False
        self._result: list[_T] = []
        self._error: Exception | None = None
        threading.Thread(target=self._run, daemon=True, name="sanlock").start()

    def answered(self, within_s: float) -> bool:
        with self._changed:
            return self._changed.wait_for(lambda: self._answered, within_s)

    def abandon(self) -> bool:
        """False: the answer has just come, and is the caller's."""
        with self._changed:
            self._abandoned = not self._answered
            return self._abandoned

    def result(self) -> _T:
        if self._error is not None:
            raise self._error
        return self._result[0]

    def _run(self) -> None:
        try:
            self._result.append(self._work())
        except Exception as e:
            self._error = e
        with self._changed:
            self._answered = True
            abandoned = self._abandoned
            self._changed.notify_all()
        if abandoned:
            self._settle()
        self.ended = True
        if abandoned:
            self._tell_end()

    def _settle(self) -> None:
        _log.warning("sanlock has answered after %.0f s: %s", mono_s() - self.began_mono, self._error or "done")
        if self._error is None:
            try:
                self._undo(self._result[0])
            except Exception as e:  # it is said, and nobody is there who could be told
                _log.error("what sanlock did so late could not be undone: %s", e)


class Patience:
    """Of one domain. Thread-safe."""

    def __init__(self, look_s: float, answers_s: float, change_s: float, ping: Callable[[], Any]) -> None:
        """look_s: for who only looks. answers_s: for `ping`, a question about no storage. change_s: the most that a
        change takes a daemon that answers."""
        self._look_s = look_s
        self._answers_s = answers_s
        self._change_s = change_s
        self._ping = ping
        self._lock = threading.Lock()
        self._late: list[_Call[Any]] = []
        self._pinging: _Call[Any] | None = None
        self._owed: dict[str, Callable[[], None]] = {}

    def ask(self, question: Callable[[], _T]) -> _T:
        """Its answer. Raises: TimeoutError, and what the question raises."""
        self._refuse_while_late()
        call = self._begin(question, _leave)
        if not call.answered(self._look_s) and self._gives_up(call):
            raise TimeoutError(f"sanlock has not answered for {self._look_s:g} s")
        return call.result()

    def change(self, work: Callable[[], _T], undo: Callable[[_T], None] = lambda done: None) -> _T:
        """What `work` returns. undo: takes it back, in case that the answer comes when nobody waits for it.

        Raises: TimeoutError (it may happen yet, and is undone then), NotBegun, what the work raises.
        """
        self._refuse_while_late()
        call = self._begin(work, undo)
        while not call.answered(self._answers_s):
            lasts_s = mono_s() - call.began_mono
            if (lasts_s > self._change_s or not self.answers()) and self._gives_up(call):
                raise TimeoutError(f"sanlock has not answered for {lasts_s:.1f} s")
        return call.result()

    def answers(self) -> bool:
        """Does it answer anybody? What it says does not matter."""
        with self._lock:
            if self._pinging is None or self._pinging.ended:
                self._pinging = self._begin(self._ping, _leave)
            pinging = self._pinging
        return pinging.answered(self._answers_s)

    def owe(self, name: str, work: Callable[[], None]) -> None:
        """Do it as soon as the daemon answers again."""
        with self._lock:
            self._owed[name] = work
            if any(not one.ended for one in self._late):
                return
        threading.Thread(target=self._pay, daemon=True, name="sanlock").start()

    def forgive(self, name: str) -> None:
        """It is not to be done any more."""
        with self._lock:
            self._owed.pop(name, None)

    def _begin(self, work: Callable[[], _T], undo: Callable[[_T], None]) -> _Call[_T]:
        return _Call(work, undo, self._pay)

    def _gives_up(self, call: _Call[Any]) -> bool:
        with self._lock:
            self._late = [one for one in self._late if not one.ended]
            if not call.abandon():
                return False
            self._late.append(call)
            return True

    def _refuse_while_late(self) -> None:
        with self._lock:
            self._late = [one for one in self._late if not one.ended]
            if self._late:
                raise NotBegun(f"sanlock has not answered for {mono_s() - self._late[0].began_mono:.0f} s")

    def _pay(self) -> None:
        """In the thread of what was late last."""
        with self._lock:
            if any(not one.ended for one in self._late):
                return
            owed, self._owed = self._owed, {}
        for name, work in owed.items():
            try:
                work()
            except Exception as e:  # as above
                _log.error("%s could not be made up for: %s", name, e)


def _leave(answer: object) -> None:
    """Nothing to undo."""
