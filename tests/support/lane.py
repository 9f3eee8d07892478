# SPDX-License-Identifier: Apache-2.0
"""A call that may be left when it hangs, as a worker's lanes have it."""

import threading
from collections.abc import Callable
from concurrent.futures import Future
from contextvars import copy_context
from typing import TypeVar

T = TypeVar("T")

#: No verb of a test takes longer.
_LONGEST_S = 300.0


def in_a_lane(function: Callable[[], T]) -> T:
    """Call it in another thread: no signal, so no time limit of a test's, ends one that hangs in libvirt."""
    answer: Future[T] = Future()

    def run() -> None:
        try:
            answer.set_result(function())
        except BaseException as error:
            answer.set_exception(error)

    threading.Thread(target=copy_context().run, args=(run,), daemon=True, name="lane").start()
    return answer.result(_LONGEST_S)
