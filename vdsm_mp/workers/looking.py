# SPDX-License-Identifier: Apache-2.0
"""Looking into a running worker: where its threads and tasks are, and where its time goes. Standard library only."""

import asyncio
import sys
import threading
import time
import traceback
from collections import Counter

SAMPLE_S = 0.01
#: Frames shown of one stack, and stacks shown of one profile.
DEPTH, STACKS = 12, 25


def stacks() -> str:
    """The stack of every thread and of every task. On the loop."""
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    parts = [
        f"thread {names.get(ident, ident)}\n{''.join(traceback.format_stack(frame))}"
        for ident, frame in sys._current_frames().items()
    ]
    for task in asyncio.all_tasks():
        lines = [f"  {frame.f_code.co_filename}:{frame.f_lineno} {frame.f_code.co_name}" for frame in task.get_stack()]
        parts.append("\n".join([f"task {task.get_name()}", *lines, ""]))
    return "\n".join(parts)


def profile(seconds: float) -> str:
    """Sample all threads for some seconds (the desk bounds them); the stacks that were seen most, with their share.

    In a pool thread.
    """
    own = threading.get_ident()
    seen: Counter[tuple[str, tuple[str, ...]]] = Counter()
    rounds = 0
    ends = time.monotonic() + seconds
    while time.monotonic() < ends:
        names = {thread.ident: thread.name for thread in threading.enumerate()}
        for ident, frame in sys._current_frames().items():
            if ident != own:
                seen[names.get(ident, str(ident)), _frames(frame)] += 1
        rounds += 1
        time.sleep(SAMPLE_S)
    lines = [f"{rounds} samples in {seconds:g} s, by wall time; a thread that waits is counted where it waits"]
    for (name, frames), count in seen.most_common(STACKS):
        lines.append(f"{100 * count / max(1, rounds):5.1f} %  {name}")
        lines += [f"          {line}" for line in frames]
    return "\n".join(lines)


def _frames(frame: "object | None") -> tuple[str, ...]:
    extracted = traceback.extract_stack(frame, limit=-DEPTH)  # type: ignore[arg-type]
    return tuple(f"{f.filename.rpartition('vdsm_mp/')[2]}:{f.lineno} {f.name}" for f in extracted)
