# SPDX-License-Identifier: Apache-2.0
"""Errors that cross a process boundary: the ones every room may meet. Rooms' own are in `errors_*.py` beside this.

On the bus an error travels as (code, name, message, details); the receiver makes the same class again by name from
`by_name`, never by importing what the wire says, and an unknown name becomes `RemoteError`.
"""

from vdsm_mp.common.command import CommandAborted, CommandFailed, CommandOverdue
from vdsm_mp.common.errors import BadRequest, Conflict, Denied, Error, Failed, Unavailable

__all__ = ["CommandAborted", "CommandFailed", "CommandOverdue"]


class InvalidParameters(BadRequest):
    """A parameter is missing or has the wrong type; `detail` says which and where."""

    code = -32602
    msg = "Invalid parameters for {self.verb}: {self.detail}"

    def __init__(self, verb: str, detail: str) -> None:
        super().__init__(verb, detail)
        self.verb = verb
        self.detail = detail


class UnknownVerb(BadRequest):
    code = -32601
    msg = "unknown verb: {self.verb}"

    def __init__(self, verb: str) -> None:
        super().__init__(verb)
        self.verb = verb


class NotSupported(BadRequest):
    """Declared, but not built yet (or not by design)."""

    code = -32601
    msg = "{self.verb} is not supported by this host yet"

    def __init__(self, verb: str) -> None:
        super().__init__(verb)
        self.verb = verb


class StillStarting(Unavailable):
    """The call has surely not run: the worker that would answer is not ready."""

    code = 99
    msg = "Recovering from crash or Initializing"


class PeerRestarted(Unavailable):
    """The worker died while it had the call. A call that changes something may have run; nothing repeats it."""

    code = -32603
    msg = "The {self.worker} worker died while it served {self.verb}; the operation may have run"

    def __init__(self, worker: str, verb: str) -> None:
        super().__init__(worker, verb)
        self.worker = worker
        self.verb = verb


class DeadlineExceeded(Unavailable):
    """No answer in time. The operation may still run; a late answer is dropped."""

    code = -32603
    msg = "{self.what} did not end within {self.seconds:g} s; it may still be running"

    def __init__(self, what: str, seconds: float) -> None:
        super().__init__(what, seconds)
        self.what = what
        self.seconds = float(seconds)


class Busy(Unavailable):
    """A bounded queue is full; the call has not run."""

    code = -32603
    msg = "{self.what} is busy; try again later"

    def __init__(self, what: str) -> None:
        super().__init__(what)
        self.what = what


class TooManyLost(Unavailable):
    """The cap of children that even SIGKILL could not end is reached."""

    code = -32603
    msg = "{self.what}: too many processes hang in the kernel; storage paths must come back first"

    def __init__(self, what: str) -> None:
        super().__init__(what)
        self.what = what


class NotAllowed(Denied):
    code = -32603
    msg = "{self.who} may not call {self.verb}"

    def __init__(self, who: str, verb: str) -> None:
        super().__init__(who, verb)
        self.who = who
        self.verb = verb


class PrivilegedFailed(Failed):
    """The root helper refused or failed; `detail` is its own sentence."""

    code = 100
    msg = "{self.operation} failed: {self.detail}"

    def __init__(self, operation: str, detail: str) -> None:
        super().__init__(operation, detail)
        self.operation = operation
        self.detail = detail


class RootHelperGone(Unavailable):
    """The root helper died while it had the call (which may have run), or could not be started."""

    code = 100
    msg = "The root helper for {self.helper} is gone: {self.operation}"

    def __init__(self, helper: str, operation: str) -> None:
        super().__init__(helper, operation)
        self.helper = helper
        self.operation = operation


class SystemRefused(Failed):
    """The host's own system refused something that nobody expected to be refused: a full or read-only file system, no
    more descriptors, a program that is not there. The log has the traceback; the message says what is wrong.
    """

    code = -32603
    msg = "The host's system refused: {self.reason}"

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason

    @classmethod
    def because(cls, error: OSError) -> "SystemRefused":
        """As in `No space left on device: '/run/vdsm/storage/…'`."""
        where = "" if error.filename is None else f": {error.filename!r}"
        return cls(f"{error.strerror or error}{where}")


class ResourceUnavailable(Conflict):
    code = -32603
    msg = "{self.what} is in use: {self.holder}"

    def __init__(self, what: str, holder: str) -> None:
        super().__init__(what, holder)
        self.what = what
        self.holder = holder


class RemoteError(Error):
    """An error of another process whose class this one does not know; code and sentence are kept."""

    msg = "{self.message}"

    def __init__(self, code: int, message: str) -> None:
        super().__init__(code, message)
        self.code = code  # type: ignore[misc]
        self.message = message


def by_name() -> dict[str, type[Error]]:
    """{class name: class} of every concrete error class imported so far. Names are unique; a clash is a TypeError."""
    found: dict[str, type[Error]] = {}
    waiting = [Error]
    while waiting:
        for cls in waiting.pop().__subclasses__():
            if found.setdefault(cls.__name__, cls) is not cls:
                raise TypeError(f"two error classes are called {cls.__name__}")
            waiting.append(cls)
    return found
