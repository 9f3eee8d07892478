# SPDX-License-Identifier: Apache-2.0
"""VM.getDiskAlignment: do the partitions of a disk begin where storage likes it?

The partition table is read by us, a few sectors of it, through qemu-img under limits: a guest wrote it, and it may be
anything. Judged as by virt-alignment-scan(1): a begin that is a multiple of 64 KiB is good. Names are those of a first
disk, `/dev/sda1` and so on.

Source: UEFI 2.10 chapter 5 (GPT, and the MBR that guards it); extended partitions as Linux reads them.
"""

import struct
from collections.abc import Callable, Iterator
from pathlib import Path

from vdsm_mp.api.errors_virt import DiskNotFound, VmOperationFailed
from vdsm_mp.api.verb import handles
from vdsm_mp.api.vm_blocks import GetVmDiskAlignment
from vdsm_mp.common import command, scratch
from vdsm_mp.common.command import CommandFailed, CommandOverdue
from vdsm_mp.virt.domxml_parse import volume_ids
from vdsm_mp.virt.drives import Drives
from vdsm_mp.virt.machine import VmStatus
from vdsm_mp.virt.registry import Vms

_SECTOR = 512
_GOOD_SECTORS = (64 << 10) // _SECTOR
_READ_S = 20.0
_EXTENDED = frozenset({0x05, 0x0F, 0x85})
_GUARD = 0xEE
#: Each is read by a program of its own; a chain that goes on is one that was made to.
_LOGICAL_AT_MOST = 60
_GPT_ENTRIES_AT_MOST = 256
_GPT_ENTRY_BYTES = range(128, 1025)

#: read(first sector, how many): shorter at the end of the disk.
Read = Callable[[int, int], bytes]


@handles(GetVmDiskAlignment)
def get_disk_alignment(drives: Drives, vms: Vms, ask: GetVmDiskAlignment) -> dict[str, bool]:
    """{partition: begins well}; empty when the disk has no partitions."""
    ids = volume_ids(dict(ask.disk))
    if ids is None:
        raise DiskNotFound("it is not named by poolID, domainID, imageID and volumeID")
    user = _user(vms, ids.image_id)
    if user:
        raise VmOperationFailed(f"virtual machine {user} uses the disk now")
    try:
        prepared = drives.prepare(ids)
        with scratch.folder() as folder:
            reader = _Reader(prepared.path, "qcow2" if prepared.format == "cow" else "raw", folder / "sectors")
            return {f"/dev/sda{number}": begin % _GOOD_SECTORS == 0 for number, begin in partitions(reader.read)}
    except OSError as error:
        raise VmOperationFailed(f"there is no place to read the disk into: {error}") from error
    finally:
        if not _user(vms, ids.image_id):  # it may have been started meanwhile
            drives.teardown(ids)


def _user(vms: Vms, image_id: str) -> str:
    """The VM that has it; "" when none does."""
    for record in vms.known().all():
        alive = record.life.status is not VmStatus.DOWN
        if alive and any(drive.ids and drive.ids.image_id == image_id for drive in record.devices.drives):
            return record.vm_id
    return ""


class _Reader:
    """Sectors of an image, whatever its format. Raises: VmOperationFailed."""

    def __init__(self, path: str, form: str, scratch: Path) -> None:
        self._words = ["qemu-img", "dd", "-f", form, "-O", "raw", f"if={path}", f"of={scratch}", f"bs={_SECTOR}"]
        self._scratch = scratch

    def read(self, first: int, count: int) -> bytes:
        # dd's count is where it stops, not how much it reads.
        words = [*self._words, f"skip={first}", f"count={first + count}"]
        try:
            command.run([*command.UNTRUSTED, *words], deadline_s=_READ_S)
            return self._scratch.read_bytes()[: count * _SECTOR]
        except (CommandFailed, CommandOverdue, OSError) as error:
            raise VmOperationFailed(f"the disk cannot be read: {error}") from error


def partitions(read: Read) -> Iterator[tuple[int, int]]:
    """(number, first sector), in the order of the table."""
    entries = _entries(read(0, 1))
    if any(kind == _GUARD for kind, _ in entries):
        yield from _gpt(read)
        return
    for number, (kind, begin) in enumerate(entries, 1):
        if kind and begin:
            yield number, begin
    for kind, begin in entries:
        if kind in _EXTENDED and begin:
            yield from _logical(read, begin)
            return


def _entries(sector: bytes) -> list[tuple[int, int]]:
    """(type, first sector) of the four places of an MBR, or of a sector like it; none when it is no such sector."""
    if len(sector) < _SECTOR or sector[510:512] != b"\x55\xaa":
        return []
    places = [sector[at : at + 16] for at in range(446, 510, 16)]
    if any(place[0] not in (0x00, 0x80) for place in places):
        return []  # the first sector of a file system may end alike
    return [(place[4], struct.unpack_from("<I", place, 8)[0]) for place in places]


def _logical(read: Read, base: int) -> Iterator[tuple[int, int]]:
    """A chain of sectors: the first place is a partition, counted from here, the second the next link, from `base`."""
    at, seen = base, {base}
    for number in range(5, 5 + _LOGICAL_AT_MOST):
        entries = _entries(read(at, 1))
        if not entries:
            return
        kind, begin = entries[0]
        if kind and begin:
            yield number, at + begin
        link, after = entries[1]
        if link not in _EXTENDED or not after or base + after in seen:
            return
        at = base + after
        seen.add(at)


def _gpt(read: Read) -> Iterator[tuple[int, int]]:
    header = read(1, 1)
    if len(header) < _SECTOR or header[:8] != b"EFI PART":
        return
    table, count, size = struct.unpack_from("<QII", header, 72)
    if size not in _GPT_ENTRY_BYTES or table >= 1 << 48:
        return
    count = min(count, _GPT_ENTRIES_AT_MOST)
    data = read(table, -(-count * size // _SECTOR))
    for number in range(count):
        entry = data[number * size : (number + 1) * size]
        if len(entry) == size and any(entry[:16]):
            yield number + 1, struct.unpack_from("<Q", entry, 32)[0]
