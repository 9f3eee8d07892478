# SPDX-License-Identifier: Apache-2.0
"""What a program has begun, and its end. Copied to root's side (`priv/install.py`): standard library only."""

import os
import signal
from contextlib import suppress
from pathlib import Path


def kill_below(pid: int) -> None:
    """SIGKILL for the children of a process, theirs, and so on; not for itself, nor for who runs with other rights.

    As far as nobody between has ended: a daemon that was let go is nobody's child any more.
    """
    for one in _descendants(pid):
        with suppress(ProcessLookupError, PermissionError):
            os.kill(one, signal.SIGKILL)


def _descendants(pid: int) -> list[int]:
    found = []
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(OSError):  # gone meanwhile
            for child in map(int, path.read_text(encoding="ascii").split()):
                found += [child, *_descendants(child)]
    return found
