# SPDX-License-Identifier: Apache-2.0
"""A connection to libvirt on which a call may hang, kept apart from the one that everything else goes through.

libvirtd serves only a few requests of one connection at a time (five, unless configured otherwise) and does not read
the next ones meanwhile. So a call that hangs in a stuck QEMU keeps its connection to itself: it is left behind with
its thread until QEMU answers or ends, and the next call gets a new connection. Bounded by who asks: `hanging`.
"""

import threading
from collections.abc import Callable
from typing import Any

import libvirt

from vdsm_mp.common import log
from vdsm_mp.common.errors import Error
from vdsm_mp.virt.connection import Connection

logger = log.named(__name__)


#: A call that is only slow is left, too, when its patience was over so often.
_MOST_PATIENCE = 20


def _surely(conn: Any) -> bool:
    return True


class Spare:
    """See the module. Any thread."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._conn: Any = None
        self._lock = threading.Lock()
        self._hanging = 0

    @property
    def hanging(self) -> int:
        """Calls that were left behind and have not come back."""
        return self._hanging

    def ask(
        self, name: str, work: Callable[[Any], object], *, patience_s: float, hangs: Callable[[Any], bool] = _surely
    ) -> bool:
        """Run work(virConnect) in a thread of its own; False when it was left behind.

        hangs(another virConnect): asked each time the patience is over whether it hangs or is only slow.
        What it raises later goes to the log. Raises: LibvirtUnavailable, and what `work` or `hangs` raised.
        """
        conn, other = self._open(), None
        call = _Call(name, work, conn, self._came_back)
        call.start()
        try:
            for _ in range(_MOST_PATIENCE):
                if call.ended(patience_s):
                    return True
                other = other or self._connection.another()
                if hangs(other):
                    break
        finally:
            left = call.left()
            if left:
                with self._lock:
                    if self._conn is conn:
                        self._conn = other
        return not left

    def _open(self) -> Any:
        with self._lock:
            if self._conn is None or not self._conn.isAlive():
                self._conn = self._connection.another()
            return self._conn

    def _came_back(self, change: int) -> None:
        with self._lock:
            self._hanging += change


class _Call:
    """One call. left: nobody waits for it any more; counted from then on."""

    def __init__(self, name: str, work: Callable[[Any], object], conn: Any, count: Callable[[int], None]) -> None:
        self._name = name
        self._work = work
        self._conn = conn
        self._count = count
        self._lock = threading.Lock()
        self._done = threading.Event()
        self._left = False
        self._error: BaseException | None = None

    def start(self) -> None:
        threading.Thread(target=self._run, name=self._name, daemon=True).start()

    def ended(self, patience_s: float) -> bool:
        """Wait. Raises: what the work raised."""
        if not self._done.wait(patience_s):
            return False
        if self._error is not None:
            raise self._error
        return True

    def left(self) -> bool:
        """Nobody waits any more. False: it has ended."""
        with self._lock:
            if self._done.is_set():
                return False
            self._left = True
            self._count(1)
            return True

    def _run(self) -> None:
        try:
            self._work(self._conn)
        except (Error, libvirt.libvirtError) as error:
            self._error = error
        finally:
            # The last reference closes the connection; an explicit close would cut off other calls on it.
            self._conn = None
            with self._lock:
                self._done.set()
                if self._left:
                    self._count(-1)
                    if self._error is not None:
                        logger.info("%s came back with: %s", self._name, self._error)
