# SPDX-License-Identifier: Apache-2.0
"""Virtual functions of SR-IOV cards and mediated devices. Root side, standard library only: fixed places of sysfs.

The schema lets only addresses, types and ids through, so a name is one component of a path. What a write would do to a
device that a guest has is looked at here once more: the kernel would wait for the guest, and root's thread with it.
"""

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from vdsm_mp.priv.child import OperationFailed, Refused
from vdsm_mp.priv.context import Context

SYSFS = Path("/sys")
_VFIO = "vfio-pci"


def vfs_set(sysfs: Path, params: Mapping[str, Any]) -> None:
    """Write the number, after 0 where there are some: the kernel does not change one number into another."""
    card = sysfs / "bus/pci/devices" / params["card"]
    place, wanted = card / "sriov_numvfs", params["number"]
    if not place.exists():
        raise Refused(f"{params['card']} has no virtual functions")
    now = int(place.read_text(encoding="ascii"))
    if now == wanted:
        return
    for function in card.glob("virtfn*"):
        driver = function / "driver"
        if driver.is_symlink() and driver.readlink().name == _VFIO:
            raise Refused(f"a guest may have {function.readlink().name}")
    if now:
        _write(place, "0")
    if wanted:
        _write(place, str(wanted))


def mdev_create(sysfs: Path, params: Mapping[str, Any]) -> None:
    """Idempotent for the same card and type. parameters: what the card's driver is told of it."""
    device = sysfs / "bus/mdev/devices" / params["uuid"]
    card = sysfs / "class/mdev_bus" / params["card"]
    kind = card / "mdev_supported_types" / params["type"]
    if not kind.is_dir():
        raise Refused(f"{params['card']} makes no mediated devices of type {params['type']}")
    if device.exists():
        if device.resolve().parent != card.resolve() or (device / "mdev_type").resolve().name != params["type"]:
            raise Refused(f"there is another mediated device {params['uuid']}")
    else:
        _write(kind / "create", params["uuid"])
    if params.get("parameters"):
        try:
            _write(device / "nvidia/vgpu_params", params["parameters"])
        except OperationFailed:
            _write(device / "remove", "1")
            raise


def mdev_remove(sysfs: Path, params: Mapping[str, Any]) -> None:
    """Idempotent. The kernel refuses while a guest has it."""
    device = sysfs / "bus/mdev/devices" / params["uuid"]
    if device.exists():
        _write(device / "remove", "1")


def _write(path: Path, text: str) -> None:
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(fd, text.encode())
        finally:
            os.close(fd)
    except OSError as error:
        raise OperationFailed(f"the kernel refused {text} for {path}: {error.strerror}") from error


def _in_sysfs(how: Callable[[Path, Mapping[str, Any]], None]) -> Callable[[Context, Mapping[str, Any]], None]:
    return lambda _, params: how(SYSFS, params)


HANDLERS: Mapping[str, Callable[[Context, Mapping[str, Any]], None]] = {
    "vfs-set": _in_sysfs(vfs_set),
    "mdev-create": _in_sysfs(mdev_create),
    "mdev-remove": _in_sysfs(mdev_remove),
}
