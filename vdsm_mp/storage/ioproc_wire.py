# SPDX-License-Identifier: Apache-2.0
"""Packets between the storage worker and an I/O child: one JSON header line, then raw bytes. No I/O, no policy.

A request is one packet. An answer is one or more packets with the same id; `more` says that another follows; the
bodies joined are the answer: JSON, or the bytes read.
"""

from typing import Any

import msgspec

#: Body bytes of one packet. A SOCK_SEQPACKET packet must fit the default send buffer (208 KiB).
CHUNK = 64 * 1024
#: Receive buffer: body and header.
PACKET = CHUNK + 16 * 1024

#: Requests that one child works on at a time; more wait in its socket.
SLOTS = 8


class Request(msgspec.Struct, frozen=True):
    id: int
    op: str
    args: dict[str, Any] = {}


class Answer(msgspec.Struct, frozen=True, omit_defaults=True):
    """errno: 0 = done, otherwise the body is the sentence of the error. raw: the body is not JSON."""

    id: int
    errno: int = 0
    more: bool = False
    raw: bool = False


_encode = msgspec.json.Encoder().encode
_decode_request = msgspec.json.Decoder(Request).decode
_decode_answer = msgspec.json.Decoder(Answer).decode


def pack(header: Request | Answer, body: bytes | memoryview = b"") -> bytes:
    return b"\n".join((_encode(header), body))


def unpack_request(packet: bytes) -> tuple[Request, bytes]:
    """Raises: ValueError on anything that is not a request packet."""
    head, _, body = packet.partition(b"\n")
    try:
        return _decode_request(head), body
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def unpack_answer(packet: bytes) -> tuple[Answer, bytes]:
    """Raises: ValueError on anything that is not an answer packet."""
    head, _, body = packet.partition(b"\n")
    try:
        return _decode_answer(head), body
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def pack_answer(request_id: int, body: bytes, *, errno: int = 0, raw: bool = False) -> list[bytes]:
    """The packets of one answer, in order."""
    view = memoryview(body)
    starts = range(0, len(view), CHUNK) or (0,)
    last = starts[-1]
    return [
        pack(Answer(request_id, errno=errno, more=start != last, raw=raw), view[start : start + CHUNK])
        for start in starts
    ]
