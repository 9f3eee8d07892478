# SPDX-License-Identifier: Apache-2.0
"""Lists of VMs, answered from memory, and their XML, answered by libvirt."""

from typing import Any

from vdsm_mp.api.errors_virt import NoSuchVm
from vdsm_mp.api.internal import GetVirtJobs, GetVmCounts, VmCounts
from vdsm_mp.api.verb import handles
from vdsm_mp.api.vm import GetVmInfo
from vdsm_mp.api.vm_host import DumpXmls, GetVmFullList, GetVmList
from vdsm_mp.common import clock
from vdsm_mp.tasks.jobs import Jobs
from vdsm_mp.virt.connection import Connection, translated
from vdsm_mp.virt.machine import VmStatus, reported
from vdsm_mp.virt.registry import Vms, short_status
from vdsm_mp.virt.v2v_jobs import Conversions


def _chosen(vms: Vms, vm_ids: list[str] | None) -> list[dict[str, Any]]:
    """Without ids all of them; ids that are not there are left out, as they are of no VM of this host."""
    wanted = None if not vm_ids else set(vm_ids)
    return [short_status(r) for r in vms.known().all() if wanted is None or r.vm_id in wanted]


@handles(GetVmList)
def get_vm_list(vms: Vms, ask: GetVmList) -> list[dict[str, Any]]:
    """The two flags are read by nobody: all clients in use want the short objects."""
    return _chosen(vms, ask.vm_ids)


@handles(GetVmFullList)
def get_vm_full_list(vms: Vms, ask: GetVmFullList) -> list[dict[str, Any]]:
    return _chosen(vms, ask.vm_ids)


@handles(GetVmInfo)
def get_vm_info(vms: Vms, ask: GetVmInfo) -> dict[str, Any]:
    return short_status(vms.find(ask.vm_id))


@handles(DumpXmls)
def dump_xmls(vms: Vms, connection: Connection, ask: DumpXmls) -> dict[str, str]:
    """{vm_id: XML}; VMs that are not there any more are left out."""
    found: dict[str, str] = {}
    for vm_id in ask.vm_ids or [record.vm_id for record in vms.known().all()]:
        try:
            dom = connection.domain(vm_id)
            with translated(vm_id):
                found[vm_id] = dom.XMLDesc(0)
        except NoSuchVm:
            continue
    return found


@handles(GetVmCounts)
def get_vm_counts(vms: Vms, conversions: Conversions, ask: GetVmCounts) -> VmCounts:
    now = clock.mono_s()
    records = [(record, reported(record.life, now)) for record in vms.known().all()]
    outgoing = sum(record.life.status is VmStatus.MIGRATION_SOURCE for record, _ in records)
    incoming = sum(record.life.status is VmStatus.MIGRATION_DESTINATION for record, _ in records)
    return VmCounts(
        count=len(records),
        active=sum(status is not VmStatus.DOWN for _, status in records),
        migrating=outgoing + incoming,
        incoming=incoming,
        outgoing=outgoing,
        vms={record.vm_id: {"name": record.name, "status": str(status)} for record, status in records},
        conversions=conversions.told(),
    )


@handles(GetVirtJobs)
def get_virt_jobs(vms: Vms, jobs: Jobs, conversions: Conversions, ask: GetVirtJobs) -> dict[str, dict[str, Any]]:
    """A job that is absent counts as lost, so nothing is told before the VMs' own notes are read."""
    vms.known()
    return jobs.infos() | conversions.jobs()
