# SPDX-License-Identifier: Apache-2.0
"""Backup of a running VM: QEMU shows the disks of one moment over NBD, and marks what changes after it.

The marks are checkpoints: a later backup asks only for what changed since. Guest writes go on; what they overwrite
is first copied to scratch files, which are given by the engine, or made here and removed with the backup.
"""

import contextlib
import re
import time
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import libvirt
import libvirt_qemu
import msgspec

from vdsm_mp.api.errors_virt import (
    BackupFailed,
    CheckpointFailed,
    InconsistentCheckpoint,
    LibvirtUnavailable,
    NoSuchBackup,
    NoSuchCheckpoint,
    NoSuchVm,
    VmNotResponding,
    VmOperationFailed,
)
from vdsm_mp.api.types import UUID_PATTERN
from vdsm_mp.api.verb import DONE, Status, handles
from vdsm_mp.api.vm_backup import (
    DeleteCheckpoints,
    DumpCheckpoint,
    GetBackupInfo,
    ListCheckpoints,
    RedefineCheckpoints,
    StartBackup,
    StopBackup,
)
from vdsm_mp.common import clock, log, xml
from vdsm_mp.common.errors import Error
from vdsm_mp.virt.backup_files import BackupFiles
from vdsm_mp.virt.backup_freeze import Freezes
from vdsm_mp.virt.connection import translate, translated
from vdsm_mp.virt.devices import Devices
from vdsm_mp.virt.keeping import is_backed_up
from vdsm_mp.virt.machine import VmStatus
from vdsm_mp.virt.patience import UNDECIDED, Again, decided
from vdsm_mp.virt.records import Drive, VmRecord

logger = log.named(__name__)

_UUID = re.compile(UUID_PATTERN)
#: QEMU's words for what keeps a backup from beginning although none is running.
_LEFT_SERVER = "NBD server already running"
#: Of libvirt 6.10 and later.
_INCONSISTENT = getattr(libvirt, "VIR_ERR_CHECKPOINT_INCONSISTENT", -1)
_END_S = 10.0
_END_TICK_S = 0.05


class Backups(msgspec.Struct, frozen=True):
    """What the verbs of this file work with."""

    devices: Devices
    freezes: Freezes
    files: BackupFiles
    again: Again

    def info(self, record: VmRecord, backup: ET.Element) -> dict[str, str]:
        """{image id: NBD URL}."""
        server = backup.find("server")
        path = "" if server is None else server.get("socket", "")
        images = {drive.name: drive.ids.image_id for drive in record.devices.drives if drive.ids is not None}
        return {
            images[disk.get("name", "")]: f"nbd:unix:{path}:exportname={disk.get('exportname') or disk.get('name')}"
            for disk in backup.iterfind("disks/disk")
            if disk.get("backup", "yes") == "yes" and disk.get("name") in images
        }


@handles(StartBackup)
def start_backup(backups: Backups, ask: StartBackup) -> dict[str, Any]:
    """{"disks": {image id: URL}, "checkpoint": XML when one was made}. On failure nothing stays."""
    record = backups.devices.vms.running(ask.vm_id, "begin a backup")
    config = ask.config
    backup_id, disks = str(config.get("backup_id") or ""), config.get("disks")
    if not _UUID.match(backup_id) or not isinstance(disks, list) or not disks:
        raise BackupFailed("backup_id and disks are needed")
    since, to = str(config.get("from_checkpoint_id") or ""), str(config.get("to_checkpoint_id") or "")
    chosen = [(_drive(record, entry), entry) for entry in disks]
    if any(entry.get("backup_mode") == "incremental" for _, entry in chosen) and not since:
        raise BackupFailed("an incremental backup needs from_checkpoint_id")
    dom = backups.devices.connection.domain(ask.vm_id)
    if is_backed_up(dom):
        raise BackupFailed("another backup of this virtual machine is running")
    checkpoint = _checkpoint(backup_id, to, config, record, chosen) if to else None
    consistent, begun = bool(config.get("require_consistency")), False
    try:
        backups.files.begin(ask.vm_id, backup_id)
        request = _request(backups, backup_id, since, chosen, _scratch(backups, dom, record, backup_id, chosen))
        with (
            _about_checkpoint(ask.vm_id, since, BackupFailed),
            backups.freezes.frozen(ask.vm_id, consistent=consistent),
        ):
            _begin(ask.vm_id, dom, request, checkpoint)
            begun = True
        with translated(ask.vm_id, BackupFailed):
            running = xml.parse(dom.backupGetXMLDesc(0))
            made = dom.checkpointLookupByName(to).getXMLDesc(0) if checkpoint is not None else ""
    except BaseException as error:
        if begun or isinstance(error, UNDECIDED):
            _take_back(backups, ask.vm_id, backup_id, to)
        else:
            backups.files.remove(ask.vm_id, backup_id)
        raise
    logger.info("vm=%s backup %s of %d disks begins", ask.vm_id, backup_id, len(chosen))
    answer: dict[str, Any] = {"disks": backups.info(record, running)}
    return answer | ({"checkpoint": made} if made else {})


