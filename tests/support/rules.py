# SPDX-License-Identifier: Apache-2.0
"""How the engine reads one JSON value: casts that lose the field, or the whole answer, when the type is wrong.

A rule takes a value and returns None, or what is wrong with it. Tables of rules are in `decode.py`.
"""

import math
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

Rule = Callable[[Any], str | None]

_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_MAX_INT = 2**31 - 1


class Undecodable(AssertionError):
    """The engine would misread this answer; one line for each field."""

    def __init__(self, what: str, complaints: list[str]) -> None:
        super().__init__(f"the engine cannot read this {what}:\n  " + "\n  ".join(complaints))


def text(value: Any) -> str | None:
    return None if isinstance(value, str) else f"{_kind(value)} is read as null; a string is needed"


def uuid(value: Any) -> str | None:
    return text(value) or (None if _UUID.fullmatch(value) else f"{value!r} is not a lower-case UUID")


def integer(value: Any) -> str | None:
    """The engine's int: JSON integer below 2^31, or digits in a string."""
    if isinstance(value, int) and not isinstance(value, bool):
        return None if -_MAX_INT - 1 <= value <= _MAX_INT else f"{value} does not fit 32 bits: the cast throws"
    if isinstance(value, str):
        return None if re.fullmatch(r"-?\d+(\.\d*)?", value) else f"{value!r} is not a number"
    return f"{_kind(value)} throws; an integer is needed"


def bare_integer(value: Any) -> str | None:
    """Here even a string of digits throws."""
    return integer(value) if not isinstance(value, str) else f"string {value!r} throws; a JSON integer is needed"


def text_integer(value: Any) -> str | None:
    """s(i): digits in a string; a JSON integer is read as null or 0."""
    return text(value) or (None if re.fullmatch(r"-?\d+", value) else f"{value!r} is not an integer")


def double(value: Any) -> str | None:
    """The engine's double: a JSON number with a fraction, or a string; a JSON integer becomes null."""
    if isinstance(value, float):
        return None if math.isfinite(value) else f"{value} makes the whole message unreadable"
    if isinstance(value, str):
        return None if re.fullmatch(r"-?\d+(\.\d+)?([eE][-+]?\d+)?", value) else f"{value!r} is not a number"
    return f"{_kind(value)} is read as null; a string or a number with a fraction is needed"


def text_double(value: Any) -> str | None:
    """s(f): as the original sends it, "0.25"."""
    return text(value) or double(value)


def fraction(value: Any) -> str | None:
    """f: a JSON number with a fraction."""
    return double(value) if isinstance(value, float) else f"{_kind(value)}; a JSON number with a fraction is needed"


def boolean(value: Any) -> str | None:
    if isinstance(value, bool) or value in ("true", "false"):
        return None
    return f"{_kind(value)} {value!r} is not a boolean (null throws, other text is false)"


def bare_boolean(value: Any) -> str | None:
    return None if isinstance(value, bool) else f"{_kind(value)}: only a JSON boolean counts here"


def text_boolean(value: Any) -> str | None:
    """A string "true" or "false"; a JSON boolean throws."""
    return (
        None if value in ("true", "false") else f"{_kind(value)} {value!r} throws; the string true or false is needed"
    )


def one_of(*words: Any) -> Rule:
    def rule(value: Any) -> str | None:
        return (
            None
            if value in words and not isinstance(value, bool)
            else f"{value!r} is none of {', '.join(map(repr, words))}"
        )

    return rule


def list_of(inner: Rule) -> Rule:
    def rule(value: Any) -> str | None:
        if not isinstance(value, list):
            return f"{_kind(value)}; a list is needed"
        return next((f"[{n}]: {wrong}" for n, item in enumerate(value) if (wrong := inner(item))), None)

    return rule


def map_of(inner: Rule, key: Rule = text) -> Rule:
    def rule(value: Any) -> str | None:
        if not isinstance(value, dict):
            return f"{_kind(value)}; an object is needed"
        for name, item in value.items():
            if wrong := key(name) or inner(item):
                return f"[{name!r}]: {wrong}"
        return None

    return rule


def record(must: Mapping[str, Rule], may: Mapping[str, Rule] | None = None) -> Rule:
    """An object whose `must` members are there, and whose `may` members are left out rather than null."""

    def rule(value: Any) -> str | None:
        return next(iter(complaints_about(value, must, may or {})), None)

    return rule


def anything(_value: Any) -> str | None:
    return None


def obj(value: Any) -> str | None:
    return None if isinstance(value, dict) else f"{_kind(value)}; an object is needed"


def complaints_about(value: Any, must: Mapping[str, Rule], may: Mapping[str, Rule]) -> Iterator[str]:
    """Every complaint about the members of one object."""
    if not isinstance(value, dict):
        yield f"{_kind(value)}; an object is needed"
        return
    for name, rule in {**must, **may}.items():
        if name not in value:
            if name in must:
                yield f"{name}: missing"
        elif wrong := rule(value[name]):
            yield f"{name}{'' if wrong.startswith('[') else ': '}{wrong}"


def nowhere_nan(value: Any, where: str = "") -> Iterator[str]:
    """Python's json writes NaN and Infinity; the engine's parser then loses the message."""
    if isinstance(value, float) and not math.isfinite(value):
        yield f"{where or 'answer'}: {value}"
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield from nowhere_nan(item, f"{where}.{key}" if where else str(key))


def _kind(value: Any) -> str:
    if value is None:
        return "null"
    names = {
        bool: "JSON boolean",
        int: "JSON integer",
        float: "JSON float",
        str: "string",
        list: "list",
        dict: "object",
    }
    return names.get(type(value), type(value).__name__)
