# SPDX-License-Identifier: Apache-2.0
"""A debugger at its prompt: it holds every thread of a process, and lets go of nothing, not even of its end.

with holding(pid):
    …
"""

import contextlib
import ctypes
import os
import subprocess
import sys
from collections.abc import Iterator

_PTRACE_ATTACH = 16


@contextlib.contextmanager
def holding(pid: int) -> Iterator[subprocess.Popen[str]]:
    """Until the block ends. What is left of the process afterwards is let go."""
    argv = [sys.executable, __file__, str(pid)]
    process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
    finally:
        process.communicate(timeout=10)


def _main(pid: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    for thread in os.listdir(f"/proc/{pid}/task"):
        if libc.ptrace(_PTRACE_ATTACH, int(thread), None, None):
            raise OSError(ctypes.get_errno(), f"attach to {thread}")
    print("held", flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    _main(int(sys.argv[1]))
