# SPDX-License-Identifier: Apache-2.0
"""Limits of a running VM that the engine sets as a policy, and the limits that hold now.

The policy lives in the domain's `ovirt-tune:qos`, so it survives us and moves along with the VM. Limits of disks are
applied at once; a share of the processors is turned into a quota, as the separate daemon of the original does it.
"""

import os
import xml.etree.ElementTree as ET
from collections.abc import Mapping, Sequence
from typing import Any

import libvirt
from msgspec.structs import replace

from vdsm_mp.api.errors_virt import IoTuneFailed, PolicyUpdateFailed
from vdsm_mp.api.verb import DONE, Status, handles
from vdsm_mp.api.vm_host import GetAllVmIoTunePolicies
from vdsm_mp.api.vm_tuning import GetVmIoTune, GetVmIoTunePolicy, SetVmIoTune, UpdateVmVmPolicy
from vdsm_mp.common import log, xml
from vdsm_mp.common.digits import MOST, whole
from vdsm_mp.common.errors import Error
from vdsm_mp.virt.connection import translated
from vdsm_mp.virt.devices import Devices
from vdsm_mp.virt.domxml_parse import volume_ids
from vdsm_mp.virt.machine import VmStatus
from vdsm_mp.virt.metadata import TUNE_PREFIX, TUNE_URI
from vdsm_mp.virt.records import Drive, VmRecord

logger = log.named(__name__)

_LIMITS = tuple(f"{what}_{unit}_sec" for unit in ("bytes", "iops") for what in ("total", "read", "write"))
_DEFAULT_PERIOD_US = 100_000

Tune = dict[str, Any]


@handles(SetVmIoTune)
def set_io_tune(devices: Devices, ask: SetVmIoTune) -> Status:
    """Apply limits. Each entry names a drive by `name`, `path` or ids and carries `ioTune` {limit: number}."""
    record = devices.vms.running(ask.vm_id, "tune its disks")
    for entry in ask.tunables:
        drive = _drive(record, entry)
        limits = _limits(entry.get("ioTune"))
        with translated(ask.vm_id, IoTuneFailed):
            devices.connection.domain(ask.vm_id).setBlockIoTune(drive.name, limits, libvirt.VIR_DOMAIN_AFFECT_LIVE)
    _read_current(devices, record)
    return DONE


@handles(GetVmIoTune)
def get_io_tune(devices: Devices, ask: GetVmIoTune) -> list[Tune]:
    """[{name, path, ioTune}] of all disks, as libvirt has them now."""
    return _read_current(devices, devices.vms.running(ask.vm_id, "tell its limits", even_busy=True))


@handles(GetVmIoTunePolicy)
def get_io_tune_policy(devices: Devices, ask: GetVmIoTunePolicy) -> list[Tune]:
    return _stored(devices, devices.vms.find(ask.vm_id).vm_id)


@handles(GetAllVmIoTunePolicies)
def get_all_io_tune_policies(devices: Devices, ask: GetAllVmIoTunePolicies) -> dict[str, Any]:
    """{vm_id: {"policy": […], "current_values": […]}} of all running VMs; one that cannot be asked is left out."""
    found: dict[str, Any] = {}
    for record in devices.vms.known().all():
        if record.life.status in (VmStatus.DOWN, VmStatus.WAIT_FOR_LAUNCH):
            continue
        try:
            policy, current = _stored(devices, record.vm_id), _read_current(devices, record)
        except Error as error:
            logger.info("vm=%s does not tell its limits: %s", record.vm_id, error)
        else:
            found[record.vm_id] = {"policy": policy, "current_values": current}
    return found


@handles(UpdateVmVmPolicy)
def update_vm_policy(devices: Devices, ask: UpdateVmVmPolicy) -> Status:
    """params: `vcpuLimit` (percent, None lifts it) and `ioTune` [{…, guaranteed, maximum}]; what is absent stays."""
    record = devices.vms.running(ask.vm_id, "update its policy")
    qos = _qos(devices, ask.vm_id)
    if "vcpuLimit" in ask.params:
        _put(qos, "vcpuLimit", ask.params["vcpuLimit"])
    wanted = ask.params.get("ioTune")
    if wanted is not None:
        if not isinstance(wanted, Sequence) or isinstance(wanted, str):
            raise PolicyUpdateFailed("ioTune is a list")
        _put_io(qos, [(_drive(record, entry), entry) for entry in wanted])
    _write(devices, ask.vm_id, qos)
    if "vcpuLimit" in ask.params:
        _apply_share(devices, record, ask.params["vcpuLimit"])
    for entry in wanted or ():
        with translated(ask.vm_id, IoTuneFailed):
            devices.connection.domain(ask.vm_id).setBlockIoTune(
                _drive(record, entry).name, _limits(entry.get("maximum")), libvirt.VIR_DOMAIN_AFFECT_LIVE
            )
    _read_current(devices, record)
    return DONE


