# SPDX-License-Identifier: Apache-2.0
"""What a decoder says of parameters that are not what was declared, as a person says it: what, where, instead of what.

A sentence whose form is not known here is passed on with its place in front, so nothing is lost.
"""

import re

from vdsm_mp.api.types import UUID_PATTERN

_AT = re.compile(r"^(?P<said>.*) - at `\$?\.?(?P<place>[^`]*)`$", re.DOTALL)
_MISSING = re.compile(r"^Object missing required field `(?P<name>[^`]*)`$")
_WRONG = re.compile(r"^Expected `(?P<wanted>[^`]*)`, got `(?P<got>[^`]*)`$")
_BOUND = re.compile(r"^Expected `(?:int|float)` (?P<sign>[<>]=) (?P<bound>-?[0-9.]+)$")
_WORDS = {
    "str": "text",
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "array": "a list",
    "object": "an object",
    "null": "null",
}


def sentence(said: str) -> str:
    """As in `lease.sd_id: a UUID is needed, not text` or `vmID is missing`."""
    found = _AT.match(said)
    said, place = (found["said"], found["place"]) if found else (said, "")
    if missing := _MISSING.match(said):
        return f"{place}{'.' if place else ''}{missing['name']} is missing"
    return f"{place}: {_plain(said)}" if place else _plain(said)


def _plain(said: str) -> str:
    if said.startswith("Expected `str` matching regex") and UUID_PATTERN.replace("\\", "\\\\") in said:
        return "a UUID in lower case is needed"
    if wrong := _WRONG.match(said):
        wanted = [_WORDS.get(one, one) for one in wrong["wanted"].split(" | ") if one != "null"]
        return f"{' or '.join(wanted)} is needed, not {_WORDS.get(wrong['got'], wrong['got'])}"
    if bound := _BOUND.match(said):
        return f"{'at least' if bound['sign'] == '>=' else 'at most'} {bound['bound']} is needed"
    return said
