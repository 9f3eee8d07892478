# SPDX-License-Identifier: Apache-2.0
"""A worker on a pool of two mounted domains under real sanlock, as an engine comes back to it. The pool's list is on
disk."""

import shutil
from pathlib import Path
from typing import Any

from tests.support.eventually import eventually
from tests.support.room import Called
from tests.support.root import DirectRoot
from vdsm_mp.api.types import BLANK
from vdsm_mp.common.errors import Error
from vdsm_mp.common.options import Config, House, Irs, Sanlock
from vdsm_mp.storage.domain_metadata import parse
from vdsm_mp.storage.mount import escape

FIRST, SECOND = (f"5d000000-000{n}-4000-8000-000000000000" for n in (1, 2))
POOL = "90000000-0000-4000-8000-000000000001"
_NUMBERS = {"lockRenewalIntervalSec": 5, "leaseTimeSec": 60, "ioOpTimeoutSec": 10, "leaseRetries": 3}


class LeaseHost:
    """root: of the repository and the run directory. devices: of both domains."""

    def __init__(self, root: Path, devices: tuple[str, str]) -> None:
        (root / "run").mkdir(exist_ok=True)
        self._repository = root / "dc"
        self.devices = dict(zip((FIRST, SECOND), devices, strict=True))
        config = Config(
            irs=Irs(repository=str(self._repository), sd_health_check_delay=1),
            sanlock=Sanlock(io_timeout=1),
            vdsm_mp=House(run_dir=f"{root}/run", vdsm_run_dir=f"{root}/run"),
        )
        self._run = root / "run"
        self.room = Called("vdsm_mp.workers.storage", config, root=DirectRoot(f"{self._repository}/mnt"))
        self.call = self.room.call

    def domain(self, sd_id: str) -> Path:
        return self._repository / "mnt" / escape(self.devices[sd_id]) / sd_id

    def metadata(self, sd_id: str) -> dict[str, str]:
        return parse(sd_id, (self.domain(sd_id) / "dom_md/metadata").read_bytes())

    def make(self) -> "LeaseHost":
        """From nothing to a pool of both domains, whose SPM this is."""
        self._connect_servers()
        for sd_id, device in self.devices.items():
            params = {"domainType": 6, "typeArgs": device, "name": "shared", "domainClass": 1, "version": "5"}
            self.call("StorageDomain.create", storagedomainID=sd_id, **params)
        names = {"name": "pool", "masterSdUUID": FIRST, "masterVersion": 1, "domainList": [FIRST, SECOND]}
        self.call("StoragePool.create", storagepoolID=POOL, **names, **_NUMBERS)
        self.connected()
        self.call("StorageDomain.activate", storagedomainID=SECOND, storagepoolID=POOL)
        return self

    def connected(self) -> "LeaseHost":
        """SPM, whoever of both is master by now: the one with the higher version, as an engine knows it."""
        self._connect_servers()
        versions = {sd_id: int(self.metadata(sd_id).get("MASTER_VERSION", "0")) for sd_id in self.devices}
        master = max(versions, key=lambda sd_id: (versions[sd_id], sd_id == FIRST))
        pool = {"storagepoolID": POOL, "hostID": 1, "scsiKey": ""}
        self.call("StoragePool.connect", masterSdUUID=master, masterVersion=versions[master], **pool)
        self.take_role()
        return self

    def _connect_servers(self) -> None:
        rows = [{"id": sd_id, "connection": device, "vfs_type": "ext4"} for sd_id, device in self.devices.items()]
        ask = {"storagepoolID": BLANK, "domainType": 6, "connectionParams": rows}
        found = self.call("StoragePool.connectStorageServer", **ask)
        assert [one["status"] for one in found] == [0, 0], found

    def take_role(self) -> None:
        start = {"prevID": -1, "prevLver": "-1", "enableScsiFencing": "false"}
        self.success(self.call("StoragePool.spmStart", storagepoolID=POOL, **start))

    @property
    def master(self) -> str:
        found: str = self.call("StoragePool.getInfo", storagepoolID=POOL)["info"]["master_uuid"]
        return found

    def result(self, task_id: str) -> dict[str, Any]:
        """Of a task, which is cleared."""
        eventually(lambda: self.call("Task.getStatus", taskID=task_id)["taskState"] == "finished", within_s=60)
        status: dict[str, Any] = self.call("Task.getStatus", taskID=task_id)
        self.call("Task.clear", taskID=task_id)
        return status

    def success(self, task_id: str) -> None:
        status = self.result(task_id)
        assert status["taskResult"] == "success", status

    def clear_tasks(self) -> None:
        for task_id in self.call("Host.getAllTasksStatuses"):
            self.call("Task.clear", taskID=task_id)

    def code_of(self, verb: str, **params: Any) -> int:
        """0 when it is not refused."""
        try:
            self.call(verb, **params)
        except Error as e:
            return e.code
        return 0

    def stop(self) -> None:
        self.room.stop()
        shutil.rmtree(self._run, ignore_errors=True)


def tasks_are_over(host: LeaseHost) -> bool:
    return all(one["taskState"] == "finished" for one in host.call("Host.getAllTasks").values())
