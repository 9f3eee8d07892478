# SPDX-License-Identifier: Apache-2.0
"""Runs inside a testbed host: a storage room on an NFS export of host1, whose server comes and goes.

    python -m tests.testbed.nfs_room VERSION

Talks to the test on the machine by files in /testbed: it writes `ready` and `hung`, waits for `cut` and `mended`.
Prints one JSON line of what it saw; an exception is a failure.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from tests.support.eventually import eventually
from tests.support.room import Called
from tests.support.root import DirectRoot
from vdsm_mp.api.types import BLANK
from vdsm_mp.common.options import Config, House, Irs, Sanlock

SHARED, LOCAL = (f"5d000000-0000-4000-8000-00000000000{n}" for n in (1, 2))
TESTBED = Path("/testbed")


class Agent:
    def __init__(self, version: str) -> None:
        self.base = Path(tempfile.mkdtemp(prefix="agent-", dir="/var/tmp"))
        self.base.chmod(0o755)  # sanlock is another user
        (self.base / "run").mkdir()
        (self.base / "local").mkdir()
        config = Config(
            irs=Irs(repository=f"{self.base}/dc", sd_health_check_delay=2),
            sanlock=Sanlock(io_timeout=1),
            vdsm_mp=House(run_dir=f"{self.base}/run", vdsm_run_dir=f"{self.base}/run"),
        )
        self.root = DirectRoot(f"{self.base}/dc/mnt")
        self.room = Called("vdsm_mp.workers.storage", config, root=self.root)
        self.call = self.room.call
        # Short times, so that a dead server is an error soon.
        self.nfs = {
            "id": "n",
            "connection": "host1:/srv/data",
            "protocol_version": version,
            "timeout": "20",
            "retrans": "1",
        }

    def server(self, verb: str, kind: int, row: dict[str, Any]) -> int:
        [found] = self.call(f"StoragePool.{verb}", storagepoolID=BLANK, domainType=kind, connectionParams=[row])
        return int(found["status"])

    def create(self, sd_id: str, kind: int, path: str) -> None:
        self.call(
            "StorageDomain.create",
            storagedomainID=sd_id,
            domainType=kind,
            typeArgs=path,
            name="d",
            domainClass=1,
            version="5",
        )

    def vitals(self, sd_id: str) -> dict[str, Any]:
        found: dict[str, Any] = self.call("internal.domain_vitals")[sd_id]
        return found

    def good(self, sd_id: str) -> bool:
        found = self.vitals(sd_id)
        return bool(found["actual"] and found["valid"] and found["acquired"])


def main() -> None:
    agent = Agent(sys.argv[1])
    seen: dict[str, Any] = {}
    assert agent.server("connectStorageServer", 1, agent.nfs | {"connection": "host1:/srv/absent"}) == 477
    assert agent.server("connectStorageServer", 1, agent.nfs | {"protocol_version": "5"}) == 453
    assert agent.server("connectStorageServer", 1, agent.nfs) == 0
    options = Path("/proc/mounts").read_text().split("host1:/srv/data ")[1].split()[2].split(",")
    seen["options"] = sorted(set(options) & {"soft", "nosharecache", "timeo=20", "retrans=1", "vers=3", "vers=4.2"})
    agent.create(SHARED, 1, "host1:/srv/data")
    local = {"id": "l", "connection": str(agent.base / "local")}
    assert agent.server("connectStorageServer", 4, local) == 0
    agent.create(LOCAL, 4, local["connection"])
    for sd_id in (SHARED, LOCAL):
        agent.call("Host.startMonitoringDomain", sdUUID=sd_id, hostID=1)
    eventually(lambda: agent.good(SHARED) and agent.good(LOCAL), within_s=60, every_s=0.2)
    owner = os.stat(f"{agent.base}/dc/mnt/host1:_srv_data/{SHARED}/dom_md/metadata")
    seen["owner"] = [owner.st_uid, owner.st_gid]

    (TESTBED / "ready").touch()
    eventually((TESTBED / "cut").exists, within_s=60, every_s=0.1)
    began = time.monotonic()
    eventually(lambda: not agent.vitals(SHARED)["valid"], within_s=60, every_s=0.2)
    seen["noticed_s"] = round(time.monotonic() - began, 1)
    seen["code"] = agent.vitals(SHARED)["code"]
    worst = 0.0
    end = time.monotonic() + 15
    while time.monotonic() < end:
        worst = max(worst, float(agent.vitals(LOCAL)["lastCheck"]))
        assert agent.vitals(LOCAL)["code"] == 0
        time.sleep(0.1)
    seen["healthy_age_s"] = worst
    (TESTBED / "hung").touch()
    eventually((TESTBED / "mended").exists, within_s=120, every_s=0.1)
    began = time.monotonic()
    eventually(lambda: agent.good(SHARED), within_s=150, every_s=0.2)
    seen["recovered_s"] = round(time.monotonic() - began, 1)

    (TESTBED / "again").touch()
    eventually((TESTBED / "dead").exists, within_s=60, every_s=0.1)
    for sd_id in (SHARED, LOCAL):
        agent.call("Host.stopMonitoringDomain", sdUUID=sd_id)
    assert agent.call("internal.domain_vitals") == {}
    began = time.monotonic()
    status = agent.server("disconnectStorageServer", 1, agent.nfs)
    seen["left_dead_s"] = round(time.monotonic() - began, 1)
    seen["left_status"] = status
    seen["mounted"] = "host1:/srv/data" in Path("/proc/mounts").read_text()
    seen["asked"] = agent.root.asked
    assert agent.call("StorageDomain.getInfo", storagedomainID=LOCAL)["uuid"] == LOCAL
    print("SEEN " + json.dumps(seen), flush=True)
    # What still hangs in the kernel must not keep this process.
    os._exit(0)


if __name__ == "__main__":
    subprocess.run("mkdir -p /run/sanlock; id sanlock >/dev/null", shell=True, check=True)
    daemon = subprocess.Popen(["/usr/sbin/sanlock", "daemon", "-D", "-w", "0"], stderr=subprocess.DEVNULL)
    eventually(Path("/run/sanlock/sanlock.sock").exists)
    main()
