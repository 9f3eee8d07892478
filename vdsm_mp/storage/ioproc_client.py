# SPDX-License-Identifier: Apache-2.0
"""The worker's end of one I/O child: requests with deadlines, and the decision when a child is given up.

Callers are pool threads; there is no thread of our own for a domain. A request that misses its deadline is an orphan:
its caller gets an error, its slot in the child stays taken until the kernel lets go. A child whose slots are all taken,
whose oldest orphan is old, or that does not run (`ioproc_link`), is handed to the master to be killed or written off
and a new one is asked for, with a pause between attempts that grows; in the pause calls fail at once instead of piling
up.
"""

import errno
import logging
import threading
import time
from typing import Any

import msgspec

from vdsm_mp.api.errors import TooManyLost
from vdsm_mp.api.errors_storage import IoChildDied, IoTimedOut, StoragePathBlocked
from vdsm_mp.api.ports import Children
from vdsm_mp.storage.ioproc_link import Frozen, Gone, Link, NotSent
from vdsm_mp.storage.ioproc_wire import SLOTS

_log = logging.getLogger("storage.io")
_decode = msgspec.json.Decoder().decode

KIND = "storage-io"


class IoProcess:
    """Calls to the child of one root, whichever child that is at the moment. Thread-safe."""

    #: Operations that may simply be sent again when the child died under them.
    _REPEATABLE = frozenset(
        {
            "stat",
            "statvfs",
            "readdir",
            "read_directory",
            "read_volume",
            "scan",
            "read",
            "access",
            "fsync",
            "open_locked",
        }
    )

    def __init__(self, children: Children, name: str, root: str, beneath: str, *, replace_after_s: float) -> None:
        self._children = children
        self._name = name
        self._where = (root, beneath)
        self._replace_after_s = replace_after_s
        self._opening = threading.Lock()
        self._link: Link | None = None
        self._failures = 0
        self._not_before = 0.0
        self._closed = False

    def call(self, op: str, args: dict[str, Any], body: bytes = b"", *, deadline_s: float) -> Any:
        """The operation's result: bytes, a descriptor (int) for `open_locked`, or what JSON carries.

        Raises: OSError (the operation's own), IoTimedOut, IoChildDied (outcome unknown), StoragePathBlocked,
        TooManyLost (nothing was sent).
        """
        deadline = time.monotonic() + deadline_s
        for attempt in (1, 2):
            link = self._usable(deadline)
            try:
                answer = link.call(op, args, body, deadline)
                if answer.errno != errno.EBADF or attempt == 2:
                    break
                # Its root was given up while it was being opened, and could not be opened in the end: nothing ran.
                self._drop(link)
            except TimeoutError:
                raise IoTimedOut(self._label(), op, deadline_s) from None
            except Gone as gone:
                self._drop(link, frozen=str(gone) if isinstance(gone, Frozen) else "")
                if attempt == 2 or not (op in self._REPEATABLE or isinstance(gone, NotSent)):
                    raise IoChildDied(self._label(), op) from None
        self._failures = 0
        joined = b"".join(answer.parts)
        if answer.errno:
            raise OSError(answer.errno, joined.decode("utf-8", "replace"))
        if answer.fds:
            return answer.fds[0]
        return joined if answer.raw else _decode(joined)

    def health(self) -> dict[str, Any]:
        """For status: is there a child, how many requests hang in it, how often it was replaced in a row."""
        link = self._link
        stuck, oldest_s = link.orphans() if link is not None else (0, 0.0)
        return {
            "child": link is not None,
            "waiting": link.waiting() if link is not None else 0,
            "stuck": stuck,
            "stuck_s": round(oldest_s, 1),
            "replaced": self._failures,
        }

    def close(self) -> None:
        """End the child; calls that wait fail as if it had died. Does not wait."""
        with self._opening:
            self._closed = True
            link, self._link = self._link, None
        if link is not None:
            link.close()
            self._children.close(KIND, self._name)

    def _label(self) -> str:
        return "/".join(part for part in self._where if part)

    def _usable(self, deadline_mono: float) -> Link:
        link = self._link
        if link is not None:
            stuck, oldest_s = link.orphans()
            if stuck == 0 or (stuck < SLOTS and oldest_s < self._replace_after_s):
                return link
        with self._opening:
            if self._closed:
                raise StoragePathBlocked(self._label(), "it was disconnected")
            if self._link is not link and self._link is not None:  # somebody else has just replaced it
                return self._link
            now = time.monotonic()
            if now < self._not_before:
                raise StoragePathBlocked(self._label(), "earlier requests still hang in the kernel")
            # One replacement at once, another, then pauses that grow: the count of lost children is finite.
            self._failures += 1
            self._not_before = now + (0.0 if self._failures <= 1 else min(600.0, 30.0 * 2 ** (self._failures - 2)))
            if self._link is not None:
                _log.warning("I/O child of %s hangs; it is given up and replaced", self._label())
                self._link.close()
                self._link = None
            self._link = self._open(deadline_mono)
            return self._link

    def _open(self, deadline_mono: float) -> Link:
        left_s = max(0.1, deadline_mono - time.monotonic())
        try:
            link = Link(self._children.open(KIND, self._name, deadline_s=min(5.0, left_s)))
        except TooManyLost:
            self._not_before = time.monotonic() + 10.0
            raise
        root, beneath = self._where
        try:
            answer = link.call("open", {"root": root, "beneath": beneath}, b"", deadline_mono)
        except TimeoutError:
            # Left in place: it is what hangs, and the next call sees it as stuck.
            self._link = link
            raise IoTimedOut(self._label(), "open", left_s) from None
        except Gone:
            link.close()
            raise IoChildDied(self._label(), "open") from None
        if answer.errno:
            link.close()
            self._children.close(KIND, self._name)
            self._failures -= 1
            raise OSError(answer.errno, b"".join(answer.parts).decode("utf-8", "replace"))
        link.alive.pid = _decode(b"".join(answer.parts))
        return link

    def _drop(self, link: Link, *, frozen: str = "") -> None:
        with self._opening:
            if self._link is link:
                self._link = None
                if frozen:  # thawed later, it would do what its callers were told of as lost
                    _log.warning("I/O child of %s is given up: %s", self._label(), frozen)
                    self._children.close(KIND, self._name)
        link.close()
