# SPDX-License-Identifier: Apache-2.0
"""Waiting for a condition, the only way tests wait."""

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def eventually(condition: Callable[[], T], *, within_s: float = 10.0, every_s: float = 0.02) -> T:
    """Ask until the condition is true; its value. An AssertionError inside it counts as "not yet"."""
    until = time.monotonic() + within_s
    while True:
        failed: AssertionError | None = None
        try:
            value = condition()
            if value:
                return value
        except AssertionError as error:
            failed = error
        if time.monotonic() > until:
            raise AssertionError(f"not true within {within_s} s{f': {failed}' if failed else ''}") from failed
        time.sleep(every_s)
