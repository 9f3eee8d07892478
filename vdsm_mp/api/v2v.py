# SPDX-License-Identifier: Apache-2.0
"""Host.* of foreign hypervisors (virt-v2v)."""

from typing import Any

from msgspec import field

from vdsm_mp.api.types import Uuid
from vdsm_mp.api.verb import Lane, Message, verb


@verb("Host.getExternalVMs", owner="virt", reply=list[dict[str, Any]], safe=True, tier=3, planned=True)
class GetExternalVMs(Message, frozen=True, kw_only=True):
    """VMs of a foreign hypervisor."""

    uri: str
    username: str
    password: str
    vm_names: list[str] | None = None


@verb("Host.getExternalVMNames", owner="virt", reply=list[str], safe=True, tier=3, planned=True)
class GetExternalVmNames(Message, frozen=True, kw_only=True):
    """Names of the VMs of a foreign hypervisor."""

    uri: str
    username: str
    password: str


@verb("Host.getExternalVmFromOva", owner="virt", reply=dict[str, Any], safe=True, tier=3, planned=True)
class GetExternalVmFromOva(Message, frozen=True, kw_only=True):
    """What an OVA describes."""

    ova_path: str


@verb("Host.convertExternalVmFromOva", owner="virt", lane=Lane.KEYED, key="job_id", tier=3, planned=True)
class ConvertExternalVmFromOva(Message, frozen=True, kw_only=True):
    """Convert the VM of an OVA, as a job."""

    ova_path: str
    vminfo: dict[str, Any]
    job_id: Uuid = field(name="jobid")


@verb("Host.convertExternalVm", owner="virt", lane=Lane.KEYED, key="job_id", tier=3, planned=True)
class ConvertExternalVm(Message, frozen=True, kw_only=True):
    """Convert a VM of a foreign hypervisor, as a job."""

    uri: str
    username: str
    password: str
    vminfo: dict[str, Any]
    job_id: Uuid = field(name="jobid")


@verb("Host.getConvertedVm", owner="virt", reply=str, safe=True, tier=3, planned=True)
class GetConvertedVm(Message, frozen=True, kw_only=True):
    """OVF of a VM that was converted."""

    job_id: Uuid = field(name="jobid")


@verb("Host.abortV2VJob", owner="virt", lane=Lane.KEYED, key="job_id", tier=3, planned=True)
class AbortV2vJob(Message, frozen=True, kw_only=True):
    """Cancel a conversion."""

    job_id: Uuid = field(name="jobid")


@verb("Host.deleteV2VJob", owner="virt", lane=Lane.KEYED, key="job_id", tier=3, planned=True)
class DeleteV2vJob(Message, frozen=True, kw_only=True):
    """Forget a finished conversion."""

    job_id: Uuid = field(name="jobid")