def _apply_share(devices: Devices, record: VmRecord, percent: Any) -> None:
    """A share of the whole host, spread over the VM's processors. A host that cannot do that only stores the policy."""
    try:
        share = int(percent) if percent is not None else 100
    except (TypeError, ValueError) as error:
        raise PolicyUpdateFailed(f"vcpuLimit {percent!r} is not a percentage") from error
    period = record.vcpu_period or _DEFAULT_PERIOD_US
    quota = -1 if share >= 100 else max(1000, period * share * (os.cpu_count() or 1) // (100 * record.devices.vcpus))
    limit = "" if share >= 100 else str(share)
    try:
        with translated(record.vm_id, PolicyUpdateFailed):
            devices.connection.domain(record.vm_id).setSchedulerParameters({"vcpu_quota": quota})
    except PolicyUpdateFailed as error:
        logger.warning("vm=%s the limit of %d %% is stored, but cannot be applied: %s", record.vm_id, share, error)
        devices.vms.change(record.vm_id, lambda now: replace(now, vcpu_limit=limit))
    else:
        devices.vms.change(record.vm_id, lambda now: replace(now, vcpu_limit=limit, vcpu_quota=quota))


def _read_current(devices: Devices, record: VmRecord) -> list[Tune]:
    """Ask libvirt, and keep the answer for the statistics."""
    found: list[Tune] = []
    with translated(record.vm_id, IoTuneFailed):
        dom = devices.connection.domain(record.vm_id)
        for drive in record.devices.drives:
            if drive.device == "disk" and drive.path:
                values = dom.blockIoTune(drive.name, libvirt.VIR_DOMAIN_AFFECT_LIVE)
                limits = {name: int(values.get(name, 0)) for name in _LIMITS}
                found.append({"name": drive.name, "path": drive.path, "ioTune": limits})
    devices.vms.change(record.vm_id, lambda now: replace(now, io_tune=tuple(found)))
    return found


def _drive(record: VmRecord, entry: Any) -> Drive:
    if not isinstance(entry, Mapping):
        raise IoTuneFailed("an entry is not an object")
    ids = volume_ids(dict(entry))
    for drive in record.devices.drives:
        same_image = ids is not None and drive.ids is not None and drive.ids.image_id == ids.image_id
        if (
            same_image
            or (drive.name and entry.get("name") == drive.name)
            or (drive.path and entry.get("path") == drive.path)
        ):
            return drive
    raise IoTuneFailed(f"there is no disk {entry.get('name') or entry.get('path') or entry.get('imageID')}")


def _limits(untrusted: Any) -> dict[str, int]:
    """The known limits of an entry; those that are absent are 0, which means none."""
    if not isinstance(untrusted, Mapping):
        raise IoTuneFailed("limits are an object")
    try:
        found = {name: max(0, int(untrusted.get(name) or 0)) for name in _LIMITS}
    except (TypeError, ValueError) as error:
        raise IoTuneFailed(f"a limit is not a number: {error}") from error
    if max(found.values()) > MOST:
        raise IoTuneFailed("a limit is too large")
    return found


# -- the stored policy


def _qos(devices: Devices, vm_id: str) -> ET.Element:
    dom = devices.connection.domain(vm_id)
    try:
        text = dom.metadata(libvirt.VIR_DOMAIN_METADATA_ELEMENT, TUNE_URI)
    except libvirt.libvirtError as error:
        if error.get_error_code() != libvirt.VIR_ERR_NO_DOMAIN_METADATA:
            with translated(vm_id, PolicyUpdateFailed):
                raise
        return ET.Element("qos")
    root = xml.parse(text)
    for element in root.iter():
        element.tag = element.tag.rpartition("}")[2]
    return root


def _write(devices: Devices, vm_id: str, qos: ET.Element) -> None:
    flags = libvirt.VIR_DOMAIN_AFFECT_LIVE | libvirt.VIR_DOMAIN_AFFECT_CONFIG
    with translated(vm_id, PolicyUpdateFailed):
        dom = devices.connection.domain(vm_id)
        dom.setMetadata(libvirt.VIR_DOMAIN_METADATA_ELEMENT, xml.dump(qos), TUNE_PREFIX, TUNE_URI, flags)


def _put(qos: ET.Element, tag: str, value: Any) -> None:
    for old in qos.findall(tag):
        qos.remove(old)
    if value is not None:
        xml.add(qos, tag, str(value))


def _put_io(qos: ET.Element, entries: list[tuple[Drive, Mapping[str, Any]]]) -> None:
    """Entries of the same disks are replaced, others stay."""
    home = qos.find("ioTune")
    if home is None:
        home = ET.SubElement(qos, "ioTune")
    for drive, entry in entries:
        for old in home.findall("device"):
            if old.get("name") == drive.name:
                home.remove(old)
        device = xml.add(home, "device", name=drive.name, path=drive.path)
        for kind in ("maximum", "guaranteed"):
            limits = xml.add(device, kind)
            for name, value in _limits(entry.get(kind) or {}).items():
                xml.add(limits, name, str(value))


def _stored(devices: Devices, vm_id: str) -> list[Tune]:
    return [
        {
            "name": device.get("name", ""),
            "path": device.get("path", ""),
            **{kind: _numbers(device.find(kind)) for kind in ("guaranteed", "maximum")},
        }
        for device in _qos(devices, vm_id).iterfind("ioTune/device")
    ]


def _numbers(limits: ET.Element | None) -> dict[str, int]:
    found = {} if limits is None else {limit.tag: (limit.text or "").strip() for limit in limits}
    return {name: whole(found.get(name)) or 0 for name in _LIMITS}
