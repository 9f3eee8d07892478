# SPDX-License-Identifier: Apache-2.0
"""Lines for syslog that hold nobody up: syslog(3) waits for ever while its daemon takes none (its disk hangs).

Called by root's helpers, which tell of each call, and by the master, which tells why it cannot start. A part of the
root side: standard library only. The first line that is not taken is waited for; those after it are not, until one is
taken again. What was lost is told with the next that is taken.
Source: RFC 3164, 4.1, as syslog(3) of glibc writes it to /dev/log.
"""

import errno
import os
import socket
import syslog
import threading
import time

#: Seconds for the daemon to take a line. It takes one in a fraction of a millisecond.
_WAITS_S = 2.0


class SystemLog:
    """tag: what the lines begin with. facility: one of syslog.LOG_…. Any thread."""

    def __init__(self, tag: str, facility: int = syslog.LOG_USER, *, path: str = "/dev/log") -> None:
        self._tag, self._facility, self._path = tag, facility, path
        self._lock = threading.Lock()
        self._socket: socket.socket | None = None
        self._lost = 0

    def say(self, level: int, text: str) -> bool:
        """False: nobody took the line. level: one of syslog.LOG_…."""
        with self._lock:
            if self._lost:
                text = f"{text} (lost before it: {self._lost})"
            stamp = time.strftime("%b %e %H:%M:%S")
            line = f"<{self._facility | level}>{stamp} {self._tag}[{os.getpid()}]: {text}"
            taken = self._send(line.encode())
            self._lost = 0 if taken else self._lost + 1
            return taken

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _send(self, line: bytes) -> bool:
        known = self._socket is not None
        wait_s = 0.0 if self._lost else _WAITS_S
        try:
            if self._socket is None:
                self._socket = _connected(self._path, wait_s)
            self._socket.settimeout(wait_s)
            if self._socket.type == socket.SOCK_STREAM:
                self._socket.sendall(line + b"\0")
            else:
                self._socket.send(line)
        except (TimeoutError, BlockingIOError):
            self.close()  # a stream may have taken half of the line: nothing more goes there
            return False
        except OSError:
            self.close()
            # A daemon that was restarted has another socket under the same name.
            return known and self._send(line)
        return True


def _connected(path: str, wait_s: float) -> socket.socket:
    """Raises: OSError. Some daemons listen for streams."""
    try:
        return _of_kind(socket.SOCK_DGRAM, path, wait_s)
    except OSError as error:
        if error.errno != errno.EPROTOTYPE:
            raise
        return _of_kind(socket.SOCK_STREAM, path, wait_s)


def _of_kind(kind: socket.SocketKind, path: str, wait_s: float) -> socket.socket:
    made = socket.socket(socket.AF_UNIX, kind)
    try:
        made.settimeout(wait_s)
        made.connect(path)
    except OSError:
        made.close()
        raise
    return made
