# SPDX-License-Identifier: Apache-2.0
"""Attach and detach managed volumes: os-brick or a vendor's adapter, run as a program; then the device's owner.

Root side, standard library only. What os-brick does with a value is beyond us (it makes options, file names and lines
of configuration of them), so each value is held to what no such place can be left with. The device is derived here,
and given away only when nothing of the host uses it.
"""

import base64
import grp
import json
import os
import re
import stat
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from vdsm_mp.priv.child import OperationFailed, Refused
from vdsm_mp.priv.context import Context

DRIVERS = ("rbd", "iscsi", "lightos", "local", "storpool")
_BRICK = Path(__file__).with_name("brick.py")
#: Where vendors' packages put their adapters, VDSM's place.
ADAPTERS = Path("/usr/libexec/vdsm")
_RULES = Path("/run/udev/rules.d")
_UDEVADM = Path("/usr/bin/udevadm")

_KEY = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,79}", re.ASCII)
_DEVICE = re.compile(r"/dev/[A-Za-z0-9][A-Za-z0-9_.:+-]*(/[A-Za-z0-9][A-Za-z0-9_.:+-]*)*", re.ASCII)
_ADAPTER = re.compile(r"[a-z0-9][a-z0-9_-]{0,39}", re.ASCII)
_WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:+-]*", re.ASCII)
#: Of os-brick's file for ceph, which detaching removes.
_CONF = re.compile(r"/tmp/brickrbd_[A-Za-z0-9_]{8}", re.ASCII)  # noqa: S108 -- its place
_KEYRING_LINE = re.compile(
    r'[ \t]*(\[client\.[A-Za-z0-9_.-]+\]|key *= *[A-Za-z0-9+/=]+|caps [a-z]{3} *= *"[^"\\]*")?[ \t]*', re.ASCII
)
_DEEP, _MANY, _LONG = 5, 200, 4096


def connector_info(context: Context, params: Mapping[str, Any]) -> dict[str, Any] | None:
    """None: os-brick is not installed."""
    found: dict[str, Any] | None = _run(context, None, "connector_info", None)
    return found


def attach(context: Context, params: Mapping[str, Any]) -> dict[str, Any] | None:
    """-> {"attachment", "path"}, or {"unsupported": why} when nothing is attached; None: os-brick is not installed.

    params: volume (its id), data (base64 of the connection's JSON). Idempotent as far as os-brick's driver is.
    """
    asked = _decoded(params)
    if fault := _unsupported(asked):
        return {"unsupported": fault}
    info = checked_connection(asked)
    attachment = _run(context, info.get("adapter"), "attach", info)
    if attachment is None:
        return None
    try:
        path = device_of(info, attachment)
        own(context, path, params["volume"])
    except (Refused, OSError) as error:
        _run(context, info.get("adapter"), "detach", {"connection_info": info, "attachment": attachment})
        _rule_of(params["volume"]).unlink(missing_ok=True)
        return {"unsupported": str(error)}
    return {"attachment": attachment, "path": path}


def detach(context: Context, params: Mapping[str, Any]) -> bool:
    """False: os-brick is not installed. params: as for attach, data: {connection_info, attachment}."""
    asked = _decoded(params)
    info, attachment = checked_connection(asked.get("connection_info")), asked.get("attachment") or {}
    _check(attachment, "attachment")
    done = _run(context, info.get("adapter"), "detach", {**asked, "connection_info": info, "attachment": attachment})
    if done is None:
        return False
    _rule_of(params["volume"]).unlink(missing_ok=True)
    return True


def checked_connection(info: Any) -> dict[str, Any]:
    """Raises: Refused."""
    if not isinstance(info, dict) or not isinstance(info.get("data"), dict):
        raise Refused("a connection is {driver_volume_type, data}")
    if fault := _unsupported(info):
        raise Refused(fault)
    _check(info, "connection")
    return info


def _unsupported(info: Mapping[str, Any]) -> str:
    """Why its driver or its adapter is none; "" when both are."""
    if info.get("driver_volume_type") not in DRIVERS:
        return f"the driver is none of {', '.join(DRIVERS)}"
    adapter = info.get("adapter")
    if adapter is not None and not (isinstance(adapter, str) and _ADAPTER.fullmatch(adapter)):
        return "that is not the name of an adapter"
    return ""


def _check(value: Any, name: str, depth: int = 0) -> None:
    if depth > _DEEP:
        raise Refused("a connection has no such depth")
    if isinstance(value, dict | list):
        if len(value) > _MANY:
            raise Refused(f"{name} has more than {_MANY} members")
        for key, one in value.items() if isinstance(value, dict) else ((name, one) for one in value):
            if not _KEY.fullmatch(key):
                raise Refused("a connection has no such key")
            _check(one, key, depth + 1)
    elif isinstance(value, str) and not _harmless(name, value):
        raise Refused(f"{name} has a form that is not allowed")


