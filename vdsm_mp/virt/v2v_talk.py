# SPDX-License-Identifier: Apache-2.0
"""Start `v2v_child`, with a deadline, and take what it says. A few at a time; blocks."""

import contextlib
import json
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

from vdsm_mp.api.errors import Busy
from vdsm_mp.api.errors_virt import BadConversion, BadOva, ForeignHypervisorFailed
from vdsm_mp.common import command, log
from vdsm_mp.common.command import CommandFailed, CommandOverdue

logger = log.named(__name__)

#: Of listings and looks: each costs a process and maybe minutes of a thread.
_AT_ONCE = 4
_LINE_BYTES = 16 << 20
_ERRORS = {error.__name__: error for error in (BadConversion, BadOva, ForeignHypervisorFailed)}
_turns = threading.BoundedSemaphore(_AT_ONCE)

At = Callable[[int, int, float], None]


@contextlib.contextmanager
def turn() -> Iterator[None]:
    """Raises: Busy."""
    if not _turns.acquire(timeout=1.0):
        raise Busy("looks at foreign VMs")
    try:
        yield
    finally:
        _turns.release()


def talk(
    ask: dict[str, Any],
    *,
    deadline_s: float,
    program: tuple[str, ...] = (),
    at: At = lambda disk, of, pct: None,
    abort: Callable[[], bool] | None = None,
) -> Any:
    """The child's result. program: what it is run by (nice). at: progress of a copy: disk, of how many, percent.

    Raises: what the child found, ForeignHypervisorFailed or BadOva when it took too long, CommandAborted.
    """
    failed = BadOva if "path" in ask else ForeignHypervisorFailed
    said = _Lines(at)
    words = [*program, sys.executable, "-m", "vdsm_mp.virt.v2v_child"]
    try:
        command.run(
            words,
            deadline_s=deadline_s,
            stdin=json.dumps(ask).encode(),
            # Nobody is there whom ssh could ask.
            env={"SSH_ASKPASS_REQUIRE": "never", "SSH_ASKPASS": "", "DISPLAY": ""},
            on_output=said.take,
            abort=abort,
            end_group=True,
        )
    except CommandOverdue as error:
        raise failed(f"it did not answer within {deadline_s:g} s") from error
    except CommandFailed as error:
        # Its stderr is libvirt's or Python's, and may hold what it was given.
        logger.warning("a look at foreign VMs ended with status %d", error.status)
        raise failed(f"looking at it took too much, or failed (status {error.status})") from error
    last = said.last
    if "error" in last:
        raise _ERRORS[last["error"]](last["reason"])
    return last.get("result")


class _Lines:
    """What the child says, line by line; the last one counts."""

    def __init__(self, at: At) -> None:
        self._at = at
        self._rest = b""
        self.last: dict[str, Any] = {}

    def take(self, piece: bytes) -> None:
        *lines, self._rest = (self._rest + piece).split(b"\n")
        if len(self._rest) > _LINE_BYTES:
            raise CommandFailed("v2v_child", 0, "it says too much")
        for line in lines:
            self.last = json.loads(line)
            if "at" in self.last:
                self._at(*self.last["at"])
            elif "skipped" in self.last:
                logger.warning("foreign VM %r is left out: %s", self.last["skipped"], self.last["reason"])
