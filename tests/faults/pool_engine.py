# SPDX-License-Identifier: Apache-2.0
"""An engine that survives everything its hosts do: what it has written down of one pool, and how it brings hosts that
died back into it. Used by `pool_chaos`.
"""

import contextlib
import random
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.support.eventually import eventually
from tests.support.storage_hosts import StorageHost
from vdsm_mp.api.errors import RemoteError
from vdsm_mp.api.types import BLANK
from vdsm_mp.common.errors import Error
from vdsm_mp.storage.domain_metadata import DomainMetadata, decode, parse

if TYPE_CHECKING:
    from tests.faults.pool_second import SecondPool

MIB = 2**20
NUMBERS = {"lockRenewalIntervalSec": 5, "leaseTimeSec": 60, "ioOpTimeoutSec": 10, "leaseRetries": 3}
#: What an engine takes for "the master is not what I know".
_WRONG_MASTER = (304, 324)
#: The lease of a host that died is free after that long.
LEASE_S = 90.0


@dataclass
class Pool:
    """What the engine has in its database. status: "Active" or "Attached"; absent: not attached."""

    pool_id: str
    master: str
    master_version: int = 1
    version: str = "3"
    status: dict[str, str] = field(default_factory=dict)
    spm: StorageHost | None = None
    doomed: bool = False


