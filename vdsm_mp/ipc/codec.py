# SPDX-License-Identifier: Apache-2.0
"""Bodies: parameters, results and failures as JSON, by declared type.

Public parameters are read as leniently as VDSM reads them, at any depth: "7" is 7 and 7 is "7", "true" is true and true
is "true", unknown members are ignored, `null` for an optional member means absent; and an array is mapped to the
parameters in declared order. A number of more than 64 bits is refused wherever it is. Internal verbs are strict.
Nothing here knows sockets.
"""

import re
from functools import cache
from typing import Any

import msgspec
import msgspec.inspect

from vdsm_mp.api import errors
from vdsm_mp.api.verb import Message, VerbSpec
from vdsm_mp.common.digits import MOST
from vdsm_mp.common.errors import Error, Internal
from vdsm_mp.ipc import wording

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
_NUMBER = re.compile(rb"-?[0-9]{1,20}(\.[0-9]{1,10})?")
_ANY = msgspec.inspect.AnyType
_NUMBERS = (msgspec.inspect.IntType, msgspec.inspect.FloatType)
#: Without one of these no number is too large; few parameters have one.
_LONG = re.compile(rb"[0-9]{19}|[eE]\+?[0-9]{2}")


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
        message = _lenient(spec, raw)
        if _LONG.search(raw):
            _refuse_huge(message)
        return message
    except UNDECODABLE as error:
        raise errors.InvalidParameters(spec.name, wording.sentence(str(error))) from error


def _refuse_huge(message: Message) -> None:
    """Neither libvirt nor a float carries any number, and who computes with one is not prepared for that.

    Raises: ValidationError.
    """
    found: list[tuple[str, Any]] = [("", message)]
    while found:
        place, value = found.pop()
        match value:
            case int() | float() if not -MOST <= value <= MOST:
                raise msgspec.ValidationError(f"Number out of range - at `$.{place.removeprefix('.')}`")
            case msgspec.Struct():
                names = zip(value.__struct_encode_fields__, value.__struct_fields__, strict=True)
                found += ((f"{place}.{name}", getattr(value, field)) for name, field in names)
            case dict():
                found += ((f"{place}.{name}", inner) for name, inner in value.items())
            case list():
                found += ((f"{place}[{number}]", inner) for number, inner in enumerate(value))


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
    """A second chance: without `null` for members that have a default, with text where text is wanted; at any depth.

    None when there is nothing to mend. Clients write `prevLver` and the like now as 7, now as "7", and their maps
    carry a null for what they do not know.
    """
    mended = _mend(_type_info(spec.message), raw)
    return None if mended == raw else mended


@cache
def _type_info(kind: Any) -> msgspec.inspect.Type:
    return msgspec.inspect.type_info(kind)


def _mend(info: msgspec.inspect.Type, raw: bytes) -> bytes:
    """One value; the same octets when it needs nothing. Goes as deep as the types do, however deep the value is."""
    kinds = info.types if isinstance(info, msgspec.inspect.UnionType) else (info,)
    for kind in kinds:
        match kind:
            case msgspec.inspect.StructType() if raw[:1] == b"{":
                return _mend_members(kind, raw)
            case msgspec.inspect.DictType() if raw[:1] == b"{" and not isinstance(kind.value_type, _ANY):
                values = _members.decode(raw)
                return _joined(raw, values, {name: _mend(kind.value_type, bytes(v)) for name, v in values.items()})
            case msgspec.inspect.ListType() if raw[:1] == b"[" and not isinstance(kind.item_type, _ANY):
                items = _positional.decode(raw)
                mended = [_mend(kind.item_type, bytes(item)) for item in items]
                return raw if mended == [bytes(item) for item in items] else _encode([msgspec.Raw(m) for m in mended])
    # A number is left alone where a number is taken as well; so is true where a truth is.
    if any(isinstance(kind, msgspec.inspect.StrType) for kind in kinds):
        if _NUMBER.fullmatch(raw) and not any(isinstance(kind, _NUMBERS) for kind in kinds):
            return b'"%b"' % raw
        if raw in (b"true", b"false") and not any(isinstance(kind, msgspec.inspect.BoolType) for kind in kinds):
            return b'"%b"' % raw
    return raw


def _mend_members(info: msgspec.inspect.StructType, raw: bytes) -> bytes:
    members = _members.decode(raw)
    fields = {field.encode_name: field for field in info.fields}
    mended = {
        name: _mend(fields[name].type, bytes(value)) if name in fields else bytes(value)
        for name, value in members.items()
        if not (name in fields and not fields[name].required and bytes(value) == b"null")
    }
    return _joined(raw, members, mended)


def _joined(raw: bytes, before: dict[str, msgspec.Raw], after: dict[str, bytes]) -> bytes:
    if len(after) == len(before) and all(bytes(before[name]) == value for name, value in after.items()):
        return raw
    return _encode({name: msgspec.Raw(value) for name, value in after.items()})


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
