# SPDX-License-Identifier: Apache-2.0
"""hostQos of a network: {"out": {"ls"|"ul"|"rt": {"m1", "d", "m2"}}}, as three curves of HFSC. Pure.

ls: link share, a weight among the networks of the NIC. ul: upper limit, rt: guaranteed, both in bits a second. m1 for
the first d microseconds, m2 from then on.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from vdsm_mp.api.errors_network import BadNetworkParameters

#: {curve: (m1, microseconds, m2)}
Curves = Mapping[str, tuple[int, int, int]]

_CURVES = ("ls", "ul", "rt")
_PARTS = ("m1", "d", "m2")
#: tc counts bytes a second in 32 bits.
_MOST = 8 * (2**32 - 1)


def curves_of(name: str, qos: Mapping[str, Any]) -> str:
    """As root takes it: "ls=m1:d:m2,ul=…"; "" for none. Raises: BadNetworkParameters."""
    if not qos:
        return ""
    out = qos.get("out")
    if set(qos) != {"out"} or not isinstance(out, Mapping) or not out or set(out) - set(_CURVES):
        raise BadNetworkParameters(f"{name}: hostQos has `out` with ls, ul and rt, and nothing else")
    if "ls" not in out and "rt" not in out:
        raise BadNetworkParameters(
            f"{name}: hostQos limits a network that has neither a share (ls) nor a guarantee (rt)"
        )
    return ",".join(f"{curve}={_curve(name, curve, out[curve])}" for curve in _CURVES if curve in out)


def _curve(name: str, curve: str, parts: Any) -> str:
    if not isinstance(parts, Mapping) or set(parts) - set(_PARTS) or "m2" not in parts:
        raise BadNetworkParameters(f"{name}: hostQos {curve} needs m2, and may have m1 and d")
    numbers = [parts.get(part, 0) for part in _PARTS]
    if not all(type(number) is int and 0 <= number <= _MOST for number in numbers) or not numbers[2]:
        raise BadNetworkParameters(f"{name}: hostQos {curve} {dict(parts)!r} is not made of whole numbers")
    return ":".join(map(str, numbers))


_SIZE = re.compile(r"([0-9.]+)([A-Za-z]*)")
_UNITS = {"": 1, "bit": 1, "Kbit": 10**3, "Mbit": 10**6, "Gbit": 10**9, "us": 1, "ms": 10**3, "s": 10**6}
#: tc prints real-time and share as one word when they are the same.
_PRINTED = {"rt": ("rt",), "ls": ("ls",), "ul": ("ul",), "sc": ("rt", "ls")}
#: What is lost in the kernel's own numbers and in tc's words.
_NEARLY = 0.01


def read(classes: str) -> dict[str, Curves]:
    """{number of a class: its curves}, from `tc class show` of a NIC: a line each, as

    class hfsc 5001:64 parent 5001: leaf 8003: ls m1 0bit d 0us m2 400bit ul m1 0bit d 0us m2 1Mbit
    """
    found: dict[str, Curves] = {}
    for line in classes.splitlines():
        words = line.split()
        if words[:2] == ["class", "hfsc"] and len(words) > 2:
            found[words[2].partition(":")[2]] = dict(_printed(words))
    return found


def _printed(words: list[str]) -> Iterator[tuple[str, tuple[int, int, int]]]:
    for at, word in enumerate(words):
        if word in _PRINTED and words[at + 1 : at + 7 : 2] == ["m1", "d", "m2"]:
            first, after_us, then = (_number(words[at + place]) for place in (2, 4, 6))
            for curve in _PRINTED[word]:
                # Shares were given as bytes.
                by = 8 if curve == "ls" else 1
                yield curve, (round(first / by), round(after_us), round(then / by))


def _number(text: str) -> float:
    match = _SIZE.fullmatch(text)
    return float(match[1]) * _UNITS.get(match[2], 1) if match else 0.0


def same(wanted: str, found: Curves) -> bool:
    """wanted: as `curves_of` gives it."""
    curves = {name: tuple(map(int, numbers.split(":"))) for name, _, numbers in _split(wanted)}
    # Without a time there is no first slope.
    curves = {name: numbers if numbers[1] else (0, 0, numbers[2]) for name, numbers in curves.items()}
    return curves.keys() == found.keys() and all(
        abs(one - other) <= max(1, one * _NEARLY)
        for name, numbers in curves.items()
        for one, other in zip(numbers, found[name], strict=True)
    )


def text_of(found: Curves) -> str:
    """As root takes it."""
    return ",".join(f"{name}={first}:{after_us}:{then}" for name, (first, after_us, then) in found.items())


def _split(curves: str) -> Iterator[tuple[str, str, str]]:
    return (curve.partition("=") for curve in curves.split(",") if curve)


def told(found: Curves) -> dict[str, Any]:
    """As an engine has it."""
    parts = {
        name: {"m1": first, "d": after_us, "m2": then} if after_us else {"m2": then}
        for name, (first, after_us, then) in found.items()
    }
    return {"out": parts} if parts else {}
