# SPDX-License-Identifier: Apache-2.0
"""A connection from accept until it is known what it speaks: TLS handshake, who it is, its first octets.

Nothing is spent on a client before its first record is there as a whole, by the length it begins with: somebody who
only begins costs neither a TLS object nor a turn. Both parts have a deadline. No octet of a client without a valid
certificate reaches any parser.
"""

import asyncio
import fcntl
import socket
import ssl
import sys
import termios
from collections.abc import Awaitable, Callable
from enum import Enum

from vdsm_mp.clientif.limits import Limits
from vdsm_mp.clientif.stream import reset
from vdsm_mp.wire.stomp import MAX_FRAME
from vdsm_mp.wire.tls import NOBODY, Peer, peer_of

_COMMANDS = (b"CONNECT", b"SEND", b"SUBSCRIBE", b"UNSUBSCRIBE", b"DISCONNECT", b"MESSAGE", b"RECEIPT", b"ERROR")
_METHODS = (b"PUT /", b"GET /")
#: Enough to tell them all apart.
_ENOUGH = 5
#: A TLS record begins with its type, its version and its length.
_HEAD, _HANDSHAKE = 5, 22
#: One read takes one TLS record, and no more than it can hold.
_RECORD = 16 * 1024
#: Records of those who write much are larger; what else somebody may begin with is not.
_LARGE = 4 * 1024


class Protocol(Enum):
    STOMP = "STOMP"
    HTTP = "HTTP"


def detect(octets: bytes) -> Protocol | None:
    """What the first octets are; None when they are not enough. Raises: ValueError (nothing that is spoken here)."""
    for starts, protocol in ((_METHODS, Protocol.HTTP), (_COMMANDS, Protocol.STOMP)):
        for start in starts:
            if octets.startswith(start[:_ENOUGH]):
                return protocol
    if any(start.startswith(octets) for start in (*_METHODS, *_COMMANDS)):
        return None
    raise ValueError("it speaks neither STOMP nor HTTP")


class Beginning:
    """The first octets of somebody with a good certificate: what they are, and those that count.

    An engine whose connection ended while it wrote a large request writes the rest of it at the beginning of the next
    one, before CONNECT. Refused, it would do so for each record of that rest, and wait 20 s each time: it is skipped.
    """

    def __init__(self) -> None:
        self.octets = b""
        self._rest_octets = 0
        self._in_rest = self._was_rest = False

    def take(self, octets: bytes) -> Protocol | None:
        """None when more is needed. Raises: ValueError (nothing that is spoken here)."""
        self.octets += octets
        if not self._in_rest:
            try:
                return detect(self.octets)
            except ValueError:
                # Of a rest each record is as large as the engine makes them but the last, which has the NUL.
                if self._was_rest or (len(octets) < _LARGE and b"\0" not in octets):
                    raise
            self._was_rest = True
        rest, nul, self.octets = self.octets.partition(b"\0")
        self._in_rest = not nul
        self._rest_octets += len(rest)
        if self._rest_octets > MAX_FRAME:
            raise ValueError("what it begins with does not end")
        return detect(self.octets)


