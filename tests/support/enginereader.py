# SPDX-License-Identifier: Apache-2.0
"""How the engine's client library makes messages of octets, and in which order it writes headers. No I/O.

It has a header buffer of 1,024 octets, into which LFs between frames go as well; that is parsed as text whenever
something came; only then content-length is looked at, and the rest of the body read. Where the library throws, this
raises `EngineConfused`: it closes the connection then.
"""

from collections.abc import Iterator, Mapping
from typing import NamedTuple, Protocol

HEADER_BUFFER = 1024
COMMANDS = frozenset(
    ("SEND", "SUBSCRIBE", "UNSUBSCRIBE", "BEGIN", "COMMIT", "ABORT", "DISCONNECT", "CONNECT", "RECEIPT", "CONNECTED",
     "ERROR", "ACK", "MESSAGE")
)  # fmt: skip


class EngineConfused(AssertionError):
    """The library would have thrown, and closed the connection."""


class Message(NamedTuple):
    command: str
    headers: Mapping[str, str]
    body: bytes

    @property
    def length(self) -> int:
        """content-length; -1 when there is none that can be understood."""
        text = self.headers.get("content-length", "")
        return int(text) if text.isdigit() else -1


class Source(Protocol):
    at_end: bool

    def read(self, room: int) -> tuple[bytes, int]:
        """(octets, how many were unwrapped in this very read)."""
        ...


class FrameReader:
    """One connection's reading half. heard: reads that brought something."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._header = bytearray()
        self._begun: Message | None = None
        self._rest = bytearray()
        self.heard = 0

    @property
    def at_end(self) -> bool:
        return self._source.at_end

    def take(self) -> Iterator[Message]:
        """One pass."""
        if self._begun is None:
            octets, produced = self._source.read(HEADER_BUFFER - len(self._header))
            self._header += octets
            # What an earlier read had unwrapped is in the buffer now, but is not looked at before more comes.
            if produced <= 0:
                return
            self.heard += 1
            message = parse(bytes(self._header))
            if message is None:
                return
            if message.length < 0:
                yield from self._control()
                return
            if message.length + 1 <= len(message.body) or message.length == len(message.body):
                left = message.body[message.length + 1 :]
                self._clean()
                self._header += left
                yield message._replace(body=message.body[: message.length])
                return
            self._begun = message
        begun = self._begun
        octets, _ = self._source.read(begun.length + 1 - len(begun.body) - len(self._rest))
        self._rest += octets
        self.heard += bool(octets)
        whole = begun.body + bytes(self._rest)
        if len(whole) == begun.length + 1:
            self._clean()
            yield begun._replace(body=whole[:-1])

    def _control(self) -> Iterator[Message]:
        """Frames without content-length: everything that came is cut at its NULs, whatever it is."""
        pieces = bytes(self._header).rstrip(b"\0").split(b"\0")
        self._clean()
        for piece in pieces:
            message = parse(piece + b"\0")
            if message is None:
                raise EngineConfused("a heart-beat together with a control frame")
            if message.length >= 0 and message.length != len(message.body) - 1:
                raise EngineConfused(f"{message.command} is torn by the control frame before it")
            yield message._replace(body=message.body[:-1])

    def _clean(self) -> None:
        self._header.clear()
        self._rest.clear()
        self._begun = None


def parse(octets: bytes) -> Message | None:
    """What is in the header buffer as a message; None while it looks like heart-beats. Raises: EngineConfused."""
    lines = _split(octets.decode("utf-8", "replace"))
    at = 0
    while at < len(lines) and not lines[at]:
        at += 1
    if len(lines) - at <= 2:
        return None
    command = lines[at].replace("\0", "")
    if command not in COMMANDS:
        raise EngineConfused(f"unknown command {command[:60]!r}")
    headers: dict[str, str] = {}
    at += 1
    while True:
        if at >= len(lines):
            raise EngineConfused("the header block ends in the middle")
        if not lines[at]:
            break
        name, colon, value = lines[at].partition(":")
        if not colon:
            raise EngineConfused(f"a header line without colon: {lines[at][:60]!r}")
        headers[name] = value
        at += 1
    size = sum(len(line.encode()) + 1 for line in lines[: at + 1])
    return Message(command, headers, octets[size:])


def _split(text: str) -> list[str]:
    """Java's split at LF: no empty strings at the end."""
    lines = text.split("\n")
    while lines and not lines[-1]:
        lines.pop()
    return lines


class JavaHeaders:
    """Iterates over names in the order of a Java HashMap of up to twelve entries."""

    def __init__(self, names: Mapping[str, str]) -> None:
        self._names = list(names)

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._names, key=_bucket))


def _bucket(name: str) -> int:
    code = 0
    for character in name:
        code = (31 * code + ord(character)) & 0xFFFFFFFF
    return (code ^ code >> 16) & 15
