# SPDX-License-Identifier: Apache-2.0
"""One conversion, from volumes that are prepared to volumes that are given back. Blocks for hours.

virt-v2v wants a storage domain's folder, so it gets one of links to the volumes. It runs at the lowest priority, with
a password in a file that only it and we read; all that it leaves when it is killed lies in `work_dir` and goes.
"""

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import msgspec

from vdsm_mp.api.errors_virt import BadConversion
from vdsm_mp.api.internal import PreparedDrive
from vdsm_mp.api.v2v import ConvertedVm
from vdsm_mp.common import command, libguestfs, log, scratch
from vdsm_mp.common.command import CommandFailed, CommandOverdue
from vdsm_mp.tasks.progress import Progress
from vdsm_mp.virt import v2v_command
from vdsm_mp.virt.drives import Drives
from vdsm_mp.virt.records import VolumeIds
from vdsm_mp.virt.v2v_command import Output, Source
from vdsm_mp.virt.v2v_jobs import At
from vdsm_mp.virt.v2v_talk import talk

logger = log.named(__name__)

_NICE = ("nice", "-n", "19", "ionice", "-c", "3")
_LONG_S = 48 * 3600.0
_CHECK_S = 120.0


class Account(msgspec.Struct, frozen=True):
    """At a foreign hypervisor; the password does not show."""

    uri: str
    username: str
    password: str

    def __repr__(self) -> str:
        return f"Account({self.uri}, {self.username})"


class Converter(msgspec.Struct, frozen=True):
    """folder: links, password files and descriptions, in memory. work_dir: what virt-v2v needs meanwhile, on a disk."""

    drives: Drives
    folder: Path
    work_dir: Path

    def sweep(self) -> None:
        """After a start: what killed conversions left."""
        for path in (*self.folder.glob("*.place"), *self.folder.glob("*.password")):
            _remove(path)
        scratch.sweep(self.work_dir)

    def from_ova(self, path: str, job_id: str, vm: ConvertedVm, progress: Progress, at: At) -> None:
        """Raises: BadOva, BadConversion, CommandAborted, what storage raises."""
        ask = {"do": "check", "path": path}
        talk(ask, deadline_s=_CHECK_S, program=_NICE, abort=lambda: progress.interrupted)
        self._convert(Source(("-i", "ova"), path), None, job_id, vm, progress, at)

    def from_hypervisor(self, account: Account, job_id: str, vm: ConvertedVm, progress: Progress, at: At) -> None:
        """Raises: like from_ova."""
        self._convert(Source(("-ic", account.uri), vm.name), account.password, job_id, vm, progress, at)

    def copy(self, account: Account, vm: ConvertedVm, progress: Progress, at: At) -> None:
        """The disks as they are. Raises: ForeignHypervisorFailed, and like from_ova."""
        with self._prepared(vm) as volumes:
            ask = {
                "do": "copy", "uri": account.uri, "username": account.username, "password": account.password,
                "name": vm.name, "targets": [one.path for one in volumes],
                "sparse": vm.allocation.lower() == "sparse",
            }  # fmt: skip
            talk(ask, deadline_s=_LONG_S, program=_NICE, at=at, abort=lambda: progress.interrupted)

    def _convert(
        self, source: Source, password: str | None, job_id: str, vm: ConvertedVm, progress: Progress, at: At
    ) -> None:
        output = Output(at, lambda stage: logger.info("conversion %s: %s", job_id, stage))
        try:
            with (
                self._prepared(vm) as volumes,
                self._place(job_id, vm, volumes) as place,
                self._secret(job_id, password) as secret,
                libguestfs.environment(self.work_dir) as env,
            ):
                # Its overlays, as large as what it changes, go elsewhere by themselves.
                env |= {"VIRT_V2V_TMPDIR": env["TMPDIR"]}
                if vm.virtio_iso_path is not None:
                    env |= {"VIRTIO_WIN": vm.virtio_iso_path}
                words = v2v_command.words(source, vm, job_id, place=place, ovfs=self.folder, password=secret)
                command.run(
                    [*_NICE, *words],
                    deadline_s=_LONG_S,
                    env=env,
                    on_output=output.take,
                    abort=lambda: progress.interrupted,
                    end_group=True,
                )
        except CommandFailed as error:
            raise BadConversion(v2v_command.reason((output.error, error.err), str(error))) from error
        except (CommandOverdue, OSError) as error:
            raise BadConversion(str(error)) from error

    @contextlib.contextmanager
    def _prepared(self, vm: ConvertedVm) -> Iterator[list[PreparedDrive]]:
        held: list[VolumeIds] = []
        try:
            prepared = []
            for ids in volumes_of(vm):
                held.append(ids)
                prepared.append(self.drives.prepare(ids))
            yield prepared
        finally:
            for ids in held:
                self.drives.teardown(ids)

    @contextlib.contextmanager
    def _place(self, job_id: str, vm: ConvertedVm, volumes: list[PreparedDrive]) -> Iterator[Path]:
        top = self.folder / f"{job_id}.place"
        try:
            for disk, volume in zip(vm.disks, volumes, strict=True):
                folder = top / vm.sd_id / "images" / disk.image_id
                folder.mkdir(parents=True, exist_ok=True)
                (folder / disk.volume_id).symlink_to(volume.path)
            yield top / vm.sd_id
        finally:
            _remove(top)

    @contextlib.contextmanager
    def _secret(self, job_id: str, password: str | None) -> Iterator[Path | None]:
        if password is None:
            yield None
            return
        path = self.folder / f"{job_id}.password"
        try:
            with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb") as file:
                file.write(password.encode())
            yield path
        finally:
            _remove(path)


def volumes_of(vm: ConvertedVm) -> list[VolumeIds]:
    return [VolumeIds(vm.pool_id, vm.sd_id, disk.image_id, disk.volume_id) for disk in vm.disks]


def _remove(path: Path) -> None:
    try:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    except OSError as error:
        logger.warning("%s stays: %s", path, error)
