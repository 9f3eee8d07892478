# SPDX-License-Identifier: Apache-2.0
"""Shaping of what a NIC or bond sends, a class of HFSC for each network. Root side, standard library only.

Classes are numbered by VLAN tag. Everything else is in the default class: that of the network without a tag, or one
that belongs to nobody. Within a class flows are treated fairly by fq_codel.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any

from vdsm_mp.priv.child import OperationFailed, Refused
from vdsm_mp.priv.context import Context

_TC = "/usr/sbin/tc"
_ROOT = "5001:"
_NOBODYS, _UNTAGGED = "1388", "138a"
#: A class cannot have number 0, a VLAN can.
_TAG_0 = "1389"
#: The weight of what belongs to no network with shaping: half of the largest that engines give.
_SHARE = 50
_CURVES = r"(ls|ul|rt)=[0-9]{1,11}:[0-9]{1,11}:[0-9]{1,11}"


def _tc(context: Context, *words: str) -> str:
    return context.children.run([_TC, *words], context.deadline_mono)


def _curves(text: str) -> list[str]:
    """ "ls=m1:d:m2,…" as words of tc. Shares are weights without a unit: as bytes, the smallest is not rounded to 0."""
    words: list[str] = []
    for curve in text.split(","):
        if not re.fullmatch(_CURVES, curve, re.ASCII):
            raise Refused("curves of a form that is not allowed")
        name, _, numbers = curve.partition("=")
        first, after_us, then = (int(number) for number in numbers.split(":"))
        unit = "bps" if name == "ls" else "bit"
        words.append(name)
        if after_us:
            words += ["m1", f"{first}{unit}", "d", f"{after_us}us"]
        words += ["m2", f"{then}{unit}"]
    return words


def class_number(tag: int | None) -> str:
    """Of the class of a VLAN, or of what has none."""
    if tag is None:
        return _UNTAGGED
    return f"{tag:x}" if tag else _TAG_0


def _plain(name: str) -> str:
    if name == "lo":
        raise Refused("lo is not ours")
    return name


def _ours(context: Context, nic: str) -> bool:
    return f"hfsc {_ROOT} root" in _tc(context, "qdisc", "show", "dev", nic)


def _there(context: Context, nic: str) -> set[str]:
    """Numbers of the classes that there are."""
    lines = [line.split() for line in _tc(context, "class", "show", "dev", nic).splitlines()]
    return {words[2].removeprefix(_ROOT) for words in lines if words[1:2] == ["hfsc"] and words[2] != _ROOT}


def _add(context: Context, nic: str, number: str, curves: list[str]) -> None:
    _tc(context, "class", "add", "dev", nic, "parent", _ROOT, "classid", f"{_ROOT}{number}", "hfsc", *curves)
    _tc(context, "qdisc", "add", "dev", nic, "parent", f"{_ROOT}{number}", "fq_codel")


def _delete(context: Context, nic: str, number: str) -> None:
    if number != _UNTAGGED:
        try:
            _tc(context, "filter", "del", "dev", nic, "parent", _ROOT, "prio", str(int(number, 16)))
        except OperationFailed as error:
            # Death came between class and filter.
            if "not found" not in str(error) and "No such" not in str(error):
                raise
    _tc(context, "class", "del", "dev", nic, "classid", f"{_ROOT}{number}")


def _set(context: Context, p: Mapping[str, Any]) -> None:
    nic, number, curves = _plain(p["nic"]), class_number(p.get("tag")), _curves(p["curves"])
    if not _ours(context, nic):
        _tc(context, "qdisc", "replace", "dev", nic, "root", "handle", _ROOT, "hfsc", "default", _NOBODYS)
    there = _there(context, nic)
    if _NOBODYS not in there:
        _add(context, nic, _NOBODYS, _curves(f"ls=0:0:{_SHARE}"))
    if number in there:
        # Made anew: a change would keep the curves that are not named.
        _delete(context, nic, number)
    _add(context, nic, number, curves)
    if number == _UNTAGGED:
        _tc(context, "qdisc", "change", "dev", nic, "root", "handle", _ROOT, "hfsc", "default", _UNTAGGED)
        return
    which = ("dev", nic, "parent", _ROOT, "protocol", "all", "prio", str(int(number, 16)), "handle", "1")
    match = f"meta(vlan mask 0xfff eq {p['tag']})"
    _tc(context, "filter", "replace", *which, "basic", "match", match, "flowid", f"{_ROOT}{number}")


def _remove(context: Context, p: Mapping[str, Any]) -> None:
    nic, number = _plain(p["nic"]), class_number(p.get("tag"))
    if not _ours(context, nic):
        return
    if number == _UNTAGGED:
        _tc(context, "qdisc", "change", "dev", nic, "root", "handle", _ROOT, "hfsc", "default", _NOBODYS)
    if number in _there(context, nic):
        _delete(context, nic, number)
    if _there(context, nic) <= {_NOBODYS}:
        _tc(context, "qdisc", "del", "dev", nic, "root")


HANDLERS: Mapping[str, Callable[[Context, Mapping[str, Any]], None]] = {"shape-set": _set, "shape-remove": _remove}
