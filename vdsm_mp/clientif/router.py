# SPDX-License-Identifier: Apache-2.0
"""From a verb's name to the worker that owns it, and the answer back. Params and results pass through sealed.

Nothing here waits without a deadline: each verb has its own. A call whose worker is just being restarted waits a
moment for the next one; whether it may be asked twice is the bus's business.
"""

import time
from collections.abc import Mapping
from typing import NamedTuple, Protocol

from vdsm_mp.api.catalogue import VERBS
from vdsm_mp.api.errors import NotSupported, StillStarting, UnknownVerb
from vdsm_mp.api.verb import Lane, VerbSpec
from vdsm_mp.clientif.gate import Gate
from vdsm_mp.clientif.limits import Limits
from vdsm_mp.clientif.turns import Turns
from vdsm_mp.common import log
from vdsm_mp.common.errors import Error, Internal
from vdsm_mp.wire import jsonrpc

logger = log.named(__name__)

#: A call that takes longer is worth a line whatever it was.
_SLOW_S = 1.0
#: The ways out of what is stuck, and what is answered from memory.
_NEVER_WAITS = (Lane.URGENT, Lane.LOOP)


class Bus(Protocol):
    async def call_raw(
        self, verb: str, params: bytes, *, deadline_s: float, flow_id: str = "", peer: str = ""
    ) -> bytes:
        """Ask the owner of a verb; the encoded result. Raises: Error."""
        ...


class Caller(NamedTuple):
    """Who asks. name: for logs and refusals. trusted: may call everything."""

    name: str
    trusted: bool


class Router:
    """built_in: verbs that the door answers from memory, with their encoded results."""

    def __init__(self, bus: Bus, gate: Gate, built_in: Mapping[str, bytes], limits: Limits) -> None:
        self.bus = bus
        self._gate = gate
        self._built_in = dict(built_in)
        self._limits = limits
        self._turns: dict[str, Turns] = {}
        #: Since start, for `status`.
        self.served = 0
        self.failed = 0

    @property
    def waiting(self) -> int:
        """Calls that wait for a place with their worker."""
        return sum(turns.waiting for turns in self._turns.values())

    def at_once(self, request: jsonrpc.Request, caller: Caller) -> bytes | VerbSpec:
        """The reply, when nobody else needs to be asked; else the verb to forward."""
        refusal: Error | None = self._gate.refuses()
        if refusal is None:
            sealed = self._built_in.get(request.method)
            if sealed is not None:
                self.served += 1
                return jsonrpc.result(request.id, sealed)
            spec = VERBS.get(request.method)
            if spec is None or spec.internal:
                refusal = UnknownVerb(jsonrpc.shown(request.method))
            elif spec.planned:
                refusal = NotSupported(spec.name)
            else:
                refusal = self._gate.forbids(spec, caller.trusted, caller.name)
                if refusal is None:
                    return spec
        return self._failure(request, refusal, caller, "")

    async def forward(self, spec: VerbSpec, request: jsonrpc.Request, caller: Caller, flow_id: str) -> bytes:
        """Ask the owner and return the reply. Raises nothing but CancelledError."""
        started = time.monotonic()
        try:
            sealed = await self._ask(spec, request.params, caller, flow_id, started)
        except Error as error:
            return self._failure(request, error, caller, flow_id, time.monotonic() - started)
        except Exception:
            logger.exception("%s of %s failed in the door flow=%s", spec.name, caller.name, flow_id)
            return self._failure(request, Internal(), caller, flow_id, time.monotonic() - started)
        took_s = time.monotonic() - started
        self.served += 1
        if not spec.safe or took_s > _SLOW_S:
            logger.info("%s done flow=%s peer=%s took=%.0fms", spec.name, flow_id, caller.name, took_s * 1000)
        # The engine cannot read a null result.
        return jsonrpc.result(request.id, b"true" if sealed == b"null" else sealed)

    async def _ask(self, spec: VerbSpec, params: bytes, caller: Caller, flow_id: str, started: float) -> bytes:
        gate, owner = self._gate, spec.owner
        if not gate.is_up(owner) and not await gate.comes_back(owner, self._limits.worker_back_s):
            raise StillStarting
        if spec.lane in _NEVER_WAITS:
            return await self._ask_now(spec, params, caller, flow_id, started)
        turns = self._turns.get(owner)
        if turns is None:
            turns = self._turns[owner] = Turns(owner, self._limits.calls_per_worker)
        await turns.take(caller, min(self._limits.turn_s, spec.deadline_s))
        try:
            return await self._ask_now(spec, params, caller, flow_id, started)
        finally:
            turns.give()

    async def _ask_now(self, spec: VerbSpec, params: bytes, caller: Caller, flow_id: str, started: float) -> bytes:
        for last in (False, True):
            left_s = spec.deadline_s - (time.monotonic() - started)
            try:
                return await self.bus.call_raw(spec.name, params, deadline_s=left_s, flow_id=flow_id, peer=caller.name)
            except StillStarting:
                # It surely has not run, so asking its next incarnation is harmless.
                if last or not await self._gate.comes_back(spec.owner, min(self._limits.worker_back_s, left_s)):
                    raise
        raise AssertionError("unreachable")

    def _failure(
        self, request: jsonrpc.Request, error: Error, caller: Caller, flow_id: str, took_s: float = 0.0
    ) -> bytes:
        self.failed += 1
        if not isinstance(error, StillStarting):
            logger.log(
                error.log_level,
                "%s failed: %s code=%d flow=%s peer=%s took=%.0fms",
                jsonrpc.shown(request.method),
                error,
                error.code,
                flow_id,
                caller.name,
                took_s * 1000,
            )
        return jsonrpc.error(request.id or jsonrpc.NULL, error.code, str(error))
