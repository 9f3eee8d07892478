# SPDX-License-Identifier: Apache-2.0
"""The door: brings newcomers in, keeps the count, and sends everybody home.

The socket is the master's: it stays open while this worker restarts. Limits are by address and in all; when file
descriptors run out accepting pauses, and those inside are served on.
"""

import asyncio
import socket
from collections import Counter

import msgspec

from vdsm_mp.clientif.accepting import Accepting
from vdsm_mp.clientif.arrival import Arrival, Protocol
from vdsm_mp.clientif.gate import Authorisation, Gate
from vdsm_mp.clientif.grumbles import Grumbles
from vdsm_mp.clientif.http import Exchange
from vdsm_mp.clientif.limits import Limits
from vdsm_mp.clientif.newcomers import Newcomers
from vdsm_mp.clientif.peers import check_peer
from vdsm_mp.clientif.quota import Quota
from vdsm_mp.clientif.router import Caller, Router
from vdsm_mp.clientif.session import Session
from vdsm_mp.clientif.stream import Stream, Unread, close_by_reset, reset
from vdsm_mp.clientif.subscriptions import Broker
from vdsm_mp.clientif.trim import Trim
from vdsm_mp.common import log
from vdsm_mp.wire.tls import Peer, ServerTls

logger = log.named(__name__)

_LAST_WORDS_S = 0.25


class Policy(msgspec.Struct, frozen=True):
    """What the configuration says. tls: None = clear text. verify_names: `verify_client_cert`."""

    request_queues: tuple[str, ...]
    tls: ServerTls | None
    verify_names: bool = False
    http: bool = True


