# SPDX-License-Identifier: Apache-2.0
"""Files that an engine gives to a guest at its start (cloud-init, sysprep): a CD or a floppy made of them.

They come in the metadata of the disk, in base64, and the disk's source is `PAYLOAD:`. The image is named by the VM and
by what is in it, so that both hosts of a migration make the same file. It may hold passwords: only QEMU's group reads
it, and it goes when the VM ends.
"""

import base64
import contextlib
import hashlib
import json
import re
import xml.etree.ElementTree as ET
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from vdsm_mp.api.errors_virt import CannotCreateVm
from vdsm_mp.common import command, folders, log, scratch
from vdsm_mp.common.command import CommandFailed, CommandOverdue
from vdsm_mp.virt.domxml_parse import PAYLOAD
from vdsm_mp.virt.metadata import Metadata

logger = log.named(__name__)

_MAKE_S = 30.0
_FILES_AT_MOST = 256
#: A label that ISO 9660 and FAT take alike.
_LABEL = re.compile(r"[A-Za-z0-9_.-]{1,32}")
_IMAGE = re.compile(r"[0-9a-f-]{36}\.[0-9a-f]{32}\.img")


class Payloads:
    """folder: where the images are, `<vm id>.<hash>.img`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def fill(self, domain: ET.Element, metadata: Metadata, vm_id: str) -> None:
        """Make the images and put their paths into `domain` itself. Raises: CannotCreateVm."""
        for source, device, payload in wanted(domain, metadata):
            path = self._path(source, vm_id, payload)
            self._make(path, device, payload)
            source.set("file", str(path))
            logger.info("vm=%s payload %s is made", vm_id, path.name)

    def sweep(self) -> None:
        """After a start: files of guests that nobody made an image of, because we died over it."""
        scratch.sweep(self._folder)

    def remove(self, vm_id: str) -> None:
        """Idempotent."""
        for name in folders.names(self._folder):
            if name.startswith(f"{vm_id}."):
                with contextlib.suppress(OSError):
                    (self._folder / name).unlink(missing_ok=True)

    def _path(self, source: ET.Element, vm_id: str, payload: Mapping[str, Any]) -> Path:
        """A VM that comes from another host has one already, and its memory may name that."""
        name = PurePosixPath(source.get("file", "")).name
        if not (_IMAGE.fullmatch(name) and name.startswith(vm_id)):
            content = json.dumps(payload, sort_keys=True).encode()
            name = f"{vm_id}.{hashlib.blake2b(content, digest_size=16).hexdigest()}.img"
        return self._folder / name

    def _make(self, path: Path, device: str, payload: Mapping[str, Any]) -> None:
        if not self._folder.exists():
            self._folder.mkdir(parents=True)
            self._folder.chmod(0o770)
        with _place(self._folder) as place:
            tree, fresh = place / "tree", place / "image"
            tree.mkdir()
            _unpack(tree, payload.get("file") or {})
            try:
                _PROGRAMS[device](tree, fresh, _label(payload))
                fresh.chmod(0o640)
                fresh.rename(path)
            except (CommandFailed, CommandOverdue, OSError) as error:
                raise CannotCreateVm(f"the {device} with its payload cannot be made: {error}") from error


@contextlib.contextmanager
def _place(below: Path) -> Iterator[Path]:
    try:
        with scratch.folder(below) as place:
            yield place
    except OSError as error:
        raise CannotCreateVm(f"there is no place for its payload: {error}") from error


def wanted(domain: ET.Element, metadata: Metadata) -> Iterator[tuple[ET.Element, str, Mapping[str, Any]]]:
    """(<source>, "cdrom" or "floppy", payload) of each disk that is made of files."""
    for disk in domain.iterfind("devices/disk"):
        target, source = disk.find("target"), disk.find("source")
        name = "" if target is None else target.get("dev", "")
        payload = metadata.device(devtype="disk", name=name).get(PAYLOAD)
        if source is not None and isinstance(payload, Mapping) and disk.get("device") in _PROGRAMS:
            yield source, disk.get("device", ""), payload


def _unpack(tree: Path, files: Any) -> None:
    if not isinstance(files, Mapping):
        raise CannotCreateVm("its payload has no files but something else")
    if len(files) > _FILES_AT_MOST:
        raise CannotCreateVm(f"its payload has more than {_FILES_AT_MOST} files")
    for name, content in files.items():
        parts = PurePosixPath(name).parts
        if not parts or parts[0] == "/" or not {"..", "."}.isdisjoint(parts) or "\0" in name or len(name) > 255:
            raise CannotCreateVm(f"its payload has a file with a bad name: {name!r}")
        path = tree.joinpath(*parts)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(base64.b64decode(str(content), validate=False))
        except (OSError, ValueError) as error:
            raise CannotCreateVm(f"its payload {name!r} cannot be read: {error}") from error


def _label(payload: Mapping[str, Any]) -> str:
    label = str(payload.get("volId") or "")
    if label and not _LABEL.fullmatch(label):
        raise CannotCreateVm(f"{label!r} is no label of a payload")
    return label


def _cd(tree: Path, image: Path, label: str) -> None:
    words = ["genisoimage", "-quiet", "-J", "-R", *(["-V", label] if label else []), "-o", str(image), str(tree)]
    command.run(words, deadline_s=_MAKE_S)


def _floppy(tree: Path, image: Path, label: str) -> None:
    words = ["mformat", "-C", "-f", "1440", *(["-v", label[:11]] if label else []), "-i", str(image), "::"]
    command.run(words, deadline_s=_MAKE_S)
    found = sorted(str(path) for path in tree.iterdir())
    if found:
        command.run(["mcopy", "-s", "-i", str(image), *found, "::/"], deadline_s=_MAKE_S)


_PROGRAMS = {"cdrom": _cd, "floppy": _floppy}
