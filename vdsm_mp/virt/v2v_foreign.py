# SPDX-License-Identifier: Apache-2.0
"""VMs of a foreign hypervisor, over libvirt: listed, and their disks copied as they are. Runs in `v2v_child`.

libvirt's own calls have no deadlines here (ssh, a vCenter that is busy): the child as a whole has one. The password is
given when libvirt asks for it and goes nowhere else.
"""

import os
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from functools import partial
from typing import Any

import libvirt

from vdsm_mp.api.errors_virt import BadConversion, ForeignHypervisorFailed
from vdsm_mp.common import xml
from vdsm_mp.common.errors import Error
from vdsm_mp.virt import v2v_domain
from vdsm_mp.virt.v2v_domain import NotForUs

_CHUNK = 1 << 20
_ZERO = bytes(_CHUNK)


@contextmanager
def connected(uri: str, username: str, password: str) -> Iterator[Any]:
    """A virConnect. Raises: ForeignHypervisorFailed; what libvirt says inside becomes that, too."""

    def answer(asked: list[list[Any]], opaque: object) -> int:
        for one in asked:
            if one[0] in (libvirt.VIR_CRED_AUTHNAME, libvirt.VIR_CRED_USERNAME):
                one[4] = username
            elif one[0] in (libvirt.VIR_CRED_PASSPHRASE, libvirt.VIR_CRED_NOECHOPROMPT):
                one[4] = password
            else:
                return -1
        return 0

    kinds = [
        libvirt.VIR_CRED_AUTHNAME,
        libvirt.VIR_CRED_USERNAME,
        libvirt.VIR_CRED_PASSPHRASE,
        libvirt.VIR_CRED_NOECHOPROMPT,
    ]
    libvirt.registerErrorHandler(lambda opaque, error: None, None)
    try:
        with closing(libvirt.openAuth(uri, [kinds, answer, None], 0)) as conn:
            yield conn
    except libvirt.libvirtError as error:
        raise ForeignHypervisorFailed(error.get_error_message() or str(error)) from error


def names(conn: Any) -> list[str]:
    return [dom.name() for dom in conn.listAllDomains()]


def vms(conn: Any, wanted: Sequence[str] | None, skipped: Callable[[str, str], None]) -> list[dict[str, Any]]:
    """Entries of Host.getExternalVMs. skipped(name, why): one that cannot be converted; the others are told."""
    found = []
    for dom in conn.listAllDomains():
        name = dom.name()
        if wanted and name not in wanted:
            continue
        try:
            found.append(_vm(conn, dom, name))
        except (NotForUs, Error, libvirt.libvirtError) as error:
            skipped(name, str(error))
    return found


def _vm(conn: Any, dom: Any, name: str) -> dict[str, Any]:
    domain = xml.parse(dom.XMLDesc(0))
    vm = {"vmName": name, "status": "Up" if dom.isActive() else "Down", **v2v_domain.general(domain)}
    if conn.getType() != "Xen":
        with suppress(libvirt.libvirtError):
            vm["has_snapshots"] = dom.hasCurrentSnapshot() > 0
    vm["disks"] = [disk | _sizes(conn, dom, disk) for disk in v2v_domain.disks(domain)]
    return vm


def _sizes(conn: Any, dom: Any, disk: Mapping[str, str]) -> dict[str, str]:
    """Raises: libvirtError, NotForUs."""
    if conn.getType() == "Xen" and disk["disktype"] == "block":
        raise NotForUs(f"its disk {disk['dev']} is a block device of Xen")
    volume = _volume(conn, disk)
    if volume is not None:
        _, capacity, allocation = volume.info()
        return {"capacity": str(capacity), "allocation": str(allocation), "vol-key": volume.key()}
    if conn.getType() == "Xen":
        raise NotForUs(f"its disk {disk['dev']} lies in no storage pool")
    # The second number is 0 for block devices.
    capacity, _, physical = dom.blockInfo(disk["alias"])
    return {"capacity": str(capacity), "allocation": str(physical)}


def _volume(conn: Any, disk: Mapping[str, str]) -> Any:
    """The storage volume of a disk; None when its file or device belongs to no pool."""
    if disk["disktype"] == "volume":
        return conn.storagePoolLookupByName(disk["pool"]).storageVolLookupByName(disk["volume"])
    try:
        return conn.storageVolLookupByPath(disk["alias"])
    except libvirt.libvirtError:
        return None


def copy(conn: Any, name: str, targets: Sequence[str], *, sparse: bool, at: Callable[[int, int, float], None]) -> None:
    """Every disk of a VM into a volume, byte by byte. at(disk, of, percent).

    Raises: BadConversion, ForeignHypervisorFailed, NotForUs.
    """
    dom = conn.lookupByName(name)
    if dom.isActive():
        raise BadConversion(f"{name} runs: its disks change while they are read")
    disks = v2v_domain.disks(xml.parse(dom.XMLDesc(0)))
    if len(disks) != len(targets):
        raise BadConversion(f"{name} has {len(disks)} disks, not {len(targets)}")
    for number, (disk, target) in enumerate(zip(disks, targets, strict=True), 1):
        _copy_disk(conn, dom, disk, target, sparse=sparse, at=partial(at, number, len(disks)))


def _copy_disk(
    conn: Any, dom: Any, disk: Mapping[str, str], target: str, *, sparse: bool, at: Callable[[float], None]
) -> None:
    volume, total = _volume(conn, disk), max(1, dom.blockInfo(disk["alias"])[2] if disk["disktype"] != "volume" else 0)
    chunks = _download(conn, volume) if volume is not None else _peek(dom, disk["alias"], total)
    if volume is not None:
        total = max(1, volume.info()[2], total)
    at(0.0)
    with open(target, "r+b", buffering=0) as file:
        regular = stat.S_ISREG(os.fstat(file.fileno()).st_mode)
        length, done = os.fstat(file.fileno()).st_size, 0
        if regular:
            file.truncate(0)  # what is skipped reads as zeros then
        for chunk in chunks:
            if regular and sparse and chunk == _ZERO[: len(chunk)]:
                file.seek(len(chunk), os.SEEK_CUR)
            else:
                _write(file, chunk)
            done += len(chunk)
            at(min(99.0, 100.0 * done / total))
        if regular:
            file.truncate(max(length, done))
        os.fsync(file.fileno())
    at(100.0)


def _write(file: Any, chunk: bytes) -> None:
    view = memoryview(chunk)
    while view:
        view = view[file.write(view) :]


def _download(conn: Any, volume: Any) -> Iterator[bytes]:
    stream = conn.newStream(0)
    volume.download(stream, 0, 0, 0)
    try:
        while data := stream.recv(_CHUNK):
            yield data
    except BaseException:
        with suppress(libvirt.libvirtError):
            stream.abort()
        raise
    stream.finish()


def _peek(dom: Any, path: str, total: int) -> Iterator[bytes]:
    for at in range(0, total, _CHUNK):
        yield dom.blockPeek(path, at, min(_CHUNK, total - at), 0)
