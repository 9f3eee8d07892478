# SPDX-License-Identifier: Apache-2.0
"""Disks whose changes last as long as their VM: a snapshot that is plugged to be read, by a backup program for example.

The volume itself is only read; what the guest writes goes to an overlay in a folder of this host, which is removed with
the disk or with the VM. An overlay is called `<domain>-<volume>.<vm>-<random>`, so whose it is can be told without
any other record. Such a VM cannot leave this host.
"""

import secrets
import xml.etree.ElementTree as ET
from collections.abc import Callable, Collection, Mapping
from pathlib import Path

import msgspec

from vdsm_mp.api.errors_virt import CannotCreateVm
from vdsm_mp.api.internal import PreparedDrive
from vdsm_mp.common import command, folders, log
from vdsm_mp.common.command import CommandFailed, CommandOverdue
from vdsm_mp.common.errors import Error
from vdsm_mp.virt import domxml_parse
from vdsm_mp.virt.metadata import Metadata
from vdsm_mp.virt.records import VmRecord, VolumeIds

logger = log.named(__name__)

_MAKE_S = 30.0


class Transients:
    """folder: where the overlays are."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def over(
        self, vm_id: str, ids: VolumeIds, prepared: PreparedDrive, failed: Callable[[str], Error] = CannotCreateVm
    ) -> PreparedDrive:
        """What the guest gets instead of the volume. Raises: what `failed` makes."""
        path = self._folder / f"{ids.sd_id}-{ids.volume_id}.{vm_id}-{secrets.token_hex(4)}"
        form = "qcow2" if prepared.format == "cow" else "raw"
        try:
            if not self._folder.exists():
                self._folder.mkdir(parents=True)
                self._folder.chmod(0o770)
            words = ["qemu-img", "create", "-q", "-f", "qcow2", "-F", form, "-b", prepared.path, str(path)]
            command.run(words, deadline_s=_MAKE_S)
            path.chmod(0o660)
        except (CommandFailed, CommandOverdue, OSError) as error:
            raise failed(f"no place for what is written to volume {ids.volume_id}: {error}") from error
        logger.info("vm=%s what it writes to volume %s goes to %s", vm_id, ids.volume_id, path.name)
        return msgspec.structs.replace(prepared, path=str(path), format="cow", block=False)

    def over_all(
        self, vm_id: str, domain: ET.Element, metadata: Metadata, prepared: Mapping[str, PreparedDrive]
    ) -> dict[str, PreparedDrive]:
        """The same for those disks of a VM that want it, {target dev: drive}. Raises: CannotCreateVm."""
        found = dict(prepared)
        for disk in domain.iterfind("devices/disk"):
            drive = domxml_parse.drive(disk, metadata)
            if drive.transient and drive.ids is not None and drive.name in found:
                found[drive.name] = self.over(vm_id, drive.ids, found[drive.name])
                uncached(disk)
        return found

    def remove(self, vm_id: str, ids: VolumeIds | None = None) -> None:
        """Those of a VM, or of one of its disks. Idempotent."""
        which = "" if ids is None else f"{ids.sd_id}-{ids.volume_id}"
        for name in folders.names(self._folder):
            if name.startswith(which) and f".{vm_id}-" in name[len(which) :]:
                _unlink(self._folder / name)

    def keep_only(self, records: Collection[VmRecord]) -> None:
        """After a restart: those of VMs that are not there any more go. A VM is there before its overlays.

        VDSM's carry no VM in their names (`<domain>-<volume>.<random>`): they stay as long as a VM has them open.
        """
        vm_ids = {record.vm_id for record in records}
        open_paths = {drive.path for record in records for drive in record.devices.drives}
        for path in self._folder.glob("*.*"):
            if path.name.rpartition(".")[2].rpartition("-")[0] not in vm_ids and str(path) not in open_paths:
                _unlink(path)
                logger.info("overlay %s belongs to no VM and is removed", path.name)


def uncached(disk: ET.Element) -> None:
    """The folder may be on a file system without direct I/O."""
    driver = disk.find("driver")
    if driver is None:
        driver = ET.SubElement(disk, "driver", name="qemu")
    driver.set("cache", "writethrough")
    if driver.get("io") == "native":
        driver.set("io", "threads")


def _unlink(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        logger.warning("overlay %s stays: %s", path, error)
