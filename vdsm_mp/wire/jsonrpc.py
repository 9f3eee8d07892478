# SPDX-License-Identifier: Apache-2.0
"""JSON-RPC 2.0 envelopes. Params and results stay sealed: they are opened by the process that understands them.

Ids are echoed octet by octet, so their type survives. A reply never has both `result` and `error`, an id is given
back whenever it can be found, and nothing that a client sends makes this module raise anything but what it says.
"""

import json
import re
from collections.abc import Sequence
from typing import NamedTuple

import msgspec
from msgspec import Raw

PARSE_ERROR = -32700
INVALID_REQUEST = -32600

#: Octets of an id, and of a method name, that are still taken seriously.
MAX_ID = 4096
MAX_METHOD = 256
#: Requests of one batch.
MAX_BATCH = 256
#: Above this size nobody looks for the id in what is not JSON.
_MAX_SALVAGE = 256 * 1024

NULL = b"null"
NO_PARAMS = b"{}"


class Request(NamedTuple):
    """One call. id: as it came, b"" for a notification. params: a JSON object or array, unopened."""

    method: str
    params: bytes
    id: bytes


class Refused(NamedTuple):
    """What is not a request, and the answer it deserves."""

    code: int
    message: str
    id: bytes


class Parsed(NamedTuple):
    """One body. batch: answer with an array; a batch of one is answered like a plain request."""

    items: Sequence[Request | Refused]
    batch: bool


class _Envelope(msgspec.Struct):
    jsonrpc: str
    method: str
    params: Raw = Raw(NO_PARAMS)
    id: Raw = Raw(NULL)


class _AnyEnvelope(msgspec.Struct):
    id: Raw = Raw(NULL)


_envelopes = msgspec.json.Decoder(_Envelope)
_ids = msgspec.json.Decoder(_AnyEnvelope)
_arrays = msgspec.json.Decoder(list[Raw])
_strings = msgspec.json.Encoder()
#: RecursionError is nesting, UnicodeDecodeError a string that is not UTF-8.
_UNDECODABLE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
_LAST_ID = re.compile(rb'"id"\s*:\s*("(?:[^"\\\x00-\x1f]|\\.){0,512}"|-?[0-9]{1,32})\s*\}\s*\]?\s*\Z')


def parse(untrusted_body: bytes) -> Parsed:
    """Open the envelope, or the batch of envelopes, of one message. Never raises."""
    if not untrusted_body.isascii():
        try:
            # Sealed members are skipped without being looked at.
            str(untrusted_body, "utf-8")
        except UnicodeDecodeError:
            return _not_json(untrusted_body)
    if untrusted_body.lstrip(b" \t\r\n")[:1] != b"[":
        return Parsed((_one(untrusted_body),), False)
    try:
        items = _arrays.decode(untrusted_body)
    except _UNDECODABLE:
        return _not_json(untrusted_body)
    if not items:
        return Parsed((Refused(INVALID_REQUEST, "Invalid request: an empty batch", NULL),), False)
    if len(items) > MAX_BATCH:
        why = f"Invalid request: a batch of {len(items)}, at most {MAX_BATCH} are allowed"
        return Parsed((Refused(INVALID_REQUEST, why, NULL),), False)
    return Parsed([_one(bytes(item)) for item in items], len(items) > 1)


def _not_json(body: bytes) -> Parsed:
    return Parsed((_unparsable(body),), False)


def _unparsable(body: bytes) -> Refused:
    return Refused(PARSE_ERROR, "Parse error: the message is not JSON", _salvaged_id(body))


def _one(body: bytes) -> Request | Refused:
    try:
        envelope = _envelopes.decode(body)
    except msgspec.ValidationError as error:
        return _invalid(body, str(error))
    except _UNDECODABLE:
        return _unparsable(body)
    if envelope.jsonrpc != "2.0":
        return _invalid(body, "jsonrpc is not 2.0")
    params = bytes(envelope.params)
    if params[:1] not in (b"{", b"["):
        return _invalid(body, "params is neither an object nor an array")
    request_id = bytes(envelope.id)
    if (first := request_id[:1]) == b"n":
        request_id = b""
    elif first not in b'"-0123456789' or len(request_id) > MAX_ID:
        return Refused(INVALID_REQUEST, "Invalid request: id is neither a short string nor a number", NULL)
    return Request(envelope.method, params, request_id)


def _invalid(body: bytes, why: str) -> Refused:
    try:
        request_id = bytes(_ids.decode(body).id)
    except _UNDECODABLE:
        request_id = NULL
    if request_id[:1] not in b'"-0123456789' or len(request_id) > MAX_ID:
        request_id = NULL
    return Refused(INVALID_REQUEST, f"Invalid request: {why}", request_id)


def _salvaged_id(body: bytes) -> bytes:
    """The id of a message that is not JSON, when it can be told: NaN in the params is what real clients send."""
    if len(body) > _MAX_SALVAGE:
        body = body[-1024:]
    elif (found := _lenient_id(body)) is not None:
        return found
    if (match := _LAST_ID.search(body[-1024:])) is None:
        return NULL
    try:
        # What is echoed must be JSON itself.
        _strings.encode(msgspec.json.decode(match[1]))
    except (*_UNDECODABLE, UnicodeEncodeError):
        return NULL
    return match[1]


def _lenient_id(body: bytes) -> bytes | None:
    try:
        message = json.loads(body)
    except (ValueError, RecursionError):
        return None
    if isinstance(message, list) and len(message) == 1:
        message = message[0]
    if not isinstance(message, dict):
        return None
    request_id = message.get("id")
    if type(request_id) not in (str, int):
        return None
    try:
        found = _strings.encode(request_id)
    except (UnicodeEncodeError, msgspec.MsgspecError, OverflowError):
        return None
    return found if len(found) <= MAX_ID else None


def result(request_id: bytes, sealed_result: bytes) -> bytes:
    """A success. sealed_result: encoded JSON, never `null` (a verb with nothing to say answers `true`)."""
    return b'{"jsonrpc": "2.0", "id": %b, "result": %b}' % (request_id, sealed_result)


def error(request_id: bytes, code: int, message: str) -> bytes:
    """A failure. Lone surrogates and the like in the message are replaced."""
    text = _strings.encode(message.encode("utf-8", "replace").decode())
    return b'{"jsonrpc": "2.0", "id": %b, "error": {"code": %d, "message": %b}}' % (request_id, code, text)


def batch(replies: Sequence[bytes]) -> bytes:
    """The answers of a batch as one message."""
    return b"[%b]" % b", ".join(replies)


def request(method: str, params: bytes, request_id: bytes) -> bytes:
    """A call. params: encoded JSON. request_id: encoded JSON, b"" for a notification."""
    tail = b', "id": %b}' % request_id if request_id else b"}"
    return b'{"jsonrpc": "2.0", "method": %b, "params": %b%b' % (_strings.encode(method), params, tail)


def shown(method: str) -> str:
    """A method name as it may stand in a message or a log."""
    return printable(method if len(method) <= MAX_METHOD else f"{method[:MAX_METHOD]}…")


def printable(text: str) -> str:
    """Text of a client that cannot break a line or hide in one."""
    return text if text.isprintable() else "".join(c if c.isprintable() else "?" for c in text)
