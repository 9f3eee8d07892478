# SPDX-License-Identifier: Apache-2.0
"""hostQos of a network: {"out": {"ls"|"ul"|"rt": {"m1", "d", "m2"}}}, as three curves of HFSC. Pure.

ls: link share, a weight among the networks of the NIC. ul: upper limit, rt: guaranteed, both in bits a second. m1 for
the first d microseconds, m2 from then on.
"""

from collections.abc import Mapping
from typing import Any

from vdsm_mp.api.errors_network import BadNetworkParameters

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
