# SPDX-License-Identifier: Apache-2.0
"""VMs that are written to storage with their memory, and read back. Owns VM.hibernate; `starting` asks to read back.

Two volumes belong to a sleeping VM. The first is libvirt's own image of it, and all that is needed to wake it. The
second is a pickle of parameters for upstream's agent: written, so that its hosts may wake our VMs, and never read,
because whoever can write to shared storage could put a program into it.
"""

import pickle
import threading
import xml.etree.ElementTree as ET
from collections.abc import Mapping
from typing import Any

import libvirt

from vdsm_mp.api.errors_virt import InvalidVmParameter, MigrationFailed, NoSuchVm
from vdsm_mp.api.internal import PreparedDrive
from vdsm_mp.api.ports import Background
from vdsm_mp.api.verb import handles
from vdsm_mp.api.vm import HibernateVm
from vdsm_mp.common import clock, command, log, xml
from vdsm_mp.common.errors import Error
from vdsm_mp.virt import asleep, domxml_build, domxml_parse, graphics, machine, moving
from vdsm_mp.virt.calling import under_way
from vdsm_mp.virt.connection import Connection, translated
from vdsm_mp.virt.domxml_build import Policy
from vdsm_mp.virt.drives import Drives
from vdsm_mp.virt.keeping import Keeper, is_backed_up
from vdsm_mp.virt.machine import VmStatus
from vdsm_mp.virt.metadata import Metadata
from vdsm_mp.virt.patience import UNDECIDED
from vdsm_mp.virt.records import VOLUME_KEYS, VmRecord, VolumeIds
from vdsm_mp.virt.registry import Vms
from vdsm_mp.virt.vmhooks import VmHooks

logger = log.named(__name__)

_WATCH_S = 2.0
_WRITE_S = 60.0
#: Its state while its memory is written, unless it stood still before.
_WRITTEN = (libvirt.VIR_DOMAIN_PAUSED, libvirt.VIR_DOMAIN_PAUSED_SAVE)
_BLOCK = 4096
_FAILED = "Wake up from hibernation failed:"


def volumes(handle: str) -> tuple[VolumeIds, VolumeIds]:
    """(memory, parameters) of "domain,pool,image,volume,image,volume". Raises: InvalidVmParameter."""
    ids = [part.strip() for part in handle.split(",")]
    if len(ids) != 6 or not all(ids):
        raise InvalidVmParameter("hibernationVolHandle")
    sd_id, pool_id, *rest = ids
    return VolumeIds(pool_id, sd_id, rest[0], rest[1]), VolumeIds(pool_id, sd_id, rest[2], rest[3])


def sleeping(params: Mapping[str, Any]) -> VolumeIds | None:
    """The memory of the VM that VM.create is to wake; None when it is to boot. Raises: InvalidVmParameter."""
    volume = params.get("memoryDumpVolume")
    if isinstance(volume, Mapping):
        ids = [str(volume.get(key) or "") for key in VOLUME_KEYS]
        if not all(ids):
            raise InvalidVmParameter("memoryDumpVolume")
        return VolumeIds(*ids)
    handle = params.get("hiberVolHandle")
    return volumes(handle)[0] if isinstance(handle, str) and handle else None


