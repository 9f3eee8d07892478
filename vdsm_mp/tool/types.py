# SPDX-License-Identifier: Apache-2.0
"""Types of the declarations as a person reads them: `list of uuid`, `object`, `text or none`."""

import enum
import types
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import msgspec

from vdsm_mp.api.types import UUID_PATTERN

_SIMPLE = {str: "text", int: "integer", float: "number", bool: "boolean", bytes: "bytes", type(None): "null"}


def type_name(kind: Any) -> str:
    """One type, in words. Unset and None members of unions are left out: `?` says it."""
    if kind is Any:
        return "any"
    if kind in _SIMPLE:
        return _SIMPLE[kind]
    origin, args = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return _annotated(args)
    if origin in (Union, types.UnionType):
        members = [type_name(arg) for arg in args if arg not in (type(None), msgspec.UnsetType)]
        return " or ".join(dict.fromkeys(members))
    if origin is Literal:
        return " or ".join(repr(arg) for arg in args)
    if origin in (list, tuple, set, frozenset):
        return f"list of {type_name(args[0])}" if args else "list"
    if kind is dict or origin is dict:
        return f"{{{type_name(args[0])}: {type_name(args[1])}}}" if args and args[1] is not Any else "object"
    return _class_name(kind)


def _annotated(args: tuple[Any, ...]) -> str:
    meta = next((arg for arg in args[1:] if isinstance(arg, msgspec.Meta)), None)
    return "uuid" if meta is not None and meta.pattern == UUID_PATTERN else type_name(args[0])


def _class_name(kind: Any) -> str:
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        return " or ".join(repr(member.value) for member in kind)
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        fields = (f"{f.encode_name}{'' if f.required else '?'}" for f in msgspec.structs.fields(kind))
        return "{" + ", ".join(fields) + "}"
    return str(getattr(kind, "__name__", kind))
