# SPDX-License-Identifier: Apache-2.0
"""Run one program as root: fixed environment, own session, deadline, bounded output, never waited for in vain.

Root side, standard library only. A program that survives SIGKILL (it hangs in the kernel) is written off and counted;
past the cap nothing new is started, because each lost one holds memory and a process slot.
"""

import contextlib
import os
import signal
import subprocess
import threading
import time
from collections.abc import Sequence

from vdsm_mp.common import family

ENVIRONMENT = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8", "HOME": "/root"}
LOST_CAP = 10
_OUTPUT_LIMIT = 1 << 20
_SETPRIV = "/usr/bin/setpriv"


class Refused(Exception):
    """The request is not one that root serves; nothing has changed."""


class OperationFailed(Exception):
    """It was tried in earnest; the message is the program's or the kernel's own."""


class OutOfTime(Exception):
    """The deadline passed; the program was killed, or hangs in the kernel and was written off."""


class Children:
    """The programs that run now. `end_all` is for the helper's own end."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: set[subprocess.Popen[bytes]] = set()
        self._lost: list[subprocess.Popen[bytes]] = []
        self._closed = False

    def lost(self) -> int:
        """How many written-off programs still hang."""
        with self._lock:
            self._lost = [child for child in self._lost if child.poll() is None]
            return len(self._lost)

    def run(
        self,
        argv: Sequence[str],
        deadline_mono: float,
        *,
        pass_fds: Sequence[int] = (),
        data: bytes = b"",
        ok: Sequence[int] = (0,),
    ) -> str:
        """Run `argv` (absolute program), give back its stdout. pass_fds keep their numbers in the child.

        Raises: OperationFailed (exit status not in `ok`; the end of stderr), OutOfTime, Refused (too many lost).
        """
        if not argv[0].startswith("/"):
            raise Refused("the program has no absolute path")
        if self.lost() >= LOST_CAP:
            raise Refused(f"{LOST_CAP} earlier programs hang in the kernel; their paths must come back first")
        child = self._start(argv, pass_fds)
        try:
            out, err = child.communicate(data, timeout=max(0.05, deadline_mono - time.monotonic()))
        except subprocess.TimeoutExpired:
            self._put_down(child)
            raise OutOfTime(f"{argv[0]} did not end in time") from None
        finally:
            with self._lock:
                self._running.discard(child)
        if child.returncode not in ok:
            tail = err[-800:].decode(errors="replace").strip().replace("\n", "; ")
            raise OperationFailed(tail or f"{argv[0]} ended with status {child.returncode}")
        return out[:_OUTPUT_LIMIT].decode(errors="replace")

    def _start(self, argv: Sequence[str], pass_fds: Sequence[int]) -> subprocess.Popen[bytes]:
        with self._lock:
            if self._closed:
                raise Refused("the helper is ending")
            child = subprocess.Popen(
                # The death signal covers our own kill -9: nobody could end a root program after us.
                [_SETPRIV, "--pdeathsig", "KILL", "--", *argv],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env=ENVIRONMENT,
                cwd="/",
                pass_fds=tuple(pass_fds),
                start_new_session=True,
            )
            self._running.add(child)
            return child

    def _put_down(self, child: subprocess.Popen[bytes]) -> None:
        _kill_family(child)
        try:
            child.communicate(timeout=2)
        except subprocess.TimeoutExpired:
            with self._lock:
                self._lost.append(child)

    def end_all(self) -> None:
        """Kill what runs; waits at most two seconds."""
        with self._lock:
            self._closed = True
            running = list(self._running)
        for child in running:
            _kill_family(child)
        until = time.monotonic() + 2
        for child in running:
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(max(0.01, until - time.monotonic()))


def _kill_family(child: subprocess.Popen[bytes]) -> None:
    """Its group, and what has left that but has not been left: what is to serve a mount, before it is mounted."""
    family.kill_below(child.pid)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
