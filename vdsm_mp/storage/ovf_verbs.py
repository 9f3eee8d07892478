# SPDX-License-Identifier: Apache-2.0
"""Handlers of StoragePool.* about OVFs kept as files, one for each VM, and of the search for an image in the pool.

master/vms/VM/VM.ovf below an export domain or the master. A VM is there when its file is: the file is replaced by
rename, and removed before its directory.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager

from vdsm_mp.api.errors import Busy
from vdsm_mp.api.errors_storage import DomainNotInPool, OvfDirectoryMissing, OvfMissing, StorageFileMissing
from vdsm_mp.api.errors_volume import InvalidVolumeParameter
from vdsm_mp.api.ovf import (
    GetStoragePoolBackedUpVmsInfo,
    GetStoragePoolBackedUpVmsList,
    RemoveOvf,
    UpdateOvfs,
)
from vdsm_mp.api.storage_pool import GetStoragePoolDomainsContainingImage
from vdsm_mp.api.types import BLANK, UUID_PATTERN
from vdsm_mp.api.verb import handles
from vdsm_mp.storage import each
from vdsm_mp.storage.domain_file import FileDomain
from vdsm_mp.storage.domain_format import DomainClass
from vdsm_mp.storage.pool_state import ACTIVE
from vdsm_mp.storage.volume_access import Volumes
from vdsm_mp.storage.volume_file import image_path

VMS = "master/vms"
#: An OVF of a VM with a thousand snapshots has about 3 MiB.
MAX_OVF_BYTES = 8 * 2**20
#: All of one answer, which must fit into one message; who wants more asks for some VMs at a time.
MAX_ANSWER_BYTES = 12 * 2**20
#: The caller is gone after 60 s.
_CLAIM_S = 40.0
#: While an OVF waits; more is no accident.
_MOST_MOVES = 5

_UUID = re.compile(UUID_PATTERN)


@handles(UpdateOvfs)
def update(ask: UpdateOvfs, volumes: Volumes) -> None:
    _domain(volumes, ask)
    texts = {one.vm_id: one.ovf.encode() for one in ask.vms}
    for vm_id, text in texts.items():
        if len(text) > MAX_OVF_BYTES:
            raise InvalidVolumeParameter("vmList", f"the OVF of VM {vm_id} has {len(text)} bytes")
    with _claimed("StoragePool.updateVMs", volumes, ask) as domain:
        for vm_id, text in texts.items():
            domain.io.mkdir(f"{VMS}/{vm_id}", exist_ok=True)
            domain.io.replace(_path(vm_id), text)


@handles(RemoveOvf)
def remove(ask: RemoveOvf, volumes: Volumes) -> None:
    with _claimed("StoragePool.removeVM", volumes, ask, ask.vm_id) as domain:
        domain.io.unlink(_path(ask.vm_id), missing_ok=True)
        domain.io.remove_tree(f"{VMS}/{ask.vm_id}")


@contextmanager
def _claimed(what: str, volumes: Volumes, ask: UpdateOvfs | RemoveOvf, *vm_id: str) -> Iterator[FileDomain]:
    """The domain that is asked for, or the master: the one of after the waiting, as it may have moved meanwhile."""
    for _ in range(_MOST_MOVES):
        domain = _domain(volumes, ask)
        shared: list[tuple[str, ...]] = [("pool", ask.pool_id), ("domain", domain.sd_id)]
        if vm_id:
            shared.append(("vms", domain.sd_id))
        mine = (("vms", domain.sd_id, *vm_id),)
        with volumes.resources.claim(what, shared=tuple(shared), exclusive=mine, within_s=_CLAIM_S):
            if _domain(volumes, ask).sd_id == domain.sd_id:
                _require_directory(domain)
                yield domain
                return
    raise Busy(f"pool {ask.pool_id}")


def _domain(volumes: Volumes, ask: UpdateOvfs | RemoveOvf) -> FileDomain:
    state = volumes.spm.require(ask.pool_id)
    return volumes.of_spm(ask.pool_id, _sd_id(ask.sd_id, state.master_sd_id))


@handles(GetStoragePoolBackedUpVmsList)
def list_vms(ask: GetStoragePoolBackedUpVmsList, volumes: Volumes) -> list[str]:
    return _vms_of(_member(volumes, ask.pool_id, ask.sd_id))


@handles(GetStoragePoolBackedUpVmsInfo)
def read_ovfs(ask: GetStoragePoolBackedUpVmsInfo, volumes: Volumes) -> dict[str, str]:
    domain = _member(volumes, ask.pool_id, ask.sd_id)
    found: dict[str, str] = {}
    left = MAX_ANSWER_BYTES
    for vm_id in dict.fromkeys(ask.vm_ids) or _vms_of(domain):
        data = _read(domain, vm_id, min(left, MAX_OVF_BYTES))
        left -= len(data)
        try:
            found[vm_id] = data.decode()
        except UnicodeDecodeError as e:
            raise OvfMissing(domain.sd_id, vm_id, f"{_path(vm_id)} is not UTF-8 at byte {e.start}") from None
    return found


@handles(GetStoragePoolDomainsContainingImage)
def domains_with_image(ask: GetStoragePoolDomainsContainingImage, volumes: Volumes) -> list[str]:
    state = volumes.pools.require(ask.pool_id)

    def has_image(domain: FileDomain) -> bool:
        path = image_path(ask.image_id)
        return domain.meta.cls is DomainClass.DATA and domain.io.exists(path, deadline_s=each.DEADLINE_S)

    active = [sd_id for sd_id, status in state.domains.items() if status == ACTIVE]
    return each.which(volumes.domains, active, has_image)


def _member(volumes: Volumes, pool_id: str, sd_id: str) -> FileDomain:
    """For reading; any host of the pool may. Raises: PoolNotConnected, DomainNotInPool, OvfDirectoryMissing."""
    state = volumes.pools.require(pool_id)
    sd_id = _sd_id(sd_id, state.master_sd_id)
    if sd_id not in state.domains:
        raise DomainNotInPool(sd_id, f"it is not attached to pool {pool_id}")
    domain = volumes.domains.find(sd_id)
    _require_directory(domain)
    return domain


def _sd_id(asked: str | None, master_sd_id: str) -> str:
    return master_sd_id if asked in (None, BLANK) else str(asked)


def _path(vm_id: str) -> str:
    return f"{VMS}/{vm_id}/{vm_id}.ovf"


def _require_directory(domain: FileDomain) -> None:
    if not domain.io.exists(VMS):
        raise OvfDirectoryMissing(domain.sd_id, domain.io.path_of(VMS))


def _vms_of(domain: FileDomain) -> list[str]:
    """Ids of VMs whose file is there, sorted."""
    found = []
    for one in domain.io.scan(VMS, ".ovf"):
        directory, name = one.path.split("/")[-2:]
        if name == f"{directory}.ovf" and _UUID.match(directory):
            found.append(directory)
    return found


def _read(domain: FileDomain, vm_id: str, limit: int) -> bytes:
    """Raises: OvfMissing (320; it is absent, or more than `limit` bytes long), storage errors."""
    try:
        size = domain.io.stat(_path(vm_id)).size_bytes
        if size > limit:
            raise OvfMissing(domain.sd_id, vm_id, f"{_path(vm_id)} has {size} bytes, {limit} are left for it")
        return domain.io.read(_path(vm_id), length=size)
    except StorageFileMissing:
        raise OvfMissing(domain.sd_id, vm_id, f"{_path(vm_id)} is missing") from None