@handles(StopBackup)
def stop_backup(backups: Backups, ask: StopBackup) -> Status:
    """Also when it is over already."""
    record = backups.devices.vms.find(ask.vm_id)
    if record.life.status is not VmStatus.DOWN:  # else it has ended with it
        _stop(backups, ask.vm_id, ask.backup_id)
    backups.files.remove(ask.vm_id, ask.backup_id)
    return DONE


def _stop(backups: Backups, vm_id: str, backup_id: str) -> None:
    dom = backups.devices.connection.domain(vm_id)
    if not _runs(backups, vm_id, dom, backup_id):
        # libvirt may still be at the start of it, whose caller has died: nobody would end that.
        try:
            decided(lambda: backups.devices.keeper.take_turn(vm_id))
        except (VmNotResponding, VmOperationFailed) as error:
            raise BackupFailed(f"whether it began is not known yet: {error}") from error
    if _runs(backups, vm_id, dom, backup_id):
        _end(backups, vm_id, dom, backup_id)


@handles(GetBackupInfo)
def get_backup_info(backups: Backups, ask: GetBackupInfo) -> dict[str, Any]:
    record = backups.devices.vms.running(ask.vm_id, "tell of its backup", even_busy=True)
    dom = backups.devices.connection.domain(ask.vm_id)
    answer: dict[str, Any] = {"disks": backups.info(record, _running(backups, ask.vm_id, dom, ask.backup_id))}
    if ask.checkpoint_id:
        with _about_checkpoint(ask.vm_id, ask.checkpoint_id, CheckpointFailed):
            answer["checkpoint"] = dom.checkpointLookupByName(ask.checkpoint_id).getXMLDesc(0)
    return answer


@handles(ListCheckpoints)
def list_checkpoints(devices: Devices, ask: ListCheckpoints) -> list[str]:
    """Oldest first."""
    devices.vms.running(ask.vm_id, "list its checkpoints", even_busy=True)
    with translated(ask.vm_id, CheckpointFailed):
        found = devices.connection.domain(ask.vm_id).listAllCheckpoints(libvirt.VIR_DOMAIN_CHECKPOINT_LIST_TOPOLOGICAL)
        return [checkpoint.getName() for checkpoint in found]


@handles(DumpCheckpoint)
def dump_checkpoint(devices: Devices, ask: DumpCheckpoint) -> dict[str, str]:
    devices.vms.running(ask.vm_id, "dump a checkpoint", even_busy=True)
    with _about_checkpoint(ask.vm_id, ask.checkpoint_id, CheckpointFailed):
        checkpoint = devices.connection.domain(ask.vm_id).checkpointLookupByName(ask.checkpoint_id)
        return {"checkpoint": checkpoint.getXMLDesc(0)}


@handles(DeleteCheckpoints)
def delete_checkpoints(devices: Devices, ask: DeleteCheckpoints) -> dict[str, Any]:
    """{"checkpoint_ids": those that are gone now} and, when one could not be removed, "error"."""
    devices.vms.running(ask.vm_id, "delete checkpoints")
    dom, done = devices.connection.domain(ask.vm_id), list[str]()
    for checkpoint_id in ask.checkpoint_ids:
        try:
            dom.checkpointLookupByName(checkpoint_id).delete()
        except libvirt.libvirtError as error:
            if error.get_error_code() != libvirt.VIR_ERR_NO_DOMAIN_CHECKPOINT:
                return _partly(done, error)
        done.append(checkpoint_id)
    return {"checkpoint_ids": done}


@handles(RedefineCheckpoints)
def redefine_checkpoints(devices: Devices, ask: RedefineCheckpoints) -> dict[str, Any]:
    """In the order given; stops at the first that libvirt does not take, which `error` tells."""
    record = devices.vms.running(ask.vm_id, "define checkpoints")
    dom, done = devices.connection.domain(ask.vm_id), list[str]()
    flags = libvirt.VIR_DOMAIN_CHECKPOINT_CREATE_REDEFINE | libvirt.VIR_DOMAIN_CHECKPOINT_CREATE_REDEFINE_VALIDATE
    for entry in ask.checkpoints:
        text = entry.get("xml")
        try:
            described = xml.parse(text) if isinstance(text, str) else _redefined(record, entry)
            dom.checkpointCreateXML(xml.dump(described), flags)
        except libvirt.libvirtError as error:
            return _partly(done, error)
        except BackupFailed as error:
            logger.warning("vm=%s checkpoint %s: %s", ask.vm_id, entry.get("id"), error)
            return {"checkpoint_ids": done, "error": {"code": CheckpointFailed.code, "message": str(error)}}
        done.append(str(entry.get("id") or ""))
    return {"checkpoint_ids": done}


