# SPDX-License-Identifier: Apache-2.0
"""STOMP 1.2 frames: octets in, frames out, and back. No I/O, no state beyond one half-received frame.

Read leniently where real clients need it: a header value may hold raw colons (the engine does not escape), a CR
before LF is dropped, any number of LFs may stand between frames. Everything else that STOMP forbids ends the
connection: `Broken`.
"""

import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple

#: Sizes in octets. A frame is its header block and its body.
MAX_HEADER = 64 * 1024
MAX_FRAME = 16 * 1024 * 1024
#: The engine reads a header block into a buffer of 1024 octets and drops the connection when it does not fit.
MAX_HEADER_OUT = 1023

HEARTBEAT = b"\n"
#: The header of a client's flow id: a person's own words, which the engine does not escape.
FLOW_ID = "ovirtCorrelationId"

_UNESCAPE = {"\\\\": "\\", "\\c": ":", "\\n": "\n", "\\r": "\r"}
_ESCAPE = {ord("\\"): "\\\\", ord(":"): "\\c", ord("\n"): "\\n", ord("\r"): "\\r"}
_LINE_ENDS = re.compile(rb"[\r\n]+")
_ESCAPES = re.compile(r"\\.?", re.DOTALL)


class Broken(Exception):
    """What came is not STOMP, or is larger than allowed. The rest of the stream cannot be understood."""


class TooLong(Exception):
    """A header block to be sent does not fit into what the engine can read."""


class Frame(NamedTuple):
    """One frame. headers: the first occurrence of each name, unescaped."""

    command: str
    headers: Mapping[str, str]
    body: bytes = b""


class Parser:
    """Feed it octets as they come and take whole frames out, one at a time.

    It holds at most one header block or one frame of the allowed size plus what one `feed` brought.
    """

    def __init__(self, *, max_header: int = MAX_HEADER, max_frame: int = MAX_FRAME) -> None:
        self._max_header = max_header
        self._max_frame = max_frame
        self._buffer = bytearray()
        #: Octets of the buffer in which the end of the header block, or of the body, has been looked for already.
        self._seen = 0
        #: The frame whose body is being waited for: command, headers, body length (None: up to NUL).
        self._head: tuple[str, dict[str, str], int | None, int] | None = None

    def feed(self, octets: bytes) -> None:
        self._buffer += octets

    @property
    def pending(self) -> int:
        """Octets held."""
        return len(self._buffer)

    def next(self) -> Frame | None:
        """The next whole frame, None when more octets are needed. Raises: Broken."""
        if self._head is None:
            if not self._buffer:
                return None
            self._head = self._read_head()
            if self._head is None:
                return None
        command, headers, length, header_size = self._head
        if length is None:
            end = self._buffer.find(0, self._seen)
            whole = end >= 0
            if not whole:
                self._seen = end = len(self._buffer)
            # The same whether the end came in the same piece or is still awaited.
            if end + header_size > self._max_frame:
                raise Broken(f"a frame is larger than {self._max_frame} octets")
            if not whole:
                return None
        else:
            end = length
            if len(self._buffer) <= end:
                return None
            if self._buffer[end]:
                raise Broken("the octet after the body is not NUL")
        body = bytes(memoryview(self._buffer)[:end])
        del self._buffer[: end + 1]
        self._head = None
        self._seen = 0
        return Frame(command, headers, body)

    def _read_head(self) -> tuple[str, dict[str, str], int | None, int] | None:
        buffer = self._buffer
        if buffer and buffer[0] in b"\r\n":
            match = _LINE_ENDS.match(buffer)
            assert match is not None
            del buffer[: match.end()]
            self._seen = 0
        end = buffer.find(b"\n\n", self._seen)
        size = end + 2
        # The blank line may be CR LF; then whichever comes first ends the block.
        if (blank := buffer.find(b"\n\r\n", self._seen, end + 1 if end >= 0 else len(buffer))) >= 0:
            end, size = blank, blank + 3
        # The end of a frame whose beginning is lost: no blank line may ever follow.
        if 0 <= buffer.find(0, self._seen, end if end >= 0 else len(buffer)) <= self._max_header:
            raise Broken("a header contains NUL")
        at_least = end if end >= 0 else len(buffer)
        if at_least > self._max_header and end < 0:
            # The last line end may be the beginning of the blank line.
            at_least = len(buffer.removesuffix(b"\r").removesuffix(b"\n"))
        if at_least > self._max_header:
            raise Broken(f"a header block is larger than {self._max_header} octets")
        if end < 0:
            self._seen = max(0, len(buffer) - 2)
            return None
        command, headers = _parse_head(bytes(memoryview(buffer)[:end]))
        length = _content_length(headers, self._max_frame - size)
        del buffer[:size]
        self._seen = 0
        return command, headers, length, size


def _parse_head(block: bytes) -> tuple[str, dict[str, str]]:
    try:
        text = block.decode()
    except UnicodeDecodeError as error:
        raise Broken("a header is not UTF-8") from error
    lines = text.split("\n")
    if "\r" in text:
        lines = [line.removesuffix("\r") for line in lines]
    command = lines[0]
    headers: dict[str, str] = {}
    escaped = "\\" in text
    for line in lines[1:]:
        name, colon, value = line.partition(":")
        if not colon or not name:
            raise Broken("a header line has no name")
        if escaped:
            name = _unescape(name)
            value = _unescape(value, strict=name != FLOW_ID)
        if name not in headers:
            headers[name] = value
    return command, headers


def _content_length(headers: Mapping[str, str], at_most: int) -> int | None:
    text = headers.get("content-length")
    if text is None:
        return None
    if not (text.isascii() and text.isdigit()):
        raise Broken("content-length is not a number")
    # Twenty digits are more than any limit; int() would happily work on a million of them.
    if len(text) > 20 or (length := int(text)) > at_most:
        raise Broken(f"a frame is larger than allowed ({text[:20]} octets announced)")
    return length


def _unescape(text: str, *, strict: bool = True) -> str:
    def one(match: re.Match[str]) -> str:
        try:
            return _UNESCAPE[match[0]]
        except KeyError:
            if not strict:
                return match[0]
            raise Broken("a header has an escape that STOMP does not know") from None

    return _ESCAPES.sub(one, text)


def escape(text: str) -> str:
    """A header name or value as it may stand in a frame."""
    return text.translate(_ESCAPE)


def head(command: str, headers: Iterable[tuple[str, str]]) -> bytes:
    """Command and headers, each line with its LF, without the blank line: a prefix that can be kept."""
    lines = [command, *(f"{escape(name)}:{escape(value)}" for name, value in headers)]
    return ("\n".join(lines) + "\n").encode("utf-8", "surrogatepass")


def with_body(prefix: bytes, body: bytes) -> bytes:
    """A frame from a kept prefix and a body. Raises: TooLong."""
    frame_head = b"%bcontent-length:%d\n\n" % (prefix, len(body))
    if len(frame_head) > MAX_HEADER_OUT:
        raise TooLong(f"header block of {len(frame_head)} octets")
    return b"%b%b\0" % (frame_head, body)


def encode(command: str, headers: Iterable[tuple[str, str]] = (), body: bytes = b"") -> bytes:
    """One frame; content-length is written when there is a body. Raises: TooLong."""
    prefix = head(command, headers)
    if body:
        return with_body(prefix, body)
    if len(prefix) + 1 > MAX_HEADER_OUT:
        raise TooLong(f"header block of {len(prefix) + 1} octets")
    return prefix + b"\n\0"
