# SPDX-License-Identifier: Apache-2.0
"""A `Children` port for tests without a master: real forked I/O children of this process, ended by `stop`."""

import gc
import os
import signal
import socket
import threading
import time

from vdsm_mp.api.errors import TooManyLost
from vdsm_mp.storage import ioproc_server


class LocalChildren:
    """{(kind, name): child}. What SIGKILL cannot end within a moment counts as lost, as the master counts it."""

    def __init__(self, max_lost: int = 10) -> None:
        self.pids: dict[tuple[str, str], int] = {}
        self.lost: list[int] = []
        self.opened = 0
        self._max_lost = max_lost
        #: Several threads open children, and only one may wait for one that is lost.
        self._lock = threading.Lock()

    def open(self, kind: str, name: str, *, deadline_s: float = 5.0) -> socket.socket:
        self.close(kind, name)
        self._reap_lost()
        if len(self.lost) >= self._max_lost:
            raise TooManyLost("storage I/O")
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        gc.freeze()
        pid = os.fork()
        if pid == 0:
            # Copies of other children's sockets would keep them alive after their worker's end is closed.
            keep = theirs.fileno()
            os.closerange(3, keep)
            os.closerange(keep + 1, 1024)
            os._exit(ioproc_server.main(theirs))
        theirs.close()
        self.opened += 1
        self.pids[kind, name] = pid
        return ours

    def close(self, kind: str, name: str) -> None:
        pid = self.pids.pop((kind, name), None)
        if pid is None:
            return
        os.kill(pid, signal.SIGKILL)
        if not _reaped(pid, within_s=0.5):
            with self._lock:
                self.lost.append(pid)

    def kill(self, kind: str, name: str) -> None:
        """As if the child had crashed: nobody is told."""
        self.signal(kind, name, signal.SIGKILL)

    def signal(self, kind: str, name: str, number: int) -> None:
        os.kill(self.pids[kind, name], number)

    def wait(self, kind: str, name: str) -> None:
        """Until a killed child is really gone; it stays to be reaped by close."""
        os.waitid(os.P_PID, self.pids[kind, name], os.WEXITED | os.WNOWAIT)

    def stop(self) -> None:
        for kind, name in list(self.pids):
            self.close(kind, name)
        self._reap_lost(within_s=5)

    def _reap_lost(self, within_s: float = 0) -> None:
        with self._lock:
            self.lost = [pid for pid in self.lost if not _reaped(pid, within_s)]


def _reaped(pid: int, within_s: float) -> bool:
    end = time.monotonic() + within_s
    while True:
        try:
            if os.waitpid(pid, os.WNOHANG)[0] == pid:
                return True
        except ChildProcessError:
            return True  # by another thread that opens a child
        if time.monotonic() >= end:
            return False
        time.sleep(0.002)
