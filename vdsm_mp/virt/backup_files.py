# SPDX-License-Identifier: Apache-2.0
"""What lies on this host for a backup: scratch files, where the engine names none, and the socket that it is read from.

A scratch file is called `<VM>/<backup>.<target dev>`, so whose it is can be told without any other record. A socket is
called as its backup, and QEMU removes it at an orderly end only; an empty `<VM>/<backup>.socket` tells whose it is.
"""

import contextlib
import re
from collections.abc import Callable, Collection
from pathlib import Path

import msgspec

from vdsm_mp.api.errors_virt import BackupFailed
from vdsm_mp.api.types import UUID_PATTERN
from vdsm_mp.common import command, folders, log
from vdsm_mp.common.command import CommandFailed, CommandOverdue
from vdsm_mp.virt.machine import VmStatus
from vdsm_mp.virt.records import VmRecord

logger = log.named(__name__)

_UUID = re.compile(UUID_PATTERN)
_MAKE_S = 30.0
_SOCKET = ".socket"


class BackupFiles(msgspec.Struct, frozen=True):
    """run_dir: where the sockets are. scratch_dir: scratch files of our own, a folder for each VM."""

    run_dir: Path
    scratch_dir: Path

    def socket(self, backup_id: str) -> Path:
        return self.run_dir / backup_id

    def begin(self, vm_id: str, backup_id: str) -> None:
        """There is a place for all of it. Raises: BackupFailed."""
        folder = self.scratch_dir / vm_id
        try:
            for one in (self.run_dir, folder):
                _make_folder(one)
            (folder / f"{backup_id}{_SOCKET}").touch()
        except OSError as error:
            raise BackupFailed(f"there is no place for its files: {error}") from error

    def make_scratch(self, vm_id: str, backup_id: str, name: str, size_bytes: int) -> Path:
        """For one disk. Raises: BackupFailed."""
        path = self.scratch_dir / vm_id / f"{backup_id}.{name}"
        try:
            words = ["qemu-img", "create", "-q", "-f", "qcow2", str(path), str(size_bytes)]
            command.run(words, deadline_s=_MAKE_S)
            path.chmod(0o660)
        except (CommandFailed, CommandOverdue, OSError) as error:
            raise BackupFailed(f"the scratch file of {name} cannot be made: {error}") from error
        return path

    def remove(self, vm_id: str, backup_id: str = "") -> None:
        """Those of a VM, or of one of its backups. Idempotent."""
        folder = self.scratch_dir / vm_id
        for name in folders.names(folder):
            if name.startswith(f"{backup_id}." if backup_id else ""):
                if name.endswith(_SOCKET):
                    _unlink(self.socket(name.removesuffix(_SOCKET)))
                _unlink(folder / name)
        with contextlib.suppress(OSError):
            folder.rmdir()  # other backups' files may be in it

    def keep_only(self, records: Callable[[], Collection[VmRecord]]) -> None:
        """After a restart: those of VMs that do not run any more go. records: read when it is known what is there."""
        found = [name for name in folders.names(self.scratch_dir) if _UUID.match(name)]
        alive = {record.vm_id for record in records() if record.life.status is not VmStatus.DOWN}
        for vm_id in found:
            if vm_id not in alive:
                self.remove(vm_id)


def _make_folder(folder: Path) -> None:
    """QEMU makes its socket and opens its files here through our common group, whatever our umask is."""
    if not folder.exists():
        folder.mkdir(parents=True)
        folder.chmod(0o770)


def _unlink(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        logger.warning("%s of a backup stays: %s", path, error)
