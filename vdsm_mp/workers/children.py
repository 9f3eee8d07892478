# SPDX-License-Identifier: Apache-2.0
"""How a worker asks the master for a process beside it: by a note, and waits for the descriptor that comes back."""

import os
import socket
import threading
from collections.abc import Callable

import msgspec

from vdsm_mp.api.errors import DeadlineExceeded, TooManyLost
from vdsm_mp.common.errors import Unavailable
from vdsm_mp.ipc import control


class ChildRefused(Unavailable):
    """The master cannot or may not fork what was asked for."""

    code = -32603
    msg = "cannot start {self.what}: {self.why}"

    def __init__(self, what: str, why: str) -> None:
        super().__init__(what, why)
        self.what = what
        self.why = why


class _Asked(msgspec.Struct, eq=False):
    """A question to the master. there: set with its answer."""

    there: threading.Event
    sock: socket.socket | None = None
    refused: str = ""


class ChildrenPort:
    """`ports.Children`. tell: gives the master a note, from any thread."""

    def __init__(self, tell: Callable[[control.Note], None]) -> None:
        self._tell = tell
        self._next = 0
        self._lock = threading.Lock()  # pool threads share the table of questions
        self._waiting: dict[int, _Asked] = {}

    def open(self, kind: str, name: str, *, deadline_s: float = 5.0) -> socket.socket:
        """See `ports.Children.open`."""
        asked = _Asked(threading.Event())
        with self._lock:
            self._next += 1
            number = self._next
            self._waiting[number] = asked
        self._tell(control.OpenChild(id=number, kind=kind, name=name))
        answered = asked.there.wait(deadline_s)
        with self._lock:
            self._waiting.pop(number, None)
        if asked.sock is not None:
            return asked.sock
        if not answered:
            raise DeadlineExceeded(f"starting a {kind} process for {name}", deadline_s)
        if asked.refused == "lost":
            raise TooManyLost(f"{kind} {name}")
        raise ChildRefused(f"{kind} {name}", asked.refused)

    def close(self, kind: str, name: str) -> None:
        """See `ports.Children.close`."""
        self._tell(control.CloseChild(kind=kind, name=name))

    def made(self, note: control.ChildMade, fds: list[int]) -> None:
        """The master's answer, on the loop."""
        with self._lock:
            asked = self._waiting.get(note.id)
            if asked is None:
                for fd in fds:
                    os.close(fd)  # who asked has given up; the child ends with this
                return
            if fds:
                asked.sock = socket.socket(fileno=fds[0])
                asked.sock.setblocking(True)
            asked.refused = note.refused
        asked.there.set()