class Hibernations:
    """Sends VMs to sleep."""

    def __init__(
        self,
        connection: Connection,
        vms: Vms,
        keeper: Keeper,
        drives: Drives,
        background: Background,
        hooks: VmHooks,
    ) -> None:
        self._connection = connection
        self._vms = vms
        self._keeper = keeper
        self._drives = drives
        self._background = background
        self._hooks = hooks

    def begin(self, vm_id: str, handle: str) -> None:
        """Accept. Raises: NoSuchVm, VmIsDown, MigrationInProgress, InvalidVmParameter."""
        memory, parameters = volumes(handle)
        record = self._vms.running(vm_id, "hibernate")
        if record.external:
            raise MigrationFailed("it is not managed by an engine")
        if record.life.status is VmStatus.PAUSED and record.life.pause_code != "NOERR":
            raise MigrationFailed(f"it is paused by an error ({record.life.pause_code})")
        self._vms.move(vm_id, moving.save)
        flow = log.flow.get()
        # Writing the memory takes as long as storage takes: not in a pool that others need.
        job = threading.Thread(target=self._run, args=(vm_id, memory, parameters, flow), name=f"save {vm_id}")
        job.daemon = True
        job.start()

    def recovered(self, record: VmRecord) -> None:
        """libvirt goes on when we die: what is being written or read is watched until it is, then given back."""
        if asleep.was_written(record.metadata):
            # libvirt may be at it though the CPUs run still, or run again in a moment.
            self._vms.move(record.vm_id, moving.found_saving)
            record = self._vms.get(record.vm_id) or record
        self._go_on(record)

    def _go_on(self, record: VmRecord) -> None:
        if record.life.status in asleep.UNDER_WAY:
            self._background.later(_WATCH_S, f"watch save {record.vm_id}", lambda: self._watch(record.vm_id))
        elif asleep.held(record.metadata):
            self._background.later(0.0, f"give memory of {record.vm_id} back", lambda: self._give_back(record.vm_id))

    def _watch(self, vm_id: str) -> None:
        record = self._vms.get(vm_id)
        if record is not None and record.life.status is VmStatus.SAVING:
            self._awake(vm_id, "it ended while nobody watched")
            record = self._vms.get(vm_id)
        if record is not None:
            self._go_on(record)

    def _give_back(self, vm_id: str) -> None:
        try:
            self._keeper.take_turn(vm_id)
        except NoSuchVm:
            pass
        except UNDECIDED as error:
            logger.info("vm=%s libvirt may need the volumes of its memory: %s", vm_id, error)
            self._background.later(_WATCH_S, f"give memory of {vm_id} back", lambda: self._give_back(vm_id))
            return
        record = self._vms.get(vm_id)
        if record is not None and record.life.status not in asleep.UNDER_WAY:
            asleep.give_back(self._keeper, self._drives, self._vms, vm_id, asleep.held(record.metadata))

    def _run(self, vm_id: str, memory: VolumeIds, parameters: VolumeIds, flow: str) -> None:
        log.flow.set(flow)
        began = clock.mono_s()
        try:
            asleep.note(self._keeper, vm_id, memory, parameters)
            image = self._drives.prepare(memory)
            config = self._drives.prepare(parameters)
            record = self._vms.find(vm_id)
            self._hooks.before("vm_hibernate", record)
            dom = self._connection.domain(vm_id)
            if is_backed_up(dom):
                raise MigrationFailed("a backup of it is running")
            with translated(vm_id):
                # The parameters first: once the memory is written there is nobody who would have to wait for us.
                description = dom.XMLDesc(0)
                write_parameters(
                    config, {"vmId": vm_id, "vmName": record.name, "xml": description, "_srcDomXML": description}
                )
                dom.saveFlags(image.path, None, 0)
            if self._is_asleep(vm_id, memory, parameters):
                self._vms.move(vm_id, lambda life: machine.on_stopped(life, saved=True))
            self._hooks.after("vm_hibernate", record)
            logger.info("VM.hibernate vm=%s is saved, took=%dms", vm_id, (clock.mono_s() - began) * 1000)
        except Error as error:
            self._failed(vm_id, str(error))
        except Exception:
            logger.exception("vm=%s could not be saved, in an unexpected way", vm_id)
            self._failed(vm_id, "internal error")
        finally:
            after = self._vms.get(vm_id)
            if after is None or after.life.status is not VmStatus.SAVING:  # else libvirt may still be writing
                asleep.give_back(self._keeper, self._drives, self._vms, vm_id, [memory, parameters])

    def _is_asleep(self, vm_id: str, *noted: VolumeIds) -> bool:
        """Or has it been destroyed meanwhile, told as Down by libvirt's event, and woken already?"""
        record = self._vms.get(vm_id)
        return record is not None and asleep.held(record.metadata) == [*noted]

    def _failed(self, vm_id: str, why: str) -> None:
        record = self._vms.get(vm_id)
        if not self._awake(vm_id, why) and record is not None:
            self._go_on(record)

    def _awake(self, vm_id: str, why: str) -> bool:
        """Does it live on? False when that is not known, or when it is still being saved."""
        try:
            found = self._state(vm_id)
            if found != _WRITTEN:
                # libvirt may be about to begin, or at it: a VM that stood still before looks no different.
                self._keeper.take_turn(vm_id)
                found = self._state(vm_id)
        except NoSuchVm:
            return True
        except Error as error:
            logger.info("vm=%s cannot be looked at while it is saved: %s", vm_id, error)
            return False
        if found == _WRITTEN:
            return False
        if found[0] not in (libvirt.VIR_DOMAIN_SHUTOFF, libvirt.VIR_DOMAIN_CRASHED):
            logger.warning("VM.hibernate vm=%s is not saved: %s", vm_id, why)
            self._vms.move(vm_id, lambda life: moving.unsaved(life, runs=found[0] == libvirt.VIR_DOMAIN_RUNNING))
        return True

    def _state(self, vm_id: str) -> tuple[int, int]:
        with translated(vm_id):
            state, reason = self._connection.domain(vm_id).state()
        return state, reason


