# SPDX-License-Identifier: Apache-2.0
"""A SPICE viewer that goes as far as a console's agent can matter: it links channels with a password, by TLS or not.

Source: the SPICE protocol's description of links (spice-protocol, `red_link`).
"""

import contextlib
import os
import socket
import ssl
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.support.needs import lacks
from tests.support.netrelay import made_inside

MAIN, DISPLAY, INPUTS = 1, 2, 3
#: Answers to a link.
OK, NEED_SECURED, PERMISSION_DENIED = 0, 5, 7
_MAGIC = b"REDQ"
_HEADER = struct.Struct("<4sIII")
_LINK = struct.Struct("<IBBIII")
_KEY_OCTETS = 162
_MESSAGE = struct.Struct("<QHII")
_MAIN_INIT, _SWITCH_HOST = 103, 111
_SWITCH = struct.Struct("<HHII")
_S = 10.0

Link = socket.socket
#: Of a channel, by its type.
Connect = Callable[[int], Link]


class Refused(Exception):
    """A channel is not linked. code: what the server said, one of the above."""

    def __init__(self, code: int) -> None:
        super().__init__(f"the server says {code}")
        self.code = code


def needs_server() -> None:
    """Skip this test now: QEMU has no SPICE."""
    if not any(Path("/usr/lib").glob("*/qemu/ui-spice-core.so")):
        lacks("QEMU with SPICE")


def connected(pid: int, port: int, tls: ssl.SSLContext | None = None) -> Link:
    """A connection to a port of 127.0.0.1 in the network namespace of a process."""
    plain = made_inside(pid, lambda: socket.create_connection(("127.0.0.1", port), _S))
    return plain if tls is None else tls.wrap_socket(plain)


class Viewer:
    """Channels of one session; the first one is the main channel. Raises: Refused."""

    def __init__(self, connect: Connect, password: str) -> None:
        self._connect = connect
        self._password = password
        self._session = 0
        self.main = self.link(MAIN)
        self._session = _session_of(self.main)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self.main.close()

    def link(self, channel: int) -> Link:
        link = self._connect(channel)
        with contextlib.ExitStack() as when_refused:
            when_refused.callback(link.close)
            words = _LINK.pack(self._session, channel, 0, 0, 0, _LINK.size)
            link.sendall(_HEADER.pack(_MAGIC, 2, 2, len(words)) + words)
            magic, _, _, size = _HEADER.unpack(_read(link, _HEADER.size))
            assert magic == _MAGIC
            reply = _read(link, size)
            _judge(reply)
            link.sendall(_sealed(self._password, reply[4 : 4 + _KEY_OCTETS]))
            _judge(_read(link, 4))
            when_refused.pop_all()
        return link

    def sent_to(self) -> tuple[str, int]:
        """(address, port) of the host that it is to go on with: the VM has moved there."""
        self.main.settimeout(45)
        body = _message(self.main, _SWITCH_HOST)
        port, _, size, where = _SWITCH.unpack_from(body)
        return body[where : where + size].rstrip(b"\0").decode(), port

    def lives(self) -> bool:
        """Is it still let be? Everything that was said meanwhile is passed over."""
        self.main.settimeout(0.5)
        with contextlib.suppress(TimeoutError):
            while self.main.recv(1 << 16):
                pass
            return False
        return True


def _judge(reply: bytes) -> None:
    (code,) = struct.unpack_from("<I", reply)
    if code != OK:
        raise Refused(code)


def _session_of(main: Link) -> int:
    (session,) = struct.unpack_from("<I", _message(main, _MAIN_INIT))
    return int(session)


def _message(link: Link, wanted: int) -> bytes:
    """The body of the next message of that kind."""
    while True:
        _, kind, size, _ = _MESSAGE.unpack(_read(link, _MESSAGE.size))
        body = _read(link, size)
        if kind == wanted:
            return body


def _sealed(password: str, key: bytes) -> bytes:
    words = ["openssl", "pkeyutl", "-encrypt", "-pubin", "-keyform", "DER", "-inkey", "/dev/fd/{}"]
    reads, writes = os.pipe()
    try:
        os.write(writes, key)
        os.close(writes)
        words[-1] = words[-1].format(reads)
        return subprocess.run(
            [*words, "-pkeyopt", "rsa_padding_mode:oaep"],
            input=password.encode() + b"\0", capture_output=True, check=True, timeout=_S, pass_fds=[reads],
        ).stdout  # fmt: skip
    finally:
        os.close(reads)


def _read(link: Link, octets: int) -> bytes:
    found = b""
    while len(found) < octets:
        more = link.recv(octets - len(found))
        if not more:
            raise ConnectionError("the server closed the link")
        found += more
    return found
