# SPDX-License-Identifier: Apache-2.0
"""Sets of processors as libvirt and the kernel write them. Pure."""

from vdsm_mp.common.digits import whole

_MOST = 4096


def numbers(text: str) -> set[int]:
    """ "0-2,^1,5" -> {0, 2, 5}. Raises: ValueError."""
    chosen: set[int] = set()
    for part in filter(None, text.strip().split(",")):
        exclude, words = part.startswith("^"), part.removeprefix("^")
        first, dash, last = words.partition("-")
        last = last if dash else first
        lowest, highest = whole(first), whole(last, most=_MOST - 1)
        if lowest is None or highest is None:
            raise ValueError(f"bad set of CPUs {text!r}")
        found = range(lowest, highest + 1)
        chosen = chosen - set(found) if exclude else chosen | set(found)
    return chosen
