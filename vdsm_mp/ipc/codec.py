# SPDX-License-Identifier: Apache-2.0
"""Bodies: parameters, results and failures as JSON, by declared type.

Public parameters are read as leniently as VDSM reads them: "7" is 7 and 7 is "7", "true" is true, unknown members are
ignored, `null` for an optional member means absent, and an array is mapped to the members in declared order. Internal
verbs are strict. Nothing here knows sockets.
"""

import re
from functools import cache
from typing import Any

import msgspec
import msgspec.inspect

from vdsm_mp.api import errors
from vdsm_mp.api.verb import Message, VerbSpec
from vdsm_mp.common.errors import Error, Internal

TRUE = b"true"


class Failure(msgspec.Struct, frozen=True, array_like=True):
    """An error on the wire. details: the instance's attributes, enough to make the same instance again."""

    code: int
    name: str
    message: str
    details: dict[str, Any] = msgspec.field(default_factory=dict)


_encode = msgspec.json.Encoder().encode
_failures = msgspec.json.Decoder(Failure)
_positional = msgspec.json.Decoder(list[msgspec.Raw])
_members = msgspec.json.Decoder(dict[str, msgspec.Raw])
#: What a decoder raises on bytes that are not what was declared; RecursionError is JSON nested too deeply.
UNDECODABLE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
#: Longer numbers are not versions, sizes or ports any more.
_NUMBER = re.compile(rb"-?[0-9]{1,20}")


@cache
def _params_decoder(message: type[Message], strict: bool) -> "msgspec.json.Decoder[Any]":
    return msgspec.json.Decoder(message, strict=strict)


@cache
def _reply_decoder(verb: str, reply: Any) -> "msgspec.json.Decoder[Any]":
    return msgspec.json.Decoder(reply)


def encode_params(message: Message) -> bytes:
    """A message as the params of its verb."""
    return _encode(message)


def decode_params(spec: VerbSpec, untrusted_params: bytes) -> Any:
    """The message of a verb. Empty bytes and `null` stand for "no parameters". Raises: InvalidParameters."""
    raw = bytes(untrusted_params).strip()
    if not raw or raw == b"null":
        raw = b"{}"
    try:
        if spec.internal:
            return _params_decoder(spec.message, True).decode(raw)
        return _lenient(spec, raw)
    except UNDECODABLE as error:
        raise errors.InvalidParameters(spec.name, str(error)) from error


def _lenient(spec: VerbSpec, raw: bytes) -> Any:
    decoder = _params_decoder(spec.message, False)
    if raw[0] == 0x5B:
        raw = _by_position(spec, raw)
    try:
        return decoder.decode(raw)
    except msgspec.ValidationError:
        mended = _mended(spec, raw)
        if mended is None:
            raise
        return decoder.decode(mended)


def _by_position(spec: VerbSpec, raw: bytes) -> bytes:
    values = _positional.decode(raw)
    names = [f.encode_name for f in msgspec.structs.fields(spec.message)]
    if len(values) > len(names):
        raise errors.InvalidParameters(spec.name, f"{len(values)} positional parameters, at most {len(names)} expected")
    return _encode(dict(zip(names, values, strict=False)))


def _mended(spec: VerbSpec, raw: bytes) -> bytes | None:
    """A second chance: without `null` for members that have a default, numbers as text where text is wanted.

    None when there is nothing to mend. Clients write `prevLver` and the like now as 7, now as "7".
    """
    members = _members.decode(raw)
    optional = {f.encode_name for f in msgspec.structs.fields(spec.message) if not f.required}
    kept: dict[str, Any] = {
        name: value for name, value in members.items() if not (name in optional and bytes(value) == b"null")
    }
    numbers = [name for name in _text_members(spec.message) if _NUMBER.fullmatch(bytes(kept.get(name, b"")))]
    if not numbers and len(kept) == len(members):
        return None
    return _encode(kept | {name: bytes(kept[name]).decode() for name in numbers})


@cache
def _text_members(message: type[Message]) -> tuple[str, ...]:
    """Wire names of the members that take text and no number."""
    found = []
    for field in msgspec.structs.fields(message):
        kind = msgspec.inspect.type_info(field.type)
        kinds = kind.types if isinstance(kind, msgspec.inspect.UnionType) else (kind,)
        takes_numbers = any(isinstance(k, msgspec.inspect.IntType | msgspec.inspect.FloatType) for k in kinds)
        if any(isinstance(k, msgspec.inspect.StrType) for k in kinds) and not takes_numbers:
            found.append(field.encode_name)
    return tuple(found)


def encode_reply(spec: VerbSpec, value: Any) -> bytes:
    """The `result` member: the wire's `true` for verbs that declare no reply."""
    return TRUE if spec.reply is None else _encode(value)


def decode_reply(spec: VerbSpec, raw: bytes) -> Any:
    """The value a caller gets; None for verbs without a reply. Raises: RemoteError (not what was declared)."""
    if spec.reply is None:
        return None
    try:
        return _reply_decoder(spec.name, spec.reply).decode(raw)
    except UNDECODABLE as error:
        raise errors.RemoteError(Internal.code, f"{spec.name} answered what it does not declare: {error}") from error


def encode_failure(error: Error) -> bytes:
    """An error as the body of a `fail` reply. Attributes that JSON does not know travel as their text."""
    try:
        message = str(error)
    except Exception as broken:
        message = f"{type(error).__name__} ({type(broken).__name__} in its message)"
    failure = Failure(error.code, type(error).__name__, message, vars(error))
    try:
        return msgspec.json.encode(failure, enc_hook=str)
    except (*UNDECODABLE, TypeError, ValueError):
        return _encode(Failure(error.code, "RemoteError", message))


def decode_failure(raw: bytes) -> Error:
    """The same error again, when this process knows its class; else RemoteError with its code and sentence."""
    try:
        failure = _failures.decode(raw)
    except UNDECODABLE as broken:
        return errors.RemoteError(Internal.code, f"unreadable failure: {broken}")
    cls = _known().get(failure.name) or _known(again=True).get(failure.name)
    if cls is None:
        return errors.RemoteError(failure.code, failure.message)
    error = cls.__new__(cls)
    error.__dict__.update(failure.details)
    try:
        # The sentence of the side that made it wins, whatever this side's class would say.
        same = str(error) == failure.message and error.code == failure.code
    except Exception:
        same = False
    return error if same else errors.RemoteError(failure.code, failure.message)


_classes: dict[str, type[Error]] = {}


def _known(again: bool = False) -> dict[str, type[Error]]:
    # Rooms import their error classes when they are built, so a miss looks once more.
    if again or not _classes:
        _classes.update(errors.by_name())
    return _classes
