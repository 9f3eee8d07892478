# SPDX-License-Identifier: Apache-2.0
"""qemu-img: argv builders, and runs with progress, abort and a deadline.

The format is always given (`-f`): a header inside a raw disk is the guest's word. Formats are "raw" and "qcow2".
Two writers of one image are kept apart three times over: the kernel kills the program together with the thread that
waits for it, the master sweeps a dead worker's session, and QEMU holds a lock on the file until its process is gone.
"""

import re
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from vdsm_mp.common import command
from vdsm_mp.tasks.progress import Progress

QEMU_IMG = "qemu-img"
#: Header-sized work.
SHORT_S = 60.0
#: Moving data. Work is cut short by abort, not by this; it only bounds a program gone mad.
LONG_S = 7 * 24 * 3600.0
#: Long copies give way to guests and to the agent.
NICE = ("nice", "-n", "19", "ionice", "-c", "3")

_PCT = re.compile(rb"\((\d+\.\d+)/100%\)")


class ImageInfo(msgspec.Struct, frozen=True, rename="kebab"):
    """`qemu-img info --output json`, as far as it is used."""

    format: str
    virtual_size: int
    actual_size: int = 0
    cluster_size: int = 0
    backing_filename: str | None = None
    backing_filename_format: str | None = None
    format_specific: dict[str, Any] = {}

    @property
    def compat(self) -> str | None:
        found = self.format_specific.get("data", {}).get("compat")
        return found if isinstance(found, str) else None

    @property
    def bitmaps(self) -> list[dict[str, Any]]:
        """[{"name", "granularity", "flags": […]}]"""
        return list(self.format_specific.get("data", {}).get("bitmaps", ()))

    @property
    def external_data(self) -> bool:
        return "data-file" in self.format_specific.get("data", {})


class Measured(msgspec.Struct, frozen=True, rename="kebab"):
    """Bytes. bitmaps: more for the bitmaps, 0 when the format has none."""

    required: int
    fully_allocated: int
    bitmaps: int = 0


def info(path: str, fmt: str, *, shared: bool = True, untrusted: bool = False) -> ImageInfo:
    """shared: the image may be open elsewhere. untrusted: under limits. Raises: CommandFailed, CommandOverdue."""
    argv = [QEMU_IMG, "info", "--output", "json", "-f", fmt, *(("-U",) if shared else ()), path]
    done = command.run([*(command.UNTRUSTED if untrusted else ()), *argv], deadline_s=SHORT_S)
    return msgspec.json.decode(done.out, type=ImageInfo)


def create(path: str, fmt: str, size_bytes: int, *, compat: str = "", backing: str = "", backing_fmt: str = "") -> None:
    """backing: a bare name beside path; it is written down, not opened."""
    argv = [QEMU_IMG, "create", "-q", "-f", fmt]
    if compat:
        argv += ["-o", f"compat={compat}"]
    if backing:
        argv += ["-u", "-b", backing, "-F", backing_fmt]
    command.run([*argv, path, str(size_bytes)], deadline_s=SHORT_S)


def convert(
    source: str,
    source_fmt: str,
    target: str,
    target_fmt: str,
    progress: Progress,
    *,
    create: bool,
    compat: str = "",
    backing: str = "",
    backing_fmt: str = "",
    target_is_zero: bool = False,
    unordered: bool = False,
    bitmaps: bool = False,
) -> None:
    """Copy data. create: the target is made anew; otherwise it is there and keeps its shape.

    backing: of the target (a bare name beside it); what is in it is not copied. target_is_zero: only without backing.
    """
    argv = [QEMU_IMG, "convert", "-p", "-t", "none", "-T", "none", "-f", source_fmt, "-O", target_fmt]
    if create:
        options = [f"compat={compat}"] if compat else []
        if backing:
            options += [f"backing_file={backing}", f"backing_fmt={backing_fmt}"]
        if options:
            argv += ["-o", ",".join(options)]
    else:
        argv.append("-n")
        if backing:
            argv += ["-B", backing]
        elif target_is_zero:
            argv.append("--target-is-zero")
    if unordered:
        argv.append("-W")
    if bitmaps:
        argv += ["--bitmaps", "--skip-broken-bitmaps"]
    _long([*argv, source, target], progress)


