# SPDX-License-Identifier: Apache-2.0
"""Dirty bitmaps in qcow2 volumes: names of incremental backups. A bitmap counts when it is `auto` and not `in-use`."""

import logging
from typing import Any

from vdsm_mp.common.command import CommandFailed, CommandOverdue
from vdsm_mp.storage import qemuimg

_log = logging.getLogger("storage.bitmaps")


def usable(found: list[dict[str, Any]]) -> dict[str, int]:
    """{name: granularity} of the bitmaps in qemu-img's report that can be relied on."""
    return {
        one["name"]: int(one["granularity"]) for one in found if "auto" in one["flags"] and "in-use" not in one["flags"]
    }


def add(path: str, name: str, *, again: bool) -> None:
    """An enabled bitmap. again: one that is there already will do, if it is whole; it has seen every write since.

    One that is not whole stays: a new one in its place would miss what it has lost. Raises: CommandFailed (there is
    one by that name), CommandOverdue.
    """
    if again and name in usable(qemuimg.info(path, "qcow2").bitmaps):
        _log.info("bitmap %s is in %s already", name, path)
        return
    qemuimg.bitmap(path, name, "--add", "--enable")


def remove(path: str, name: str) -> None:
    """Having none is fine, as it is for VDSM. Raises: CommandFailed, CommandOverdue."""
    if name in {one["name"] for one in qemuimg.info(path, "qcow2").bitmaps}:
        qemuimg.bitmap(path, name, "--remove")


def copy_names(source: str, target: str) -> None:
    """Empty bitmaps in `target` by the names of those in `source`, both qcow2.

    A failure is only logged: the next backup is then a full one.
    """
    try:
        for name, granularity in usable(qemuimg.info(source, "qcow2").bitmaps).items():
            qemuimg.bitmap(target, name, "--add", granularity=granularity)
    except (CommandFailed, CommandOverdue) as e:
        _log.warning("bitmaps of %s are not continued in %s: %s", source, target, e)


def drop_doubtful(top: str, base: str, *, lost: bool) -> None:
    """Before bitmaps of `top` go into those of `base`: no name may seem whole of which the base's part is gone.

    A backup by half of a bitmap would miss data; without it the next one is a full one. lost: the base lost all it had.
    The top's go first, so that this, cut short, is done again. Raises: CommandFailed, CommandOverdue.
    """
    broken = {one["name"] for one in qemuimg.info(base, "qcow2").bitmaps if "in-use" in one["flags"]}
    for one in qemuimg.info(top, "qcow2").bitmaps:
        if lost or one["name"] in broken:
            _log.warning("bitmap %s is dropped: %s has lost its part of it", one["name"], base)
            qemuimg.bitmap(top, one["name"], "--remove")
    for name in sorted(broken):
        qemuimg.bitmap(base, name, "--remove")


def merge(source: str, target: str) -> None:
    """What the bitmaps of `source` have into those of the same name in `target`, made where they are missing.

    Raises: CommandFailed, CommandOverdue.
    """
    there = {one["name"] for one in qemuimg.info(target, "qcow2").bitmaps}
    for name, granularity in usable(qemuimg.info(source, "qcow2").bitmaps).items():
        if name not in there:
            qemuimg.bitmap(target, name, "--add", granularity=granularity)
        qemuimg.bitmap(target, name, merge_from=(source, name))


def clear(path: str) -> None:
    """Remove every bitmap. Raises: CommandFailed, CommandOverdue."""
    for one in qemuimg.info(path, "qcow2").bitmaps:
        qemuimg.bitmap(path, one["name"], "--remove")
