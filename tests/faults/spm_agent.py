# SPDX-License-Identifier: Apache-2.0
"""One host of several that fight for the SPM role: takes it whenever it can, holds it a moment, gives it up.

    python -m tests.faults.spm_agent DIRECTORY DEVICE HOST_ID HISTORY [make|keep]

Appends lines `MONOTONIC HOST_ID PID begin|end` to HISTORY; `begin` after the role is ours, `end` before it is given
up, so that two hosts that overlap by these lines overlapped in truth. Killed by the test at any moment. With `make` it
only creates the domain and the pool; with `keep` it takes the role once and writes as the SPM until it ends by itself,
with a line `write` after each.
"""

import itertools
import os
import random
import sys
import time
from pathlib import Path

from tests.support.eventually import eventually
from tests.support.room import Called
from tests.support.root import DirectRoot
from vdsm_mp.api.types import BLANK
from vdsm_mp.common.errors import Error
from vdsm_mp.common.options import Config, House, Irs, Sanlock
from vdsm_mp.storage import spm

SD = "5d000000-0000-4000-8000-000000000001"
POOL = "90000000-0000-4000-8000-000000000001"


class Agent:
    def __init__(self, base: Path, device: str, host_id: int, history: Path) -> None:
        (base / "run").mkdir(parents=True, exist_ok=True)
        config = Config(
            irs=Irs(repository=f"{base}/dc", sd_health_check_delay=1),
            sanlock=Sanlock(io_timeout=1),
            vdsm_mp=House(run_dir=f"{base}/run", vdsm_run_dir=f"{base}/run"),
        )
        self.room = Called("vdsm_mp.workers.storage", config, root=DirectRoot(f"{base}/dc/mnt"))
        self.call = self.room.call
        self.host_id = host_id
        self._history = os.open(history, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        row = {"id": "c", "connection": device, "vfs_type": "ext4"}
        [found] = self.call(
            "StoragePool.connectStorageServer", storagepoolID=BLANK, domainType=6, connectionParams=[row]
        )
        assert found["status"] == 0, found
        self.device = device

    def make(self) -> None:
        params = {"domainType": 6, "typeArgs": self.device, "name": "shared", "domainClass": 1, "version": "5"}
        self.call("StorageDomain.create", storagedomainID=SD, **params)
        numbers = {"lockRenewalIntervalSec": 5, "leaseTimeSec": 60, "ioOpTimeoutSec": 10, "leaseRetries": 3}
        names = {"name": "pool", "masterSdUUID": SD, "masterVersion": 1, "domainList": [SD]}
        self.call("StoragePool.create", storagepoolID=POOL, **names, **numbers)

    def fight(self) -> None:
        self._connect()
        while True:
            if self._take():
                self._write("begin")
                time.sleep(random.uniform(0.05, 0.4))
                self._write("end")
                self.call("StoragePool.spmStop", storagepoolID=POOL)
            time.sleep(random.uniform(0.0, 0.1))

    def keep(self) -> None:
        spm.WATCHDOG_S = 1.0  # sanlock is as much quicker here, too
        self._connect()
        assert self._take()
        self._write("begin")
        for n in itertools.count():
            self.call("StorageDomain.setDescription", storagedomainID=SD, description=f"host {self.host_id}, {n}")
            self._write("write")
            time.sleep(0.02)

    def _connect(self) -> None:
        self.call(
            "StoragePool.connect",
            storagepoolID=POOL,
            hostID=self.host_id,
            scsiKey="",
            masterSdUUID=SD,
            masterVersion=1,
            domainDict={SD: "active"},
        )

    def _take(self) -> bool:
        start = {"prevID": -1, "prevLver": "-1", "enableScsiFencing": "false"}
        try:
            task_id = self.call("StoragePool.spmStart", storagepoolID=POOL, **start)
        except Error as e:
            print(e, file=sys.stderr)
            return False

        def ended() -> str:
            status = self.call("Task.getStatus", taskID=task_id)
            return str(status["taskResult"]) if status["taskState"] == "finished" else ""

        result = eventually(ended, within_s=120, every_s=0.005)  # a dead host counts as alive for 68 s
        self.call("Task.clear", taskID=task_id)
        return result == "success"

    def _write(self, what: str) -> None:
        os.write(self._history, f"{time.monotonic():.6f} {self.host_id} {os.getpid()} {what}\n".encode())


def main() -> None:
    base, device, host_id, history = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), Path(sys.argv[4])
    agent = Agent(base, device, host_id, history)
    if sys.argv[5:] == ["make"]:
        agent.make()
        agent.room.stop()
    elif sys.argv[5:] == ["keep"]:
        agent.keep()
    else:
        agent.fight()


if __name__ == "__main__":
    main()
