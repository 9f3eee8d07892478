# SPDX-License-Identifier: Apache-2.0
"""The calls of one client that wait for workers: each request a task, its answers given back as one reply."""

import asyncio
from collections.abc import Callable

from vdsm_mp.clientif.router import Caller, Router
from vdsm_mp.common import log
from vdsm_mp.wire import jsonrpc

logger = log.named(__name__)


class InFlight:
    """On the loop only. The session is known to its tasks alone, so that it is freed as soon as they are over."""

    def __init__(self, loop: asyncio.AbstractEventLoop, router: Router, caller: Caller) -> None:
        self._loop = loop
        self._router = router
        self._caller = caller
        self._tasks: set[asyncio.Task[None]] = set()
        self.calls = 0

    def start(
        self, parsed: jsonrpc.Parsed, flow_id: str, reply: Callable[[bytes], None], ended: Callable[[int], None]
    ) -> None:
        """Serve all that one request asks for. ended: given the number of calls that are over, replied to or not."""
        calls = len(parsed.items)
        self.calls += calls
        task = self._loop.create_task(self._serve(parsed, flow_id, reply))
        self._tasks.add(task)
        task.add_done_callback(lambda done: self._finished(done, calls, ended))

    def _finished(self, task: "asyncio.Task[None]", calls: int, ended: Callable[[int], None]) -> None:
        self._tasks.discard(task)
        self.calls -= calls
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("a call of %s broke the door", self._caller.name, exc_info=error)
        ended(calls)

    async def _serve(self, parsed: jsonrpc.Parsed, flow_id: str, reply: Callable[[bytes], None]) -> None:
        if not parsed.batch:
            body = await self._answer(parsed.items[0], flow_id)
        else:
            async with asyncio.TaskGroup() as group:
                parts = [group.create_task(self._answer(item, flow_id)) for item in parsed.items]
            bodies = [answer for part in parts if (answer := part.result())]
            body = jsonrpc.batch(bodies) if bodies else b""
        if body:
            reply(body)

    async def _answer(self, item: jsonrpc.Request | jsonrpc.Refused, flow_id: str) -> bytes:
        """One item's reply; empty for a notification, which nobody waits for."""
        if isinstance(item, jsonrpc.Refused):
            return jsonrpc.error(item.id, item.code, item.message)
        reply = self._router.at_once(item, self._caller)
        if not isinstance(reply, bytes):
            reply = await self._router.forward(reply, item, self._caller, flow_id)
        return reply if item.id else b""

    def cancel(self) -> None:
        """Nobody is left to hear the answers; the workers go on, as with any late reply."""
        for task in self._tasks:
            task.cancel()
