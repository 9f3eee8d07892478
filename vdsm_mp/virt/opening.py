# SPDX-License-Identifier: Apache-2.0
"""One open() of libvirt, in a thread that can be left behind; and the socket of what was opened."""

import os
import socket
import threading
import time
from pathlib import Path
from typing import Any

import libvirt


class Attempt:
    """One open() in a thread of its own. Whoever comes second, result or deadline, cleans up."""

    def __init__(self, uri: str, slot: threading.Semaphore) -> None:
        self._uri = uri
        self._slot = slot
        self._lock = threading.Lock()
        self._abandoned = False
        self._done = threading.Event()
        self._conn: Any = None
        self._sock: socket.socket | None = None
        self._why_not = ""
        threading.Thread(target=self._run, name="libvirt-open", daemon=True).start()

    def wait(self, deadline_s: float, stopping: threading.Event) -> tuple[Any, socket.socket | None, str]:
        """(virConnect, a duplicate of its socket if it has one, why not)."""
        until = time.monotonic() + deadline_s
        while not self._done.wait(0.1) and time.monotonic() < until and not stopping.is_set():
            pass
        with self._lock:
            if not self._done.is_set():
                self._abandoned = True
                return None, None, f"no answer to open within {deadline_s:g} s"
        return self._conn, self._sock, self._why_not

    def _run(self) -> None:
        conn = sock = None
        before = connected()
        try:
            conn = libvirt.open(self._uri)
            sock = _new_socket(before)
        except libvirt.libvirtError as error:
            self._why_not = error.get_error_message() or str(error)
        finally:
            self._slot.release()
        with self._lock:
            self._conn, self._sock = conn, sock
            self._done.set()
            if not self._abandoned:
                return
        if sock is not None:
            sock.close()
        if conn is not None:
            conn.close()


def connected() -> dict[int, int]:
    """{inode: descriptor} of our connections to libvirt daemons."""
    found: dict[int, int] = {}
    for number in map(int, os.listdir("/proc/self/fd")):
        try:
            if not Path(f"/proc/self/fd/{number}").readlink().name.startswith("socket:"):
                continue
            with socket.socket(fileno=os.dup(number)) as peer:
                name = peer.getpeername() if peer.family == socket.AF_UNIX else b""
                inode = os.fstat(number).st_ino
        except OSError:
            continue  # closed meanwhile, or not connected
        path = name.decode(errors="replace") if isinstance(name, bytes) else str(name)
        if path.endswith(("/libvirt-sock", "/virtqemud-sock")):
            found[inode] = number
    return found


def _new_socket(before: dict[int, int]) -> socket.socket | None:
    """A duplicate of the socket that was opened since. libvirt has no call that tells its descriptor."""
    new = [number for inode, number in connected().items() if inode not in before]
    try:
        return socket.socket(fileno=os.dup(max(new))) if new else None
    except OSError:
        return None  # it was another's, and closed meanwhile
