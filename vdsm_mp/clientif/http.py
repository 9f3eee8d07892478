# SPDX-License-Identifier: Apache-2.0
"""HTTP on the same port: the engine stores the OVF archives of a storage domain here (PUT) and reads them (GET).

One request a connection, as the engine makes them. The data goes to storage in pieces, each written before the next
octets are read from the client; nothing is kept. An SPM task stands for each transfer: its id is in the answer.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Protocol

import msgspec

from vdsm_mp.api.errors import InvalidParameters, NotAllowed
from vdsm_mp.api.ovf_store import MAX_PIECE, CloseTransfer, Direction, OpenTransfer, ReadPiece, WritePiece
from vdsm_mp.api.verb import Message, spec_of
from vdsm_mp.clientif.httphead import BadHead, Head, parse_head
from vdsm_mp.clientif.router import Bus, Caller
from vdsm_mp.clientif.stream import Stream
from vdsm_mp.common import log
from vdsm_mp.common.errors import BadRequest, Error, Internal

logger = log.named(__name__)

MAX_HEAD = 64 * 1024
#: The engine's own limit for silence on the socket.
_SILENCE_S = 60.0
#: What was sent needs this long to arrive before the connection is closed under it. A client that was refused may
#: still be sending, and reads its answer only after that.
_LAST_WORDS_S, _HEAR_OUT_S = 0.25, 10.0
_REASONS = {200: "OK", 206: "Partial Content", 400: "Bad Request", 411: "Length Required", 500: "Internal Server Error"}
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


class Gone(Exception):
    """The client left in the middle, or is silent."""


class Gate(Protocol):
    def refuses(self) -> Error | None: ...


class Exchange:
    """One connection that speaks HTTP. ended: called once, when it is gone."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        stream: Stream,
        caller: Caller,
        *,
        bus: Bus,
        gate: Gate,
        ended: Callable[["Exchange"], None],
    ) -> None:
        self._loop = loop
        self.stream = stream
        self.caller = caller
        self._bus = bus
        self._gate = gate
        self._ended = ended
        self._octets = bytearray()
        self._came = asyncio.Event()
        self._went = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        #: Octets of the body that have not been taken from `_octets`.
        self._left = 0
        #: Requests in progress.
        self.calls = 0

    def start(self, octets: bytes) -> None:
        """Begin with what was read to find out that this is HTTP."""
        self.stream.start(self._took, self._lost, self._went.set)
        self._took(octets)
        self._task = self._loop.create_task(self._serve())
        self._task.add_done_callback(self._served)

    # What comes and goes

    def _took(self, octets: bytes) -> None:
        self._octets += octets
        if len(self._octets) >= MAX_PIECE:
            self.stream.pause()
        self._came.set()

    async def _more(self) -> None:
        """Wait for more octets. Raises: Gone."""
        self._came.clear()
        self.stream.resume()
        if not self.stream.open:
            raise Gone("it left")
        try:
            async with asyncio.timeout(_SILENCE_S):
                await self._came.wait()
        except TimeoutError:
            raise Gone(f"silent for {_SILENCE_S:g} s") from None
        if not self.stream.open:
            raise Gone("it left")

    async def _write(self, octets: bytes) -> None:
        """Send and wait until the kernel has it. Raises: Gone."""
        self._went.clear()
        self.stream.write(octets)
        try:
            async with asyncio.timeout(_SILENCE_S):
                while self.stream.open and not self.stream.idle:
                    await self._went.wait()
                    self._went.clear()
        except TimeoutError:
            raise Gone(f"it does not read for {_SILENCE_S:g} s") from None
        if not self.stream.open:
            raise Gone("it left")

    # The request

    async def _serve(self) -> None:
        self.calls = 1
        try:
            head = await self._head()
            if not self.caller.trusted:
                raise NotAllowed(self.caller.name, f"HTTP {head.method}")
            if (refusal := self._gate.refuses()) is not None:
                raise refusal
            if head.method == "PUT":
                await self._put(head)
            else:
                await self._get(head)
        except BadHead as error:
            await self._fail(error.status, -32600, str(error))
        except BadRequest as error:
            await self._fail(400 if isinstance(error, InvalidParameters) else 500, error.code, str(error))
        except Error as error:
            await self._fail(500, error.code, str(error))
        except Gone as error:
            logger.info("HTTP of %s: %s", self.caller.name, error)
        except Exception:
            logger.exception("HTTP of %s failed in the door", self.caller.name)
            await self._fail(500, Internal.code, Internal.msg)
        self.calls = 0
        await asyncio.sleep(_LAST_WORDS_S)

    async def _hear_out(self) -> None:
        """Throw away the rest of the body, or what comes of it in a time that is long enough for honest clients."""
        try:
            async with asyncio.timeout(_HEAR_OUT_S):
                while self._left > 0:
                    self._left -= len(self._octets)
                    self._octets.clear()
                    await self._more()
        except (Gone, TimeoutError):
            return

    async def _head(self) -> Head:
        while (end := self._octets.find(b"\r\n\r\n")) < 0:
            if len(self._octets) > MAX_HEAD:
                break
            await self._more()
        if end < 0 or end > MAX_HEAD:
            raise BadHead(400, "The request's head is too large")
        head = parse_head(bytes(self._octets[:end]))
        del self._octets[: end + 4]
        self._left = head.content_length
        return head

    @asynccontextmanager
    async def _transfer(self, head: Head, direction: Direction, length: int) -> AsyncIterator[str]:
        """A transfer in storage, closed at the end with what went wrong inside."""
        ask = OpenTransfer(
            direction=direction,
            pool_id=head.pool_id,
            sd_id=head.sd_id,
            image_id=head.image_id,
            volume_id=head.volume_id,
            length_bytes=length,
        )
        task_id = msgspec.json.decode(await self._ask(ask), type=str)
        try:
            yield task_id
        except BaseException as error:
            # Also when this exchange is cancelled: whoever waits for the task must hear of it.
            problem = str(error) or type(error).__name__
            await asyncio.shield(self._close(task_id, problem))
            raise
        await self._ask(CloseTransfer(task_id=task_id))

    async def _close(self, task_id: str, problem: str) -> None:
        try:
            await self._ask(CloseTransfer(task_id=task_id, problem=problem))
        except Error as error:
            logger.warning("transfer %s ends by itself: %s", task_id, error)

    async def _ask(self, message: Message) -> bytes:
        spec = spec_of(type(message))
        sealed = msgspec.json.encode(message)
        return await self._bus.call_raw(spec.name, sealed, deadline_s=spec.deadline_s, peer=self.caller.name)

    async def _put(self, head: Head) -> None:
        length = head.content_length
        async with self._transfer(head, Direction.TO_VOLUME, length) as task_id:
            if head.expects_continue:
                await self._write(_CONTINUE)
            done = 0
            while done < length:
                wanted = min(MAX_PIECE, length - done)
                while len(self._octets) < wanted:
                    await self._more()
                piece = bytes(self._octets[:wanted])
                del self._octets[:wanted]
                self._left -= wanted
                await self._ask(WritePiece(task_id=task_id, offset_bytes=done, data=piece))
                done += wanted
        logger.info("volume %s written by %s: %d octets, task %s", head.volume_id, self.caller.name, length, task_id)
        await self._write(_answer(200, (("Task-Id", task_id), ("Content-Length", "0"))))

    async def _get(self, head: Head) -> None:
        length = head.last + 1
        async with self._transfer(head, Direction.FROM_VOLUME, length) as task_id:
            headers = (
                ("Content-Type", "application/octet-stream"),
                ("Content-Length", str(length)),
                ("Content-Range", f"bytes 0-{head.last}"),
                ("Task-Id", task_id),
            )
            done = 0
            while done < length:
                wanted = min(MAX_PIECE, length - done)
                ask = ReadPiece(task_id=task_id, offset_bytes=done, length_bytes=wanted)
                piece = msgspec.json.decode(await self._ask(ask), type=bytes)
                # The head leaves with the first piece: until then an error can still be told.
                await self._write(_answer(206, headers) + piece if done == 0 else piece)
                done += wanted
        logger.info("volume %s read by %s: %d octets, task %s", head.volume_id, self.caller.name, length, task_id)

    async def _fail(self, status: int, code: int, message: str) -> None:
        logger.warning("HTTP of %s answered %d: %s code=%d", self.caller.name, status, message, code)
        body = msgspec.json.encode({"status": {"code": code, "message": message}})
        headers = (("Content-Type", "application/json"), ("Content-Length", str(len(body))))
        try:
            await self._write(_answer(status, headers) + body)
        except Gone:
            return
        self.calls = 0
        await self._hear_out()

    # The end

    def _served(self, task: "asyncio.Task[None]") -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("HTTP of %s broke the door", self.caller.name, exc_info=error)
        self.close()

    def _lost(self, why: str) -> None:
        self._came.set()
        self._went.set()
        self._ended(self)

    def take_no_more(self) -> None:
        """Its one request may come to its end."""

    def reset(self) -> None:
        """Close with RST; what was in progress is told that it failed."""
        if self._task is not None:
            self._task.cancel()
        if self.stream.open:
            self.stream.reset()
            self._ended(self)

    def close(self) -> None:
        """Close with FIN."""
        if self.stream.open:
            self.stream.close()
            self._ended(self)


def _answer(status: int, headers: tuple[tuple[str, str], ...]) -> bytes:
    lines = [f"HTTP/1.1 {status} {_REASONS[status]}", *(f"{name}: {value}" for name, value in headers)]
    return ("\r\n".join([*lines, "Connection: close"]) + "\r\n\r\n").encode("latin-1")