@contextlib.contextmanager
def _about_checkpoint(vm_id: str, checkpoint_id: str, failed: Callable[[str], Error]) -> Iterator[None]:
    """As `translated`, and tells a checkpoint that is not there, or does not fit the disks, from other failures."""
    try:
        yield
    except libvirt.libvirtError as error:
        if error.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN_CHECKPOINT:
            raise NoSuchCheckpoint(checkpoint_id) from error
        if error.get_error_code() == _INCONSISTENT:
            raise InconsistentCheckpoint(error.get_error_message() or str(error)) from error
        raise translate(error, vm_id, failed) from error


def _partly(done: list[str], error: libvirt.libvirtError) -> dict[str, Any]:
    failure: Error = CheckpointFailed(error.get_error_message() or str(error))
    if error.get_error_code() == _INCONSISTENT:
        failure = InconsistentCheckpoint(error.get_error_message() or str(error))
    logger.warning("%s", failure)
    return {"checkpoint_ids": done, "error": {"code": failure.code, "message": str(failure)}}


def _begin(vm_id: str, dom: Any, request: ET.Element, checkpoint: ET.Element | None) -> None:
    """Raises: libvirtError."""
    asked = xml.dump(request), None if checkpoint is None else xml.dump(checkpoint)
    try:
        dom.backupBegin(*asked, libvirt.VIR_DOMAIN_BACKUP_BEGIN_REUSE_EXTERNAL)
    except libvirt.libvirtError as error:
        if _LEFT_SERVER not in str(error):
            raise
        _end_left_server(vm_id, dom)
        dom.backupBegin(*asked, libvirt.VIR_DOMAIN_BACKUP_BEGIN_REUSE_EXTERNAL)


def _take_back(backups: Backups, vm_id: str, backup_id: str, to: str) -> None:
    """A start whose caller hears of a failure may have happened: end what runs, and forget its checkpoint and files.

    Where that cannot be told soon, later, as long as QEMU may hang; after that, VM.stop_backup does it.
    """

    begun = False

    def end() -> None:
        nonlocal begun
        backups.devices.keeper.take_turn(vm_id)
        dom = backups.devices.connection.domain(vm_id)
        if _runs(backups, vm_id, dom, backup_id):
            begun = True
            _end(backups, vm_id, dom, backup_id)
        if not begun:
            return
        if to:
            with contextlib.suppress(NoSuchCheckpoint), _about_checkpoint(vm_id, to, CheckpointFailed):
                dom.checkpointLookupByName(to).delete()
        logger.warning("vm=%s backup %s is ended: its start has failed for who asked", vm_id, backup_id)

    def end_with_files() -> None:
        with contextlib.suppress(NoSuchVm):
            end()
        backups.files.remove(vm_id, backup_id)

    def try_again() -> None:
        try:
            end_with_files()
        except LibvirtUnavailable as error:
            raise VmNotResponding(error.reason) from error  # nobody else comes back to it

    try:
        decided(end_with_files)
    except UNDECIDED as error:
        logger.warning("vm=%s whether backup %s began is looked at later: %s", vm_id, backup_id, error)
        backups.again.start(f"take back backup {backup_id}", try_again)


def _end_left_server(vm_id: str, dom: Any) -> None:
    """A libvirtd that died at the end of a backup leaves QEMU's server running, and its successor knows of none."""
    logger.warning("vm=%s the NBD server of an earlier backup runs still and is ended", vm_id)
    libvirt_qemu.qemuMonitorCommand(dom, '{"execute": "nbd-server-stop"}', 0)


def _end(backups: Backups, vm_id: str, dom: Any, backup_id: str) -> None:
    """libvirt ends it a moment after the abort; until then it is neither running nor gone."""
    try:
        dom.abortJob()
    except libvirt.libvirtError as error:
        if error.get_error_code() != libvirt.VIR_ERR_OPERATION_INVALID:
            raise translate(error, vm_id, BackupFailed) from error
    until = clock.mono_s() + _END_S
    while clock.mono_s() < until:
        if not _runs(backups, vm_id, dom, backup_id):
            return
        time.sleep(_END_TICK_S)
    raise BackupFailed(f"it did not end within {_END_S:g} s")