class Engine:
    """device_of: every domain there is, and where. memory: it passes the list of domains, as engines do by now.

    second: a pool that hosts visit.
    """

    def __init__(self, hosts: list[StorageHost], devices: list[str], seed: int, *, memory: bool = True) -> None:
        self.memory = memory
        self.hosts = hosts
        self.devices = devices
        self.random = random.Random(seed)
        self.device_of: dict[str, str] = {}
        self.volumes: dict[str, list[tuple[str, str]]] = {}
        self.pool = Pool(str(uuid.uuid4()), "")
        self.second: SecondPool | None = None

    # --- from nothing

    def make(self) -> None:
        host = self.hosts[0]
        for one in self.hosts:
            self._connect_servers(one)
        if self.second is not None:
            self.second.make(host)
        for device in self.devices:
            sd_id = self.create_domain(host, device)
            self.device_of[sd_id] = device
            self.volumes[sd_id] = []
        first = next(iter(self.device_of))
        self.create_pool(host, first)
        self.settle()
        for sd_id in list(self.device_of)[1:]:
            for verb, status in (("attach", "Attached"), ("activate", "Active")):
                self.in_pool(verb, sd_id)
                self.pool.status[sd_id] = status
        self.settle()

    def create_domain(self, host: StorageHost, device: str) -> str:
        sd_id = str(uuid.uuid4())
        names = {"domainType": 6, "typeArgs": device, "name": "shared é", "domainClass": 1}
        host.call("StorageDomain.create", storagedomainID=sd_id, version=self.pool.version, **names)
        return sd_id

    def create_pool(self, host: StorageHost, master: str) -> None:
        self.pool = Pool(str(uuid.uuid4()), master, version=self.pool.version, status={master: "Active"})
        names = {"name": "pool", "masterSdUUID": master, "masterVersion": 1, "domainList": [master]}
        host.call("StoragePool.create", storagepoolID=self.pool.pool_id, **names, **NUMBERS)

    # --- bringing everything to order

    def settle(self) -> None:
        """Whatever died, both hosts are in the pool again and one is SPM; a pool that was destroyed is made again."""
        self.revive()
        if self.pool.doomed and not self.meta(self.pool.master).pool_ids:
            old = self.pool.pool_id
            for host in self.hosts:
                again(partial(host.call, "StoragePool.disconnect", storagepoolID=old, hostID=1, scsiKey=""))
            again(lambda: self.create_pool(self.random.choice(self.hosts), self.pool.master), within_s=LEASE_S)
        for host in self.hosts:
            self._connect_pool(host)
        self._elect()

    def revive(self) -> None:
        for host in self.hosts:
            eventually(partial(_ready, host), within_s=90)
            again(partial(self._connect_servers, host))
            if self.second is not None:
                again(partial(self.second.leave, host))

    def _connect_servers(self, host: StorageHost) -> None:
        for device in (*self.devices, *((self.second.device,) if self.second is not None else ())):
            assert host.server("connectStorageServer", device) == 0

    def _connect_pool(self, host: StorageHost) -> None:
        for _ in range(10):
            pool = self.pool
            domains = {sd_id: status.lower() for sd_id, status in pool.status.items()}
            try:
                again(
                    partial(
                        host.call,
                        "StoragePool.connect",
                        storagepoolID=pool.pool_id,
                        hostID=host.host_id,
                        scsiKey="",
                        masterSdUUID=pool.master,
                        masterVersion=pool.master_version,
                        domainDict=domains if self.memory else None,
                    ),
                    give_up_on=_WRONG_MASTER,
                )
            except RemoteError as e:
                if e.code not in _WRONG_MASTER:
                    raise
                self.reconstruct(self._who_says_master() or pool.master)
            else:
                return
        raise AssertionError("the pool cannot be connected")

    def _who_says_master(self) -> str | None:
        active = [sd_id for sd_id, status in self.pool.status.items() if status == "Active"]
        return next((sd_id for sd_id in active if self.meta(sd_id).role.value == "Master"), None)

    def reconstruct(self, master: str) -> None:
        """By whoever is not SPM. The SPM is stopped before, or (an engine that does not reach it) left to itself."""
        pool = self.pool
        self.revive()
        if self.random.random() < 0.6:
            for host in self.hosts:
                self.stop_role(host)
        host = next(one for one in self.hosts if self.spm_status(one)["spmStatus"] == "Free")
        names = {"hostId": host.host_id, "name": "pool", "masterSdUUID": master}
        domains = {sd_id: status.lower() for sd_id, status in pool.status.items()}

        def ask() -> None:
            host.call(
                "StoragePool.reconstructMaster",
                storagepoolID=pool.pool_id,
                masterVersion=pool.master_version + 1,
                domainDict=domains,
                **names,
                **NUMBERS,
            )

        try:
            again(ask, within_s=LEASE_S / 3)
        except Error:  # it is well, and keeps the lease as long as it is
            for one in self.hosts:
                self.stop_role(one)
            again(ask, within_s=LEASE_S)
        pool.master, pool.master_version = master, pool.master_version + 1

    def _elect(self) -> None:
        deadline = time.monotonic() + LEASE_S
        while time.monotonic() < deadline:
            found = [host for host in self.hosts if self.spm_status(host)["spmStatus"] == "SPM"]
            assert len(found) <= 1, "two hosts are SPM"
            if found:
                self.pool.spm = found[0]
                return
            self._take_role(self.random.choice(self.hosts))
        raise AssertionError("nobody becomes SPM")

    def stop_role(self, host: StorageHost) -> None:
        """What is finished is cleared first; an engine would wait for the rest."""
        with contextlib.suppress(Error):
            for task_id in host.call("Host.getAllTasksStatuses"):
                eventually(partial(over, host, task_id), within_s=30)
                host.call("Task.clear", taskID=task_id)
            host.call("StoragePool.spmStop", storagepoolID=self.pool.pool_id)

    def spm_status(self, host: StorageHost) -> dict[str, Any]:
        found: dict[str, Any] = again(lambda: host.call("StoragePool.getSpmStatus", storagepoolID=self.pool.pool_id))
        return found

    def _take_role(self, host: StorageHost) -> None:
        start = {"prevID": -1, "prevLver": "-1", "enableScsiFencing": "false", "maxHostID": 250}
        with contextlib.suppress(Error, OSError):
            task_id = host.call(
                "StoragePool.spmStart", storagepoolID=self.pool.pool_id, domVersion=self.pool.version, **start
            )
            self.result(host, task_id)

    def result(self, host: StorageHost, task_id: str) -> str:
        """Of a task, which is cleared."""
        status = eventually(lambda: over(host, task_id), within_s=LEASE_S)
        with contextlib.suppress(RemoteError):
            host.call("Task.clear", taskID=task_id)
        return str(status["taskResult"])

    # --- work

    @property
    def spm(self) -> StorageHost:
        assert self.pool.spm is not None
        return self.pool.spm

    def make_volume(self, *, clear: bool) -> None:
        active = [sd_id for sd_id, status in self.pool.status.items() if status == "Active"]
        sd_id = self.random.choice(active)
        image_id, volume_id = str(uuid.uuid4()), str(uuid.uuid4())
        params = {"size": str(MIB), "volFormat": 5, "preallocate": 2, "diskType": "DATA", "desc": "kept"}
        ids = {"storagepoolID": self.pool.pool_id, "storagedomainID": sd_id, "imageID": image_id}
        task_id = self.spm.call(
            "Volume.create", volumeID=volume_id, srcImgUUID=BLANK, srcVolUUID=BLANK, **ids, **params
        )
        status = eventually(lambda: over(self.spm, task_id), within_s=60)
        assert status["taskResult"] == "success", status
        if clear:
            self.spm.call("Task.clear", taskID=task_id)
        self.volumes[sd_id].append((image_id, volume_id))

    def in_pool(self, verb: str, sd_id: str, **more: Any) -> None:
        self.spm.call(f"StorageDomain.{verb}", storagepoolID=self.pool.pool_id, storagedomainID=sd_id, **more)

    # --- looking

    def directory(self, sd_id: str, host: StorageHost | None = None) -> Path:
        return (host or self.hosts[0]).mount_of(self.device_of[sd_id]) / sd_id

    def meta(self, sd_id: str, host: StorageHost | None = None) -> DomainMetadata:
        data = (self.directory(sd_id, host) / "dom_md/metadata").read_bytes()
        return decode(sd_id, parse(sd_id, data))


def _ready(host: StorageHost) -> bool:
    """As its supervisor: what could not start is started again, for a busy host may be too slow for it."""
    if host.house.process is None or host.house.process.poll() is not None:
        host.house.begin()
    try:
        return host.house.ready()
    except RuntimeError as e:
        raise AssertionError(str(e)[-800:]) from e


def over(host: StorageHost, task_id: str) -> dict[str, Any] | None:
    status: dict[str, Any] = again(lambda: host.call("Task.getStatus", taskID=task_id), give_up_on=(401,))
    return status if status["taskState"] == "finished" else None


def again(ask: Callable[[], Any], *, within_s: float = 60.0, give_up_on: tuple[int, ...] = ()) -> Any:
    """Ask until it is answered; what is refused for a reason that may pass is asked again."""
    deadline = time.monotonic() + within_s
    while True:
        try:
            return ask()
        except (Error, OSError, AssertionError) as e:
            if isinstance(e, RemoteError) and e.code in give_up_on:
                raise
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)
