# SPDX-License-Identifier: Apache-2.0
"""Time. One place decides which clock a number comes from, so that numbers of different processes compare."""

import time

#: Old engines could not parse small stamps, hence the offset; polls and events use the same formula.
_NOTIFY_OFFSET_MS = 2**31 - 1


def mono_s() -> float:
    """Seconds of CLOCK_MONOTONIC: the same origin in every process of this host."""
    return time.monotonic()


def wall_s() -> float:
    """Seconds since the epoch."""
    return time.time()


def notify_time() -> int:
    """Milliseconds as `notify_time` of events and, as a string, `statusTime` of statistics want them.

    Take it when the state is read, not when the message is sent.
    """
    return time.monotonic_ns() // 1_000_000 + _NOTIFY_OFFSET_MS
