# SPDX-License-Identifier: Apache-2.0
"""A second pool on the same storage network: a host that is not SPM leaves its own for it, has the role there, makes a
volume, and comes back. A host is in one pool at a time, and neither pool may touch what is the other's.
"""

import contextlib
import uuid
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from tests.faults.pool_engine import LEASE_S, MIB, NUMBERS, Engine, again, over
from tests.support.eventually import eventually
from tests.support.storage_hosts import StorageHost
from vdsm_mp.api.errors import RemoteError
from vdsm_mp.api.types import BLANK
from vdsm_mp.storage.domain_metadata import decode, parse
from vdsm_mp.storage.volume_metadata import from_bytes

_VERSION = "5"
_IN_ANOTHER, _ATTACHED_ELSEWHERE = 323, 380
#: A worker that died over it, or is about to be ready.
_GONE = (99, -32603)


class SecondPool:
    """device: where its one domain is. volumes: that were told as made."""

    def __init__(self, engine: Engine, device: str) -> None:
        self.engine = engine
        self.device = device
        self.sd_id, self.pool_id = str(uuid.uuid4()), str(uuid.uuid4())
        self.volumes: list[tuple[str, str]] = []

    def make(self, host: StorageHost) -> None:
        """The host is in no pool."""
        names = {"domainType": 6, "typeArgs": self.device, "name": "second", "domainClass": 1, "version": _VERSION}
        host.call("StorageDomain.create", storagedomainID=self.sd_id, **names)
        pool = {"name": "second", "masterSdUUID": self.sd_id, "masterVersion": 1, "domainList": [self.sd_id]}
        host.call("StoragePool.create", storagepoolID=self.pool_id, **pool, **NUMBERS)

    def visit(self, host: StorageHost) -> None:
        """From the other pool and back; where it was left half-way it begins anew. Raises: Error, AssertionError."""
        self.leave(host)
        own = {"storagepoolID": self.engine.pool.pool_id, "hostID": host.host_id, "scsiKey": ""}
        host.call("StoragePool.disconnect", **own)
        self._connect(host)
        self._be_refused(host)
        self._take_role(host)
        other = next((sd_id for sd_id, status in self.engine.pool.status.items() if status == "Active"), None)
        if other is not None:
            with refused(_ATTACHED_ELSEWHERE):
                host.call("StorageDomain.attach", storagedomainID=other, storagepoolID=self.pool_id)
        self._make_volume(host)
        self.leave(host)

    def leave(self, host: StorageHost) -> None:
        """Whatever it does there; not being there is fine."""
        if self.pool_id not in host.call("Host.getConnectedStoragePools"):
            return
        status = host.call("StoragePool.getSpmStatus", storagepoolID=self.pool_id)["spmStatus"]
        if status != "Free":  # a host that died there has not the role, and lists no tasks
            for task_id in host.call("Host.getAllTasksStatuses"):
                eventually(partial(over, host, task_id), within_s=30)
                host.call("Task.clear", taskID=task_id)
            host.call("StoragePool.spmStop", storagepoolID=self.pool_id)
        host.call("StoragePool.disconnect", storagepoolID=self.pool_id, hostID=host.host_id, scsiKey="")

    def check(self) -> None:
        """Nobody is there. Its domain and its volumes are as they were told."""
        meta = decode(self.sd_id, parse(self.sd_id, (self._directory / "dom_md/metadata").read_bytes()))
        assert (meta.pool_ids, meta.role.value, meta.version) == ((self.pool_id,), "Master", int(_VERSION)), meta
        for image_id, volume_id in self.volumes:
            path = self._directory / "images" / image_id / f"{volume_id}.meta"
            found = from_bytes(volume_id, path.read_bytes())
            assert (found.sd_id, found.image_id, found.legality, found.capacity) == (
                self.sd_id,
                image_id,
                "LEGAL",
                MIB,
            ), found
        made = {image_id for image_id, _ in self.volumes}
        there = {path.name for path in (self._directory / "images").iterdir()}
        assert made <= there, made - there
        for host in self.engine.hosts:
            assert host.call("Host.getConnectedStoragePools") == [self.engine.pool.pool_id], host.host_id
            assert not (host.repository / self.pool_id).exists(), host.host_id

    @property
    def _directory(self) -> Path:
        return self.engine.hosts[0].mount_of(self.device) / self.sd_id

    def _connect(self, host: StorageHost) -> None:
        again(
            lambda: host.call(
                "StoragePool.connect",
                storagepoolID=self.pool_id,
                hostID=host.host_id,
                scsiKey="",
                masterSdUUID=self.sd_id,
                masterVersion=1,
                domainDict={self.sd_id: "active"},
            )
        )

    def _be_refused(self, host: StorageHost) -> None:
        """The other pool while this one is connected."""
        pool = self.engine.pool
        with refused(_IN_ANOTHER):
            host.call(
                "StoragePool.connect",
                storagepoolID=pool.pool_id,
                hostID=host.host_id,
                scsiKey="",
                masterSdUUID=pool.master,
                masterVersion=pool.master_version,
                domainDict={pool.master: "active"},
            )

    def _take_role(self, host: StorageHost) -> None:
        start = {"prevID": -1, "prevLver": "-1", "enableScsiFencing": "false", "maxHostID": 250}

        def ask() -> None:
            if self._status(host)["spmStatus"] != "SPM":
                task_id = host.call("StoragePool.spmStart", storagepoolID=self.pool_id, domVersion=_VERSION, **start)
                assert self.engine.result(host, task_id) == "success"

        again(ask, within_s=LEASE_S)

    def _status(self, host: StorageHost) -> dict[str, Any]:
        found: dict[str, Any] = host.call("StoragePool.getSpmStatus", storagepoolID=self.pool_id)
        return found

    def _make_volume(self, host: StorageHost) -> None:
        image_id, volume_id = str(uuid.uuid4()), str(uuid.uuid4())
        params = {"size": str(MIB), "volFormat": 5, "preallocate": 2, "diskType": "DATA", "desc": "second"}
        ids = {"storagepoolID": self.pool_id, "storagedomainID": self.sd_id, "imageID": image_id}
        made = {"volumeID": volume_id, "srcImgUUID": BLANK, "srcVolUUID": BLANK}
        assert self.engine.result(host, host.call("Volume.create", **ids, **made, **params)) == "success"
        self.volumes.append((image_id, volume_id))


@contextlib.contextmanager
def refused(code: int) -> Iterator[None]:
    """Raises: AssertionError (it was not), Error (it is not known)."""
    try:
        yield
    except RemoteError as e:
        assert e.code in (code, *_GONE), (e.code, str(e))
        if e.code in _GONE:
            raise
    else:
        raise AssertionError(f"what was to be refused with {code} was done")