def _harmless(name: str, value: str) -> bool:
    if len(value) > _LONG:
        return False
    if name == "keyring":
        return all(_KEYRING_LINE.fullmatch(line) for line in value.split("\n"))
    if not value.isprintable() or value.startswith("-") or any(part.startswith("-") for part in value.split("/")):
        return False
    if value.startswith("/"):
        return (_DEVICE if name != "conf" else _CONF).fullmatch(value) is not None
    return ".." not in value


def device_of(info: Mapping[str, Any], attachment: Any) -> str:
    """Raises: Refused."""
    if not isinstance(attachment, dict):
        raise Refused("the attachment is not an object")
    _check(attachment, "attachment")
    path = attachment.get("path")
    if info["driver_volume_type"] == "iscsi":
        name = attachment.get("multipath_id")
        if not isinstance(name, str) or not _WORD.fullmatch(name):
            raise Refused("multipath has not taken it")
        path = f"/dev/mapper/{name}"
    elif info["driver_volume_type"] == "rbd":
        path = f"/dev/rbd/{info['data'].get('name')}"
    if not isinstance(path, str) or not _DEVICE.fullmatch(path):
        raise Refused("it has no device below /dev")
    return path


def own(context: Context, path: str, volume: str) -> None:
    """The device is the agent's and the guests' group's, now and after what udev does later. Raises: Refused, OSError.

    Exclusively opened for that moment: a device with a mounted file system, a partition in use, swap or a map on top is
    the host's own.
    """
    if _UDEVADM.exists() and Path("/run/udev/control").exists():
        # Not later than us: its own rules would take the device away again.
        context.children.run([str(_UDEVADM), "settle", "--timeout=10"], context.deadline_mono, ok=(0, 1))
    real = os.path.realpath(path)
    if not _DEVICE.fullmatch(real):
        raise Refused(f"{path} leads out of /dev")
    fd = os.open(real, os.O_RDONLY | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        if not stat.S_ISBLK(os.fstat(fd).st_mode):
            raise Refused(f"{path} is not a block device")
        gid = guests_group(context.gid)
        if _RULES.parent.is_dir():
            _RULES.mkdir(mode=0o755, exist_ok=True)
            match = "SYMLINK" if real != path else "KERNEL"
            _rule_of(volume).write_text(
                f'SUBSYSTEM=="block", {match}=="{path.removeprefix("/dev/")}", OWNER="{context.config["user"]}", '
                f'GROUP="{gid}", MODE="0660"\n',
                encoding="ascii",
            )
        os.fchown(fd, context.uid, gid)
        os.fchmod(fd, 0o660)
    finally:
        os.close(fd)


def guests_group(otherwise: int) -> int:
    for name in ("qemu", "kvm"):
        try:
            return grp.getgrnam(name).gr_gid
        except KeyError:
            continue
    return otherwise


def _rule_of(volume: str) -> Path:
    return _RULES / f"99-vdsm-managed-{volume}.rules"


def _decoded(params: Mapping[str, Any]) -> dict[str, Any]:
    try:
        found = json.loads(base64.b64decode(params["data"], validate=True))
    except (ValueError, RecursionError) as error:
        raise Refused("data is not base64 of JSON") from error
    if not isinstance(found, dict):
        raise Refused("data is not an object")
    return found


def _run(context: Context, adapter: str | None, verb: str, given: Any) -> Any:
    """Raises: OperationFailed, OutOfTime, Refused."""
    program = _BRICK
    if adapter is not None:
        program = ADAPTERS / f"managedvolume-helper-{adapter}"
        check_program(program)
    data = b"" if given is None else json.dumps(given).encode()
    said = context.children.run([sys.executable, "-IB", str(program), verb], context.deadline_mono, data=data)
    try:
        return json.loads(said)
    except ValueError as error:
        raise OperationFailed(f"{program.name} {verb} did not answer JSON") from error


def check_program(program: Path) -> None:
    """Raises: Refused, when it is not there or others than root could have written it."""
    for piece in (program, *program.parents):
        try:
            info = piece.lstat()
        except OSError as error:
            raise Refused(f"there is no {program}") from error
        link = stat.S_ISLNK(info.st_mode)
        if (
            info.st_uid != 0
            or (piece == program and not stat.S_ISREG(info.st_mode))
            or (not link and info.st_mode & 0o022)
        ):
            raise Refused(f"{piece} is not root's alone")


HANDLERS: Mapping[str, Callable[[Context, Mapping[str, Any]], Any]] = {
    "managed-info": connector_info,
    "managed-attach": attach,
    "managed-detach": detach,
}