def _runs(backups: Backups, vm_id: str, dom: Any, backup_id: str) -> bool:
    try:
        _running(backups, vm_id, dom, backup_id)
    except NoSuchBackup:
        return False
    return True


def _running(backups: Backups, vm_id: str, dom: Any, backup_id: str) -> ET.Element:
    """Raises: NoSuchBackup."""
    try:
        backup = xml.parse(dom.backupGetXMLDesc(0))
    except libvirt.libvirtError as error:
        if error.get_error_code() != libvirt.VIR_ERR_NO_DOMAIN_BACKUP:
            with translated(vm_id, BackupFailed):
                raise
        raise NoSuchBackup(backup_id) from error
    if xml.attributes(backup.find("server")).get("socket") != str(backups.files.socket(backup_id)):
        raise NoSuchBackup(backup_id)
    return backup


def _drive(record: VmRecord, entry: Any) -> Drive:
    image_id = str(entry.get("imageID") or "") if isinstance(entry, Mapping) else ""
    for drive in record.devices.drives:
        if drive.ids is not None and drive.ids.image_id == image_id:
            return drive
    raise BackupFailed(f"there is no disk on image {image_id}")


def _scratch(
    backups: Backups, dom: Any, record: VmRecord, backup_id: str, chosen: list[tuple[Drive, Mapping[str, Any]]]
) -> dict[str, tuple[str, bool]]:
    """{target dev: (path, is a block device)}; files are made where the engine names none."""
    found: dict[str, tuple[str, bool]] = {}
    for drive, entry in chosen:
        given = entry.get("scratch_disk")
        if isinstance(given, Mapping) and given.get("path"):
            found[drive.name] = (str(given["path"]), given.get("type") == "block")
            continue
        with translated(record.vm_id, BackupFailed):
            size_bytes = int(dom.blockInfo(drive.name)[0])
        found[drive.name] = (str(backups.files.make_scratch(record.vm_id, backup_id, drive.name, size_bytes)), False)
    return found


def _request(
    backups: Backups,
    backup_id: str,
    since: str,
    chosen: list[tuple[Drive, Mapping[str, Any]]],
    scratch: Mapping[str, tuple[str, bool]],
) -> ET.Element:
    request = ET.Element("domainbackup", mode="pull")
    if since:
        xml.add(request, "incremental", since)
    xml.add(request, "server", transport="unix", socket=str(backups.files.socket(backup_id)))
    disks = xml.add(request, "disks")
    for drive, entry in chosen:
        path, block = scratch[drive.name]
        disk = xml.add(disks, "disk", name=drive.name, type="block" if block else "file")
        mode = str(entry.get("backup_mode") or ("incremental" if since else "full"))
        disk.set("backupmode", mode)
        if mode == "incremental":
            disk.set("incremental", since)
        place = xml.add(disk, "scratch", **{"dev" if block else "file": path})
        xml.add(place, "seclabel", model="dac", relabel="no")
    return request


def _checkpoint(
    backup_id: str, to: str, config: Mapping[str, Any], record: VmRecord, chosen: list[tuple[Drive, Mapping[str, Any]]]
) -> ET.Element:
    marked = {drive.name for drive, entry in chosen if entry.get("checkpoint")}
    checkpoint = ET.Element("domaincheckpoint")
    xml.add(checkpoint, "name", to)
    xml.add(checkpoint, "description", f"checkpoint for backup '{backup_id}'")
    if config.get("creation_time"):
        xml.add(checkpoint, "creationTime", str(config["creation_time"]))
    disks = xml.add(checkpoint, "disks")
    for drive in record.devices.drives:
        if drive.device == "disk" and drive.name in marked:
            xml.add(disks, "disk", name=drive.name, checkpoint="bitmap", bitmap=to)
        elif drive.device == "disk":
            xml.add(disks, "disk", name=drive.name, checkpoint="no")
    return checkpoint


def _redefined(record: VmRecord, entry: Mapping[str, Any]) -> ET.Element:
    """Of {id, config: that of the backup that made it}, for engines that do not keep the XML. Raises: BackupFailed."""
    config = entry.get("config")
    disks = config.get("disks") if isinstance(config, Mapping) else None
    if not isinstance(config, Mapping) or not isinstance(disks, list):
        raise BackupFailed("a checkpoint is described by neither xml nor config")
    chosen = [(_drive(record, disk), disk) for disk in disks]
    to = str(config.get("to_checkpoint_id") or entry.get("id") or "")
    checkpoint = _checkpoint(str(config.get("backup_id") or ""), to, config, record, chosen)
    if config.get("from_checkpoint_id"):
        xml.add(xml.add(checkpoint, "parent"), "name", str(config["from_checkpoint_id"]))
    return checkpoint
