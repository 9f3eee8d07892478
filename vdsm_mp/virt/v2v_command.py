# SPDX-License-Identifier: Apache-2.0
"""The words for virt-v2v, and what it says meanwhile. No I/O.

Source: virt-v2v(1), sections "-o vdsm" and "MACHINE READABLE OUTPUT".
"""

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from vdsm_mp.api.errors_virt import BadConversion
from vdsm_mp.api.v2v import ConvertedVm

PROGRAM = "virt-v2v"
_FORMATS = {"raw": "raw", "cow": "qcow2"}
_ALLOCATIONS = frozenset({"sparse", "preallocated"})
_COMPATS = frozenset({None, "0.10", "1.1"})
_DISK = re.compile(r"Copying disk (\d{1,4})/(\d{1,4})")
_PERCENT = re.compile(rb"(\d{1,3})(?:/100|%)|\((\d{1,3}(?:\.\d+)?)/100%\)")
#: Longer lines are cut: nothing that is looked for is so long.
_LINE_BYTES = 64 << 10


class Source(msgspec.Struct, frozen=True):
    """Where a VM comes from. words: its part of the command line; last: what stands at its very end."""

    words: tuple[str, ...]
    last: str


def check(vm: ConvertedVm) -> None:
    """Raises: BadConversion."""
    if not vm.disks:
        raise BadConversion("it has no disks")
    if len({disk.volume_id for disk in vm.disks}) != len(vm.disks):
        raise BadConversion("two of its disks go into one volume")
    if vm.format.lower() not in _FORMATS:
        raise BadConversion(f"{vm.format!r} is no format of volumes")
    if vm.allocation.lower() not in _ALLOCATIONS:
        raise BadConversion(f"{vm.allocation!r} is neither Sparse nor Preallocated")
    if vm.qcow2_compat not in _COMPATS:
        raise BadConversion(f"{vm.qcow2_compat!r} is no version of QCOW2")
    if not vm.name or len(vm.name) > 255 or not vm.name.isprintable():
        raise BadConversion("its name is none")
    if vm.virtio_iso_path is not None and not (vm.virtio_iso_path.startswith("/") and vm.virtio_iso_path.isprintable()):
        raise BadConversion("the path of the drivers is none")


def words(source: Source, vm: ConvertedVm, job_id: str, *, place: Path, ovfs: Path, password: Path | None) -> list[str]:
    """place: a storage domain's folder, with `images/<image>/<volume>`. ovfs: where `<job id>.ovf` is put.

    What clients name comes after `--`: none of it is an option.
    """
    said = [PROGRAM, *source.words, "-o", "vdsm", "-of", _FORMATS[vm.format.lower()], "-oa", vm.allocation.lower()]
    if vm.qcow2_compat is not None:
        said += ["--vdsm-compat", vm.qcow2_compat]
    for disk in vm.disks:
        said += ["--vdsm-image-uuid", disk.image_id, "--vdsm-vol-uuid", disk.volume_id]
    said += ["--vdsm-vm-uuid", job_id, "--vdsm-ovf-output", str(ovfs), "-os", str(place), "--machine-readable"]
    if password is not None:
        said += ["--password-file", str(password)]
    return [*said, "--", source.last]


class Output:
    """virt-v2v's stdout. at(disk, of, percent); stage(what it does now). `error`: the last thing that it called one."""

    def __init__(self, at: Callable[[int, int, float], None], stage: Callable[[str], None]) -> None:
        self._at = at
        self._stage = stage
        self._rest = b""
        self._disk: tuple[int, int] | None = None
        self.error = ""

    def take(self, piece: bytes) -> None:
        # Progress bars end their lines with carriage returns.
        *lines, rest = re.split(rb"[\r\n]", self._rest + piece)
        self._rest = rest[-_LINE_BYTES:]
        for line in lines:
            self._line(line[:_LINE_BYTES])

    def _line(self, line: bytes) -> None:
        text = line.decode("utf-8", "replace")
        if line.startswith(b"{"):
            self._message(text)
        elif found := _DISK.search(text):
            self._begin(int(found[1]), int(found[2]))
        elif self._disk is not None and (percent := _PERCENT.search(line)):
            self._at(*self._disk, min(100.0, float(percent[1] or percent[2])))

    def _message(self, text: str) -> None:
        try:
            said = json.loads(text)
        except ValueError:
            return  # a line of something else that looked like one
        if not isinstance(said, dict):
            return
        message = str(said.get("message", ""))
        if said.get("type") == "error":
            self.error = message
        elif found := _DISK.search(message):
            self._begin(int(found[1]), int(found[2]))
        else:
            self._stage(message)

    def _begin(self, disk: int, of: int) -> None:
        if (disk, of) != self._disk:
            self._disk = (disk, of)
            self._at(disk, of, 0.0)


def reason(said: Sequence[str], untold: str) -> str:
    """One paragraph of what went wrong: the first that says anything, without how to report a bug."""
    for text in (*said, untold):
        kept = text.partition("If reporting bugs")[0].strip()
        if kept:
            return " ".join(kept.split())[:1000]
    return ""