class Arrival:
    """One newcomer. On the loop only.

    context: gives the TLS context when it is needed, None = clear text. knocked: called with (arrival) when its
    handshake could go on; `step` is to be called when it is its turn. check: awaited with (peer, address) when the peer
    is known; raises PermissionError. ready: called with (arrival, protocol, first octets). refused: called with
    (arrival, reason). Either is called once, and then the socket is the callee's.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        sock: socket.socket,
        address: str,
        port: int,
        *,
        limits: Limits,
        context: Callable[[], ssl.SSLContext] | None,
        knocked: Callable[["Arrival"], None],
        check: Callable[[Peer, str], Awaitable[None]] | None,
        ready: Callable[["Arrival", Protocol, bytes], None],
        refused: Callable[["Arrival", str], None],
    ) -> None:
        self._loop = loop
        self.sock: socket.socket | ssl.SSLSocket = sock
        #: The same with TLS. asyncio gets numbers: of a socket it describes both ends each time it is new to it.
        self._fd = sock.fileno()
        self.address = address
        self.port = port
        self.peer = NOBODY
        self._limits = limits
        self._context = context
        self._knocked = knocked
        self._check = check
        self._ready = ready
        self._refused = refused
        self._beginning = Beginning()
        #: Octets that the kernel waits for before it says that there is something to read.
        self._awaits = 1
        #: It is somebody else's now, or gone.
        self.done = False
        self._checking: asyncio.Task[None] | None = None
        self._deadline = loop.call_later(limits.handshake_s, self._late)

    def start(self) -> None:
        if self._context is None:
            self._identified()
        else:
            self._loop.add_reader(self._fd, self._knocks)

    def _knocks(self) -> None:
        """It has said something; go on when it is our turn, so that many newcomers do not delay those inside."""
        if not isinstance(self.sock, ssl.SSLSocket):
            try:
                if not self._record_is_here(self.sock):
                    return
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:
                self._refuse(_reason(error))
                return
        self._loop.remove_reader(self._fd)
        self._knocked(self)

    def _record_is_here(self, sock: socket.socket) -> bool:
        """Is the whole first record there, or what will never be one? If not, the kernel waits for the rest.

        It is waited for once for the head and once for the rest: who is woken after that by less has said all it will.
        """
        head = sock.recv(_HEAD, socket.MSG_PEEK)
        if len(head) < _HEAD:
            needs = _HEAD
        elif head[0] == _HANDSHAKE:
            needs = _HEAD + int.from_bytes(head[3:5], "big")
        else:
            needs = 1
        if head and self._awaits < needs and _waiting_octets(self._fd) < needs:
            self._awaits = needs
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, needs)
            return False
        if self._awaits > 1:
            self._awaits = 1
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, 1)
        return True

    def step(self) -> None:
        """The next step of the handshake, unless it is over."""
        if self.done:
            return
        sock = self.sock
        try:
            if not isinstance(sock, ssl.SSLSocket):
                assert self._context is not None
                sock = self.sock = self._context().wrap_socket(sock, server_side=True, do_handshake_on_connect=False)
            sock.do_handshake()
        except ssl.SSLWantReadError:
            self._loop.add_reader(self._fd, self._knocks)
        except ssl.SSLWantWriteError:
            self._loop.add_writer(self._fd, self._can_write)
        except OSError as error:
            self._refuse(f"TLS: {_reason(error)}")
        except Exception as error:
            self._refuse(str(error))
        else:
            self.peer = peer_of(sock)
            self._inside()

    def _can_write(self) -> None:
        self._loop.remove_writer(self._fd)
        self._knocked(self)

    def _inside(self) -> None:
        if self._check is None:
            self._identified()
        else:
            self._checking = self._loop.create_task(self._checked(self._check))

    async def _checked(self, check: Callable[[Peer, str], Awaitable[None]]) -> None:
        try:
            await check(self.peer, self.address)
        except PermissionError as error:
            self._refuse(str(error))
            return
        if not self.done:
            self._identified()

    def _identified(self) -> None:
        self._deadline.cancel()
        self._deadline = self._loop.call_later(self._limits.detect_s, self._late)
        self._loop.add_reader(self._fd, self._readable)
        if self._context is not None:
            # The first frame often comes together with the end of the handshake.
            self._readable()

    def _readable(self) -> None:
        try:
            octets = self.sock.recv(_RECORD)
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError, BlockingIOError, InterruptedError):
            return
        except OSError as error:
            # A client whose certificate we cannot take learns so only now, in TLS 1.3, and may say why.
            self._refuse(_reason(error))
            return
        if not octets:
            self._refuse("it left without a word")
            return
        try:
            protocol = self._beginning.take(octets)
        except ValueError as error:
            self._refuse(str(error))
            return
        if protocol is not None:
            self._forget()
            self._ready(self, protocol, self._beginning.octets)

    def _late(self) -> None:
        self._refuse("it took too long")

    def _refuse(self, why: str) -> None:
        if not self.done:
            self._forget()
            self._refused(self, why)

    def _forget(self) -> None:
        self.done = True
        self._deadline.cancel()
        if self._checking is not None and self._checking is not asyncio.current_task(self._loop):
            self._checking.cancel()
        self._loop.remove_reader(self._fd)
        self._loop.remove_writer(self._fd)

    def reset(self) -> None:
        """Throw it out, quietly."""
        if not self.done:
            self._forget()
            reset(self.sock)


def _waiting_octets(fd: int) -> int:
    return int.from_bytes(fcntl.ioctl(fd, termios.FIONREAD, bytes(4)), sys.byteorder)


def _reason(error: OSError) -> str:
    """Why a handshake failed, in OpenSSL's or the kernel's words."""
    verdict = getattr(error, "verify_message", None)
    reason = getattr(error, "reason", None)
    return f"{reason}: {verdict}" if verdict else str(reason or error.strerror or error)
