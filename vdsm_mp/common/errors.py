# SPDX-License-Identifier: Apache-2.0
"""The root of the error tree and its families, sorted by whose turn it is.

Every error that may reach a client derives from one of the families below and carries VDSM's number in
`code` and a sentence a person can act on in `msg`, a format string over the instance (`{self.vm_id}`).
The family decides how the error is logged and whether asking again makes sense.

Classes that cross a process boundary live in `api/errors*.py`; this module only holds their parents.
"""

import logging
from typing import ClassVar


class Error(Exception):
    """Root of everything this program raises on purpose."""

    code: ClassVar[int] = 100
    msg: ClassVar[str] = "General exception"
    log_level: ClassVar[int] = logging.INFO
    #: May the same request be sent again, unchanged, with hope?
    retryable: ClassVar[bool] = False

    def __str__(self) -> str:
        return self.msg.format(self=self)

    @property
    def kept_code(self) -> int:
        """The number in a task, a job or a status: those below zero are JSON-RPC's, and mean nothing beyond it."""
        return self.code if self.code >= 0 else Error.code


class BadRequest(Error):
    """The caller's mistake; nothing has changed."""


class NotFound(Error):
    """A named thing is absent; nothing has changed."""


class Conflict(Error):
    """The thing is there, but in the wrong state, busy, or it exists already; nothing has changed."""


class Denied(Error):
    """Not allowed; nothing has changed."""

    log_level = logging.WARNING


class Failed(Error):
    """The operation was tried in earnest and did not succeed; the message says what is left behind."""

    log_level = logging.WARNING


class Unavailable(Error):
    """Not now: a deadline, a dead peer, storage that is gone. The outcome may be unknown."""

    log_level = logging.WARNING
    retryable = True


class Internal(Error):
    """A bug of ours. The traceback stays in the log, the client gets this sentence."""

    code = -32603
    msg = "Internal error"
    log_level = logging.ERROR
