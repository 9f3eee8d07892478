# SPDX-License-Identifier: Apache-2.0
"""HTTP on the same port: the engine stores and reads back the OVF archives of a storage domain here (PUT, GET).

One request a connection, as the engine makes them. Until storage can take the data, the answer is an honest error.
"""

import asyncio
from collections.abc import Callable

import msgspec

from vdsm_mp.clientif.router import Caller
from vdsm_mp.clientif.stream import Stream
from vdsm_mp.common import log

logger = log.named(__name__)

MAX_HEAD = 64 * 1024
_HEAD_S = 60.0
#: What was sent needs this long to arrive before the connection is closed under it.
_LAST_WORDS_S = 0.25
_REASONS = {400: "Bad Request", 500: "Internal Server Error", 501: "Not Implemented"}


class Exchange:
    """One connection that speaks HTTP. ended: called once, when it is gone."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, stream: Stream, caller: Caller, ended: Callable[["Exchange"], None]
    ) -> None:
        self._loop = loop
        self.stream = stream
        self.caller = caller
        self._ended = ended
        self._head = b""
        #: Transfers in progress.
        self.calls = 0
        self._deadline = loop.call_later(_HEAD_S, self.reset)

    def start(self, octets: bytes) -> None:
        """Begin with what was read to find out that this is HTTP."""
        self.stream.start(self._took, self._lost, _nothing)
        self._took(octets)

    def _took(self, octets: bytes) -> None:
        self._head += octets
        if b"\r\n\r\n" in self._head or b"\n\n" in self._head:
            logger.warning("%s asked for %s by HTTP", self.caller.name, self._head[:3].decode("ascii", "replace"))
            self._answer(501, -32601, "Transfer of OVF stores by HTTP is not supported by this host yet")
        elif len(self._head) > MAX_HEAD:
            self._answer(400, -32600, "The request's head is too large")

    def _answer(self, status: int, code: int, message: str) -> None:
        body = msgspec.json.encode({"status": {"code": code, "message": message}})
        head = (
            f"HTTP/1.1 {status} {_REASONS[status]}\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        )
        self.stream.write(head.encode("ascii") + body)
        self.stream.pause()
        self._deadline.cancel()
        self._deadline = self._loop.call_later(_LAST_WORDS_S, self.close)

    def _lost(self, why: str) -> None:
        self._deadline.cancel()
        self._ended(self)

    def reset(self) -> None:
        """Close with RST."""
        self._deadline.cancel()
        if self.stream.open:
            self.stream.reset()
            self._ended(self)

    def close(self) -> None:
        """Close with FIN."""
        self._deadline.cancel()
        if self.stream.open:
            self.stream.close()
            self._ended(self)


def _nothing() -> None:
    """Everything is written at once."""
