# SPDX-License-Identifier: Apache-2.0
"""Imports every declaration, so that `VERBS` and `EVENTS` are whole; import this to look verbs up by name."""

from vdsm_mp.api import (
    events,
    gluster,
    host,
    image,
    image_transfer,
    internal,
    lease,
    lvm,
    managed_volume,
    nbd,
    network,
    sdm,
    storage_domain,
    storage_host,
    storage_pool,
    task,
    v2v,
    vm,
    vm_blocks,
    vm_devices,
    vm_guest,
    vm_host,
    vm_migration,
    volume,
)
from vdsm_mp.api.event import EVENTS
from vdsm_mp.api.verb import VERBS

__all__ = ["EVENTS", "VERBS"]
_ = (
    events,
    internal,
    gluster,
    host,
    image,
    image_transfer,
    lease,
    lvm,
    managed_volume,
    nbd,
    network,
    sdm,
    storage_domain,
    storage_host,
    storage_pool,
    task,
    v2v,
    vm,
    vm_blocks,
    vm_devices,
    vm_guest,
    vm_host,
    vm_migration,
    volume,
)