def wake(
    conn: Any,
    image: PreparedDrive,
    final: ET.Element,
    prepared: Mapping[str, PreparedDrive],
    policy: Policy,
    record: VmRecord,
    hooks: VmHooks,
) -> None:
    """Start the defined VM from its memory. final: as it was defined; the image knows devices and addresses better.

    Raises: libvirtError, CannotCreateVm, HookFailed.
    """
    saved = xml.parse(conn.saveImageGetXMLDesc(image.path, libvirt.VIR_DOMAIN_SAVE_IMAGE_XML_SECURE))
    metadata = Metadata.of_domain(final) or Metadata()
    payloads = {one.name: one.path for one in domxml_parse.devices(final, metadata).drives if one.payload}
    for disk in saved.iterfind("devices/disk"):
        target = xml.attributes(disk.find("target")).get("dev", "")
        if target in prepared:
            domxml_build.use_prepared(disk, prepared[target])
            for chain in disk.findall("backingStore"):
                disk.remove(chain)
        elif target in payloads and (source := disk.find("source")) is not None:
            source.set("file", payloads[target])
    metadata.put_into(saved)
    _as_here(saved, final)
    domxml_build.check(saved, metadata, policy)
    saved = hooks.shape("before_vm_dehibernate", record, saved)
    domxml_build.check_commandline(saved, policy)
    paused = metadata.flag("launchPaused")
    flags = libvirt.VIR_DOMAIN_SAVE_PAUSED if paused else libvirt.VIR_DOMAIN_SAVE_RUNNING
    with under_way():
        conn.restoreFlags(image.path, xml.dump(saved), flags)


def _as_here(saved: ET.Element, final: ET.Element) -> None:
    """Of the saved VM's own: no password that somebody had, and the processors that the engine has for it now."""
    for console in saved.iterfind("devices/graphics"):
        console.set("passwd", graphics.NOBODY)
        console.set("passwdValidTo", graphics.LONG_AGO)
    pins = final.findall("cputune/vcpupin")
    tune = saved.find("cputune")
    for pin in tune.findall("vcpupin") if tune is not None else ():
        tune.remove(pin)  # type: ignore[union-attr]
    if pins:
        tune = ET.SubElement(saved, "cputune") if tune is None else tune
        tune.extend(pins)


def failure(sentence: str) -> str:
    """The exit message of a VM that did not wake up."""
    return f"{_FAILED} {sentence}"


def write_parameters(volume: PreparedDrive, parameters: Mapping[str, Any]) -> None:
    """What upstream's agent wants to read: protocol 2 is the one that all of its versions know. Raises: CommandFailed.

    By a program, because storage may hang.
    """
    content = pickle.dumps(dict(parameters), protocol=2)
    content = content.ljust(-(-len(content) // _BLOCK) * _BLOCK, b"\0")
    words = ["dd", f"of={volume.path}", "bs=64k", "iflag=fullblock", "conv=notrunc,fsync", "status=none"]
    command.run(words, stdin=content, deadline_s=_WRITE_S)


@handles(HibernateVm)
def hibernate(hibernations: Hibernations, ask: HibernateVm) -> None:
    """Accepted when it returns; the rest is told by events."""
    hibernations.begin(ask.vm_id, ask.hibernation_vol_handle)
