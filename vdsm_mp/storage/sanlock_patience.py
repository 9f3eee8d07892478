# SPDX-License-Identifier: Apache-2.0
"""Questions to the sanlock daemon that have a deadline; its library has none.

The daemon may be stopped, or wait for storage that hangs. What changes something waits as long as that takes; whoever
only looks must not, and must not cost a thread each time.
"""

import threading
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from typing import Any, TypeVar

from vdsm_mp.common.clock import mono_s

_T = TypeVar("_T")


class Patience:
    """Of one domain. Thread-safe."""

    def __init__(self, within_s: float) -> None:
        self._within_s = within_s
        self._lock = threading.Lock()
        self._late: tuple[Future[Any], float] | None = None

    def ask(self, question: Callable[[], _T]) -> _T:
        """Its answer. While one is late nobody else waits for one, so few threads wait for good.

        Raises: TimeoutError, and what the question raises.
        """
        with self._lock:
            if self._late is not None and not self._late[0].done():
                raise TimeoutError(f"sanlock has not answered for {mono_s() - self._late[1]:.0f} s")
        asked, began = Future[_T](), mono_s()
        threading.Thread(target=_answer, args=(question, asked), daemon=True, name="sanlock").start()
        try:
            return asked.result(self._within_s)
        except FutureTimeout:
            if asked.done():  # the question's own
                raise
            with self._lock:
                self._late = (asked, began)
            raise TimeoutError(f"sanlock has not answered for {self._within_s:g} s") from None


def _answer(question: Callable[[], Any], asked: "Future[Any]") -> None:
    try:
        answer = question()
    except Exception as e:
        asked.set_exception(e)
    else:
        asked.set_result(answer)
