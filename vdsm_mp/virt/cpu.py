# SPDX-License-Identifier: Apache-2.0
"""Processors of a running VM: their number and their share of the host."""

from typing import Any

import libvirt
from msgspec.structs import replace

from vdsm_mp.api.errors_virt import CpuTuneFailed, SetNumberOfCpusFailed
from vdsm_mp.api.verb import DONE, Status, handles
from vdsm_mp.api.vm_tuning import SetVmCpuTunePeriod, SetVmCpuTuneQuota, SetVmNumberOfCpus
from vdsm_mp.common import log
from vdsm_mp.virt.connection import translated
from vdsm_mp.virt.cpupool import CpuPool, online
from vdsm_mp.virt.cpusets import numbers
from vdsm_mp.virt.devices import Devices
from vdsm_mp.virt.registry import short_status
from vdsm_mp.virt.vmhooks import VmHooks

logger = log.named(__name__)

_QUOTA, _PERIOD = "vcpu_quota", "vcpu_period"


@handles(SetVmNumberOfCpus)
def set_number_of_cpus(devices: Devices, hooks: VmHooks, pool: CpuPool, ask: SetVmNumberOfCpus) -> dict[str, str]:
    """cpusets: host CPUs of its CPUs, in order, as libvirt writes them ("0-3,^2"); absent = not pinned.

    Sets that this host does not have are refused before anything changes. libvirt may stop half-way all the same: what
    it did is told.
    """
    record = devices.vms.running(ask.vm_id, "set the number of CPUs")
    if not 0 < ask.number_of_cpus < 2**31:  # libvirt's binding would take the lower half of a larger one
        raise SetNumberOfCpusFailed(f"{ask.number_of_cpus} CPUs are not possible")
    here = online()
    maps = [_cpu_map(cpuset, here) for cpuset in (ask.cpusets or ())[: ask.number_of_cpus]]
    hooks.before("set_num_of_cpus", record)
    dom = devices.connection.domain(ask.vm_id)
    try:
        with translated(ask.vm_id, SetNumberOfCpusFailed):
            dom.setVcpusFlags(ask.number_of_cpus, libvirt.VIR_DOMAIN_AFFECT_LIVE)
            for number, cpu_map in enumerate(maps):
                dom.pinVcpuFlags(number, cpu_map, libvirt.VIR_DOMAIN_AFFECT_LIVE)
    except SetNumberOfCpusFailed:
        devices.changed(ask.vm_id)
        pool.changed()
        raise
    now = devices.changed(ask.vm_id)
    hooks.after("set_num_of_cpus", record)
    pool.changed()
    logger.info("vm=%s has %d CPUs now", ask.vm_id, ask.number_of_cpus)
    return short_status(now or record)


@handles(SetVmCpuTuneQuota)
def set_cpu_tune_quota(devices: Devices, ask: SetVmCpuTuneQuota) -> Status:
    """Microseconds of each period that one CPU of the VM may run; negative = no limit."""
    _tune(devices, ask.vm_id, {_QUOTA: ask.quota})
    devices.vms.change(ask.vm_id, lambda record: replace(record, vcpu_quota=ask.quota))
    return DONE


@handles(SetVmCpuTunePeriod)
def set_cpu_tune_period(devices: Devices, ask: SetVmCpuTunePeriod) -> Status:
    """Microseconds, 1,000 to 1,000,000."""
    _tune(devices, ask.vm_id, {_PERIOD: ask.period})
    devices.vms.change(ask.vm_id, lambda record: replace(record, vcpu_period=ask.period))
    return DONE


def _tune(devices: Devices, vm_id: str, values: dict[str, Any]) -> None:
    devices.vms.running(vm_id, "tune its CPUs")
    with translated(vm_id, CpuTuneFailed):
        devices.connection.domain(vm_id).setSchedulerParameters(values)


def _cpu_map(cpuset: str, here: set[int]) -> tuple[bool, ...]:
    """ "0-2,^1" -> (True, False, True). here: CPUs of this host. Raises: SetNumberOfCpusFailed."""
    try:
        chosen = numbers(cpuset)
    except ValueError as error:
        raise SetNumberOfCpusFailed(str(error)) from error
    if not chosen & here:
        raise SetNumberOfCpusFailed(f"this host has none of the CPUs {cpuset!r}")
    return tuple(number in chosen for number in range(max(chosen) + 1))
