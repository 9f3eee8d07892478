# SPDX-License-Identifier: Apache-2.0
"""What stands before the body of every message on the bus: the header frame, its seal, and the bus version.

A header is a JSON array (a tired person can read it), preceded by a 16-byte seal: keyed BLAKE2b over topic, header
and body with the token of this master start. The token itself never travels, so who only listens learns nothing
that helps to forge. Three headers exist, one per kind of socket; a message of the wrong kind does not decode.

The first three fields of a request (version, kind, id) never change their meaning, so that a worker of another
version can at least be answered by name.
"""

import hashlib
import hmac
from typing import Annotated, Literal, TypeVar

import msgspec
from msgspec import Meta

BUS_VERSION = 1
SEAL_BYTES = 16
#: A header is small; what is longer was not made by us.
MAX_HEADER_BYTES = 4096

Name = Annotated[str, Meta(max_length=64)]
Text = Annotated[str, Meta(max_length=512)]
Count = Annotated[int, Meta(ge=0)]


class Request(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A question. `call`: verb with its params as body. `last`: the last values of the event topic in `verb`.

    deadline: CLOCK_MONOTONIC seconds, the same in every process of this host. peer: whom the asker asks for.
    """

    version: int
    kind: Literal["call", "last"]
    id: Count
    sender: Name
    epoch: Count
    to: Name
    verb: Text
    deadline: float
    flow: Text
    peer: Text


class Reply(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """The one answer. `done`: the encoded result is the body. `fail`: the body is a `codec.Failure`."""

    version: int
    kind: Literal["done", "fail"]
    id: Count
    sender: Name
    epoch: Count


class Notice(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """`event`: the body is an event, the `number`-th of its topic since the publisher's `epoch` began.

    `mark`: no body; tells the number of the newest event, so that a lost tail is noticed.
    """

    version: int
    kind: Literal["event", "mark"]
    sender: Name
    epoch: Count
    number: Count


class Broken(Exception):
    """A frame that no worker of this house has made; the sentence says what is wrong."""


class OtherVersion(Broken):
    """A well sealed request of another bus version."""

    def __init__(self, version: object, request_id: int) -> None:
        super().__init__(f"bus version {version!r}, ours is {BUS_VERSION}")
        self.request_id = request_id


H = TypeVar("H", Request, Reply, Notice)

_encode = msgspec.json.Encoder().encode
_any = msgspec.json.Decoder()


class Seal:
    """Makes and checks header frames with one token."""

    def __init__(self, token: str) -> None:
        if not token:
            raise ValueError("the bus needs a token")
        key = hashlib.blake2b(token.encode(), digest_size=32, person=b"vdsm-mp bus").digest()
        self._keyed = hashlib.blake2b(key=key, digest_size=SEAL_BYTES)

    def _seal(self, header: bytes, body: bytes, topic: bytes) -> bytes:
        mac = self._keyed.copy()
        # A header has no NUL byte, so the three parts cannot be shifted into each other.
        mac.update(topic + b"\0" + header + b"\0")
        mac.update(body)
        return mac.digest()

    def close(self, header: Request | Reply | Notice, body: bytes, topic: bytes = b"") -> bytes:
        """The header frame for this body."""
        raw = _encode(header)
        return self._seal(raw, body, topic) + raw

    def open(self, decoder: "msgspec.json.Decoder[H]", frame: bytes, body: bytes, topic: bytes = b"") -> H:
        """The header in a frame. Raises Broken: forged, garbled, too long; OtherVersion."""
        if not SEAL_BYTES < len(frame) <= MAX_HEADER_BYTES:
            raise Broken(f"header frame of {len(frame)} bytes")
        raw = frame[SEAL_BYTES:]
        if not hmac.compare_digest(frame[:SEAL_BYTES], self._seal(raw, body, topic)):
            raise Broken("wrong seal")
        try:
            header = decoder.decode(raw)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            _refuse_other_version(raw)
            raise Broken(f"header: {error}") from error
        if header.version != BUS_VERSION:
            _refuse_other_version(raw)
            raise Broken(f"bus version {header.version}, ours is {BUS_VERSION}")
        return header


def _refuse_other_version(raw: bytes) -> None:
    try:
        match _any.decode(raw):
            case [int(version), str(), int(request_id), *_] if version != BUS_VERSION:
                raise OtherVersion(version, request_id)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return


requests = msgspec.json.Decoder(Request)
replies = msgspec.json.Decoder(Reply)
notices = msgspec.json.Decoder(Notice)