class Server:
    """See the module. On the loop only, but for `drain`, which waits for the loop from outside."""

    def __init__(
        self,
        listener: socket.socket,
        policy: Policy,
        *,
        gate: Gate,
        authorisation: Authorisation,
        router: Router,
        broker: Broker,
        limits: Limits,
    ) -> None:
        self._listener = listener
        self.policy = policy
        self._gate = gate
        self._authorisation = authorisation
        self._router = router
        self._broker = broker
        self._limits = limits
        self._sessions: dict[Session | Exchange, str] = {}
        #: Refused, and still open for the little time that the reason needs to arrive.
        self._shut: set[socket.socket] = set()
        self._by_address: Counter[str] = Counter()
        #: {address: sessions}
        self._inside: Counter[str] = Counter()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._newcomers: Newcomers | None = None
        self._trim: Trim | None = None
        self._unread = Unread()
        self._quota: Quota | None = None
        self._accepting: Accepting | None = None
        self._grumbles = Grumbles()
        self.counts: Counter[str] = Counter()

    def open(self) -> None:
        """Begin to accept, on the running loop."""
        self._loop = loop = asyncio.get_running_loop()
        self._newcomers = Newcomers(loop, self._inside.__contains__)
        self._trim = Trim(loop)
        self._quota = Quota(self._limits, self._stomp_sessions, self._unread)
        # The kernel hands it on to each connection, which saves six calls at each in a crowd.
        self._prepare(self._listener)
        self._accepting = Accepting(loop, self._listener, self._arrive, self._paused)
        self._accepting.start()

    def _prepare(self, sock: socket.socket) -> None:
        # So that even a sudden death of this process, or a refusal, is noticed by the engine.
        close_by_reset(sock)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        # Neither client sends heart-beats, so only the kernel can find out that one has vanished.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 60)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 20)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(self._limits.vanished_s * 1000))

    def _paused(self, error: OSError) -> None:
        self.counts["accept_pauses"] += 1
        self._grumbles.say("accepting pauses: %s", error)

    def _arrive(self, sock: socket.socket, address: str, port: int) -> None:
        assert self._loop is not None and self._newcomers is not None
        self.counts["accepted"] += 1
        if len(self._sessions) >= self._limits.connections:
            self._turn_away(sock, address, f"{len(self._sessions)} connections are open")
            return
        if self._by_address[address] >= self._limits.connections_per_address:
            self._turn_away(sock, address, f"it has {self._by_address[address]} connections already")
            return
        if len(self._newcomers) >= self._limits.arrivals:
            self._push_out(self._newcomers.one_to_push_out())
        self._by_address[address] += 1
        try:
            sock.setblocking(False)
            if not sock.getsockopt(socket.SOL_SOCKET, socket.SO_LINGER):
                # It came before the listener was prepared.
                self._prepare(sock)
        except OSError:
            # Gone already.
            self._leave(address)
            sock.close()
            return
        tls = self.policy.tls
        arrival = Arrival(
            self._loop,
            sock,
            address,
            port,
            limits=self._limits,
            context=None if tls is None else tls.context,
            knocked=self._newcomers.queue_step,
            check=self._check if tls is not None and (tls.crl_expired or self.policy.verify_names) else None,
            ready=self._welcome,
            refused=self._refused,
        )
        self._newcomers.add(arrival)
        arrival.start()

    def _push_out(self, arrival: Arrival) -> None:
        self._forget(arrival)
        self.counts["pushed_out"] += 1
        arrival.reset()
        self._leave(arrival.address)
        self._grumbles.say("pushed %s out: others want to come in", arrival.address)

    def _turn_away(self, sock: socket.socket, address: str, why: str) -> None:
        self.counts["turned_away"] += 1
        reset(sock)
        self._grumbles.say("turned %s away: %s", address, why)

    def _forget(self, arrival: Arrival) -> None:
        assert self._newcomers is not None
        self._newcomers.remove(arrival)

    async def _check(self, peer: Peer, address: str) -> None:
        assert self.policy.tls is not None
        await check_peer(self.policy.tls, peer, address, names=self.policy.verify_names)

    def _welcome(self, arrival: Arrival, protocol: Protocol, octets: bytes) -> None:
        assert self._loop is not None and self._quota is not None
        self._forget(arrival)
        if protocol is Protocol.HTTP and not self.policy.http:
            self._refused(arrival, "HTTP is switched off")
            return
        if len(self._sessions) >= self._limits.connections:
            self._refused(arrival, f"{len(self._sessions)} connections are open")
            return
        name = f"[{arrival.address}]:{arrival.port}" if ":" in arrival.address else f"{arrival.address}:{arrival.port}"
        caller = Caller(name, self._authorisation.trusts(arrival.peer, arrival.address))
        stream = Stream(self._loop, arrival.sock, self._unread)
        session: Session | Exchange
        if protocol is Protocol.HTTP:
            session = Exchange(self._loop, stream, caller, bus=self._router.bus, gate=self._gate, ended=self._ended)
        else:
            session = Session(
                self._loop,
                stream,
                caller,
                router=self._router,
                broker=self._broker,
                quota=self._quota,
                request_queues=self.policy.request_queues,
                limits=self._limits,
                ended=self._ended,
            )
        self._sessions[session] = arrival.address
        self._inside[arrival.address] += 1
        session.start(octets)

    def _refused(self, arrival: Arrival, why: str) -> None:
        self._forget(arrival)
        self._leave(arrival.address)
        self.counts["refused"] += 1
        # Reset a little later: what OpenSSL has told it comes first. No FIN: behind that it would not see the reset.
        assert self._loop is not None
        self._shut.add(arrival.sock)
        self._loop.call_later(_LAST_WORDS_S, self._close, arrival.sock)
        self._grumbles.say("refused %s: %s", f"{arrival.address}:{arrival.port}", why)

    def _close(self, sock: socket.socket) -> None:
        self._shut.discard(sock)
        sock.close()

    def _ended(self, session: Session | Exchange) -> None:
        address = self._sessions.pop(session, None)
        if address is None:
            return
        _count_down(self._inside, address)
        self._leave(address)
        if isinstance(session, Session):
            assert self._quota is not None and self._trim is not None
            if self._quota.gone(session) or session.dropped:
                self._trim.large_one_left()

    def _leave(self, address: str) -> None:
        assert self._trim is not None
        self._trim.one_left()
        _count_down(self._by_address, address)

    @property
    def connections(self) -> int:
        return len(self._newcomers or ()) + len(self._sessions)

    def _stomp_sessions(self) -> list[Session]:
        return [session for session in self._sessions if isinstance(session, Session)]

    def vitals(self) -> dict[str, object]:
        """For `status`."""
        sessions = self._stomp_sessions()
        return {
            "connections": self.connections,
            "engines": sum(session.is_engine for session in sessions),
            "calls_in_flight": 0 if self._quota is None else self._quota.calls,
            "calls_waiting": self._router.waiting,
            "waiting_sessions": 0 if self._quota is None else self._quota.waiting,
            "unread_bytes": self._unread.octets,
            "unfinished_bytes": 0 if self._quota is None else self._quota.unfinished_bytes,
            "served": self._router.served,
            "failed": self._router.failed,
            **self.counts,
        }

    def drain(self) -> None:
        """Let calls in flight answer, then close so that every peer notices. Off the loop."""
        if self._loop is not None:
            leaving = asyncio.run_coroutine_threadsafe(self.leave(), self._loop)
            leaving.result(self._limits.drain_s + 2.0)

    def _busy(self) -> bool:
        return any(session.calls or not session.stream.arrived for session in self._sessions)

    async def leave(self) -> None:
        """What `drain` does, on the loop.

        Nobody hears 99 meanwhile: an engine would set the whole host up again. Calls are served until there is a moment
        with none, and not taken any more only at the last; who connects waits in the backlog for the next door.
        """
        assert self._loop is not None and self._newcomers is not None and self._trim is not None
        assert self._accepting is not None
        self._accepting.stop()
        for arrival in self._newcomers:
            self._forget(arrival)
            arrival.reset()
            self._leave(arrival.address)
        for sock in list(self._shut):
            self._close(sock)
        until = self._loop.time() + self._limits.drain_s
        while (now := self._loop.time()) < until and self._busy():
            if now > until - self._limits.last_calls_s:
                for session in self._sessions:
                    session.take_no_more()
            await asyncio.sleep(0.01)
        if calls := sum(session.calls for session in self._sessions):
            logger.warning("%d calls are not answered any more", calls)
        for session in list(self._sessions):
            session.reset()
        self._trim.stop()


def _count_down(counter: Counter[str], address: str) -> None:
    counter[address] -= 1
    if counter[address] <= 0:
        del counter[address]
