# SPDX-License-Identifier: Apache-2.0
"""Fills the memory of a guest from outside, so that moving it takes as long as a test needs. Needs root."""

import os
from pathlib import Path

_CHUNK = 1 << 20


def fill(qemu_pid: int, memory_mib: int, *, first_mib: int = 16) -> None:
    """Random bytes from `first_mib` up to the end: pages that do not compress. Small guests do not look there."""
    size = memory_mib << 20
    for line in Path(f"/proc/{qemu_pid}/maps").read_text().splitlines():
        begin, end = (int(number, 16) for number in line.split()[0].split("-"))
        # The RAM may have grown together with a neighbour; it is the largest by far all the same.
        if size <= end - begin < size + (8 << 20) and "rw" in line:
            break
    else:
        raise AssertionError("the guest's memory is not in QEMU's map")
    with open(f"/proc/{qemu_pid}/mem", "r+b", buffering=0) as memory:
        for offset in range(first_mib << 20, size, _CHUNK):
            memory.seek(begin + offset)
            memory.write(os.urandom(_CHUNK))
