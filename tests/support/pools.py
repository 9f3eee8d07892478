# SPDX-License-Identifier: Apache-2.0
"""More domains for a `StorageRoom`, and what tests look at in a pool."""

from typing import Any

from tests.support.storage_room import StorageRoom, new_id
from vdsm_mp.api.types import BLANK
from vdsm_mp.storage.domain_metadata import parse
from vdsm_mp.storage.locks import ClusterLock


def add_domain(room: StorageRoom, name: str, **changes: Any) -> str:
    """Another connected domain; its id."""
    path = room.root / name
    path.mkdir()
    [found] = room.call(
        "StoragePool.connectStorageServer",
        storagepoolID=BLANK,
        domainType=4,
        connectionParams=[{"id": name, "connection": str(path)}],
    )
    assert found == {"id": name, "status": 0}
    sd_id = new_id()
    params = {
        "storagedomainID": sd_id,
        "domainType": 4,
        "typeArgs": str(path),
        "name": name,
        "domainClass": 1,
        "version": "5",
    }
    room.call("StorageDomain.create", **(params | changes))
    return sd_id


def add_active_domain(room: StorageRoom, name: str, **changes: Any) -> str:
    """Another domain of the pool, in use; its id."""
    sd_id = add_domain(room, name, **changes)
    for verb in ("attach", "activate"):
        room.call(f"StorageDomain.{verb}", storagepoolID=room.pool_id, storagedomainID=sd_id)
    return sd_id


def connect_params(room: StorageRoom, **changes: Any) -> dict[str, Any]:
    return {
        "storagepoolID": room.pool_id,
        "hostID": 1,
        "scsiKey": "",
        "masterSdUUID": room.sd_id,
        "masterVersion": 1,
        "domainDict": {room.sd_id: "active"},
    } | changes


def metadata(room: StorageRoom, name: str, sd_id: str) -> dict[str, str]:
    """What a domain says of itself. name: of its directory."""
    return parse(sd_id, (room.root / name / sd_id / "dom_md/metadata").read_bytes())


def leave_unfinished(room: StorageRoom) -> str:
    """A finished task nobody has cleared, and an OVF."""
    task_id = room.start_create(new_id(), new_id())
    room.ended(task_id)
    vm = new_id()
    (room.domain / "master/vms" / vm).mkdir()
    (room.domain / "master/vms" / vm / f"{vm}.ovf").write_text("<ovf/>")
    return task_id


def lock_of(room: StorageRoom, sd_id: str) -> ClusterLock:
    found = {type(thing).__name__: thing for thing in room.room.room.state}
    lock: ClusterLock = found["Locks"].of(found["Domains"].find(sd_id))
    return lock
