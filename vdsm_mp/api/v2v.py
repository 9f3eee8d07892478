# SPDX-License-Identifier: Apache-2.0
"""Host.* of foreign hypervisors (virt-v2v)."""

from typing import Any

from msgspec import field

from vdsm_mp.api.errors_task import JobExists, JobNotDone, NoSuchJob
from vdsm_mp.api.errors_virt import BadConversion, BadOva, ForeignHypervisorFailed, NoConvertedVm
from vdsm_mp.api.types import Uuid
from vdsm_mp.api.verb import Lane, Message, verb

#: A hypervisor with many VMs takes minutes to tell of them all.
_LISTING_S = 170.0


class ConvertedDisk(Message, frozen=True, kw_only=True):
    """The volume that takes one disk of the VM; it is there already."""

    image_id: Uuid = field(name="imageID")
    volume_id: Uuid = field(name="volumeID")


class ConvertedVm(Message, frozen=True, kw_only=True):
    """What a conversion makes. disks: in the order in which the VM was listed.

    format: RAW or COW, of all disks. allocation: Sparse or Preallocated. virtio_iso_path: drivers for Windows.
    """

    name: str = field(name="vmName")
    pool_id: Uuid = field(name="poolID")
    sd_id: Uuid = field(name="domainID")
    disks: list[ConvertedDisk]
    format: str = "RAW"
    allocation: str = "Sparse"
    virtio_iso_path: str | None = None
    qcow2_compat: str | None = None


@verb(
    "Host.getExternalVMs",
    owner="virt",
    reply=list[dict[str, Any]],
    safe=True,
    tier=3,
    deadline_s=_LISTING_S,
    raises=(ForeignHypervisorFailed,),
)
class GetExternalVMs(Message, frozen=True, kw_only=True):
    """VMs of a foreign hypervisor, without those that cannot be converted.

    uri: `vpx://`, `esx://`, `xen+ssh://`, or `qemu+` one of ssh, libssh, libssh2, tls, tcp, each with a host; only
    parameters that name no file and no program.
    """

    uri: str
    username: str
    password: str
    vm_names: list[str] | None = None


@verb(
    "Host.getExternalVMNames",
    owner="virt",
    reply=list[str],
    safe=True,
    tier=3,
    deadline_s=_LISTING_S,
    raises=(ForeignHypervisorFailed,),
)
class GetExternalVmNames(Message, frozen=True, kw_only=True):
    """Names of the VMs of a foreign hypervisor."""

    uri: str
    username: str
    password: str


@verb("Host.getExternalVmFromOva", owner="virt", reply=dict[str, Any], safe=True, tier=3, raises=(BadOva,))
class GetExternalVmFromOva(Message, frozen=True, kw_only=True):
    """What an OVA describes: a tar (compressed or not), a zip, or a folder, on this host."""

    ova_path: str


_BEGINS = (JobExists, BadConversion)
_ENDS = (BadConversion, BadOva, ForeignHypervisorFailed)


@verb(
    "Host.convertExternalVmFromOva",
    owner="virt",
    lane=Lane.KEYED,
    key="job_id",
    tier=3,
    raises=(*_BEGINS, BadOva),
    later=_ENDS,
)
class ConvertExternalVmFromOva(Message, frozen=True, kw_only=True):
    """Convert the VM of an OVA into volumes, as a job of Host.getStats `v2vJobs`; needs virt-v2v on the host."""

    ova_path: str
    vminfo: ConvertedVm
    job_id: Uuid = field(name="jobid")


@verb(
    "Host.convertExternalVm",
    owner="virt",
    lane=Lane.KEYED,
    key="job_id",
    tier=3,
    raises=(*_BEGINS, ForeignHypervisorFailed),
    later=_ENDS,
)
class ConvertExternalVm(Message, frozen=True, kw_only=True):
    """Convert a VM of a foreign hypervisor into volumes, as a job. Disks of a `qemu+…` one are copied as they are."""

    uri: str
    username: str
    password: str
    vminfo: ConvertedVm
    job_id: Uuid = field(name="jobid")


@verb("Host.getConvertedVm", owner="virt", reply=str, safe=True, tier=3, raises=(NoSuchJob, JobNotDone, NoConvertedVm))
class GetConvertedVm(Message, frozen=True, kw_only=True):
    """OVF of a VM that was converted. There is none of a VM whose disks were only copied (67)."""

    job_id: Uuid = field(name="jobid")


@verb("Host.abortV2VJob", owner="virt", lane=Lane.KEYED, key="job_id", tier=3, raises=(NoSuchJob,))
class AbortV2vJob(Message, frozen=True, kw_only=True):
    """Cancel a conversion; the volumes are left as they are. One that is over stays as it is."""

    job_id: Uuid = field(name="jobid")


@verb("Host.deleteV2VJob", owner="virt", lane=Lane.KEYED, key="job_id", tier=3, raises=(NoSuchJob, JobNotDone))
class DeleteV2vJob(Message, frozen=True, kw_only=True):
    """Forget a finished conversion."""

    job_id: Uuid = field(name="jobid")
