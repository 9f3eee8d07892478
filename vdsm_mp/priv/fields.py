# SPDX-License-Identifier: Apache-2.0
"""What a row of root's table is made of, and how a request is held against it: a closed schema, nothing is converted.

Read by both sides, so standard library only.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Text:
    """A string that matches `pattern` from end to end and does not start with "-"."""

    pattern: str
    max_length: int = 255
    optional: bool = False

    def fault(self, value: Any) -> str | None:
        """What is wrong with a value, or None; the same of the other forms."""
        if not isinstance(value, str):
            return "is not a string"
        if len(value) > self.max_length:
            return f"is longer than {self.max_length} characters"
        if value.startswith("-") or not re.fullmatch(self.pattern, value, re.ASCII):
            return "has a form that is not allowed"
        return None


@dataclass(frozen=True, slots=True)
class Whole:
    """An integer within bounds; true and false are not integers."""

    low: int
    high: int
    optional: bool = False

    def fault(self, value: Any) -> str | None:
        if type(value) is not int:
            return "is not a whole number"
        if not self.low <= value <= self.high:
            return f"is not between {self.low} and {self.high}"
        return None


@dataclass(frozen=True, slots=True)
class Flag:
    """true or false."""

    optional: bool = False

    def fault(self, value: Any) -> str | None:
        return None if isinstance(value, bool) else "is not true or false"


Field = Text | Whole | Flag


@dataclass(frozen=True, slots=True)
class Operation:
    """One row. deadline_s: upper bound, whatever the caller asks. at_once: how many of it may run at a time."""

    name: str
    helper: str
    params: Mapping[str, Field]
    doc: str
    deadline_s: float = 30.0
    at_once: int = 4

    def fault(self, params: Any) -> str | None:
        """Why `params` do not fit this row (a closed schema: unknown names are refused), or None."""
        if not isinstance(params, dict):
            return "parameters are not an object"
        for name in params:
            if name not in self.params:
                return f"unknown parameter {str(name)[:40]!r}"
        for name, field in self.params.items():
            if name not in params or (field.optional and params[name] is None):
                if not field.optional:
                    return f"parameter {name} is missing"
            elif (wrong := field.fault(params[name])) is not None:
                return f"parameter {name} {wrong}"
        return None
