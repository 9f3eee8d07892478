# SPDX-License-Identifier: Apache-2.0
"""The pulse of a connection to libvirt: how a frozen libvirtd is told from one whose guests hang."""

import socket
import threading
import time
from collections.abc import Callable
from typing import Any

import libvirt

#: Seconds between two beats, and without an answer until libvirtd counts as frozen.
PULSE_S = 2.0
SILENT_S = 7.0


class Pulse:
    """Asks libvirtd for its version, again and again; libvirtd answers that even when all guests hang.

    also: done after each beat; it may take a second or two.
    """

    def __init__(self, conn: Any, sock: socket.socket | None, also: Callable[[], None]) -> None:
        self._conn = conn
        self._also = also
        self._answered_mono = time.monotonic()
        self._socket = sock
        self._stop = threading.Event()

    def start(self) -> bool:
        """False when there is no socket that could be shut down."""
        if self._socket is None:
            return False
        threading.Thread(target=self._beat, name="libvirt-pulse", daemon=True).start()
        return True

    def stop(self) -> None:
        """No more beats; the thread lets go of the connection when the one under way has ended."""
        self._stop.set()

    def silent_s(self) -> float:
        return 0.0 if self._socket is None else time.monotonic() - self._answered_mono

    def sever(self) -> bool:
        """Shut the socket down: every call that waits for libvirtd fails now. False when it is gone already."""
        try:
            if self._socket is not None:
                self._socket.shutdown(socket.SHUT_RDWR)
        except OSError:
            return True  # libvirt closed it; the callback is under way
        return self._socket is not None

    def _beat(self) -> None:
        conn, self._conn = self._conn, None
        while conn is not None:
            try:
                conn.getLibVersion()
            except libvirt.libvirtError:
                break
            self._answered_mono = time.monotonic()
            self._also()
            if self._stop.wait(PULSE_S) or not conn.isAlive():
                break
        if self._socket is not None:
            self._socket.close()