def commit(top: str, top_fmt: str, base: str, progress: Progress) -> None:
    """Write what `top` and what lies between have into `base` (a bare name beside it)."""
    _long([QEMU_IMG, "commit", "-p", "-t", "none", "-b", base, "-f", top_fmt, top], progress)


def rebase_unsafe(path: str, backing: str, backing_fmt: str) -> None:
    """Only the name in the header changes."""
    argv = [QEMU_IMG, "rebase", "-t", "none", "-T", "none", "-u", "-f", "qcow2", "-F", backing_fmt, "-b", backing, path]
    command.run(argv, deadline_s=SHORT_S)


def resize(path: str, fmt: str, size_bytes: int) -> None:
    command.run([QEMU_IMG, "resize", "-q", "-f", fmt, path, str(size_bytes)], deadline_s=SHORT_S)


def amend(path: str, compat: str) -> None:
    command.run([QEMU_IMG, "amend", "-f", "qcow2", "-o", f"compat={compat}", path], deadline_s=SHORT_S)


def measure(layers: Sequence[tuple[str, str]], target_fmt: str) -> Measured:
    """How much the data of a chain takes in another format.

    layers: [(path, format)], base first; what lies below the first is left out.
    """
    image: dict[str, Any] | None = None
    for path, fmt in layers:
        below = image
        image = {"driver": fmt, "file": {"driver": "file", "filename": path, "locking": "off"}}
        if fmt == "qcow2":
            image["backing"] = below
    argv = [QEMU_IMG, "measure", "--output", "json", "-O", target_fmt, "json:" + msgspec.json.encode(image).decode()]
    return msgspec.json.decode(command.run(argv, deadline_s=SHORT_S).out, type=Measured)


def end_offset(path: str, fmt: str) -> int:
    """Where the used part of the file ends. Leaked clusters are no error."""
    argv = [QEMU_IMG, "check", "--output", "json", "-f", fmt, path]
    found: dict[str, Any] = msgspec.json.decode(command.run(argv, deadline_s=LONG_S, accept=(0, 3)).out)
    return int(found["image-end-offset"])


def bitmap(
    path: str, name: str, *actions: str, granularity: int = 0, merge_from: tuple[str, str] | None = None
) -> None:
    """actions: --add --remove --clear --enable --disable --merge. merge_from: (path of the source, bitmap in it)."""
    argv = [QEMU_IMG, "bitmap", *actions]
    if granularity:
        argv += ["-g", str(granularity)]
    if merge_from is not None:
        source, source_bitmap = merge_from
        argv += ["--merge", source_bitmap, "-b", source, "-F", "qcow2"]
    command.run([*argv, "-f", "qcow2", path, name], deadline_s=LONG_S)


def fallocate(path: str, offset: int, length: int, progress: Progress) -> None:
    """Allocate a range; on file systems that cannot, by writing."""
    if length > 0:
        argv = ["fallocate", "--posix", "--offset", str(offset), "--length", str(length), path]
        _long(argv, progress)


def flush(path: str, progress: Progress) -> None:
    """What was written is on storage, caches of a device included. A program: what hangs can be left."""
    _long(["sync", path], progress)


def _long(argv: Sequence[str], progress: Progress) -> None:
    """Raises: TaskAborted, CommandFailed."""
    try:
        command.run(
            [*NICE, *argv], deadline_s=LONG_S, on_output=_reader_of(progress), abort=lambda: progress.interrupted
        )
    except command.CommandAborted:
        progress.check()
        raise


def _reader_of(progress: Progress) -> Callable[[bytes], None]:
    """qemu prints `    (12.34/100%)\\r`, possibly cut anywhere."""
    rest = b""

    def take(data: bytes) -> None:
        nonlocal rest
        rest = (rest + data)[-64:]
        found = _PCT.findall(rest)
        if found:
            progress.at(float(found[-1]))

    return take
