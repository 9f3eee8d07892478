# SPDX-License-Identifier: Apache-2.0
"""Runs inside a testbed host: a storage room on an NFS export of host1, to which everything happens that does.

    python -m tests.testbed.nfs_faults_room VERSION SILENT_S

Has host1 do each fault and undo it (`asks`), records what an engine sees meanwhile, and goes on without a restart of
anything. Mounts through root's real helper. SILENT_S: how long the server is away in the last but one fault.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.support.eventually import eventually
from tests.support.room import Called
from tests.testbed.asks import ask
from vdsm_mp.api.types import BLANK
from vdsm_mp.common.errors import Error
from vdsm_mp.common.options import Config, House, Irs, Sanlock
from vdsm_mp.priv import install
from vdsm_mp.priv.call import SudoRoot

SHARED, LOCAL = (f"5d000000-0000-4000-8000-00000000000{n}" for n in (1, 2))
EXPORT = "host1:/srv/data"
SERVER = 1
PERIOD_S = 2
LIBEXEC = Path("/usr/libexec/vdsm-mp")

DROP = "iptables -{} INPUT -p tcp --dport 2049 -j DROP"
FOLDER = f"/srv/data/{SHARED}"
#: name: (what breaks it, what mends it) on the server.
FAULTS: dict[str, tuple[str, str]] = {
    "recreated": (f"cp -a {FOLDER} /srv/data/copy && rm -rf {FOLDER}", f"mv /srv/data/copy {FOLDER}"),
    "other file system": (
        "exportfs -ua; mount -o loop /root/other.img /srv/data && exportfs -ra",
        "exportfs -ua; umount /srv/data && exportfs -ra",
    ),
    "export removed": ("exportfs -ua", "exportfs -ra"),
    "server stopped": ("rpc.nfsd 0", "rpc.nfsd --lease-time 10 --grace-time 10 4"),
}


class Agent:
    def __init__(self, version: str) -> None:
        self.base = Path(tempfile.mkdtemp(prefix="agent-", dir="/var/tmp"))
        self.base.chmod(0o755)  # sanlock is another user
        for name in ("run", "local", "dc"):
            (self.base / name).mkdir()
        config = Config(
            irs=Irs(repository=f"{self.base}/dc", sd_health_check_delay=PERIOD_S),
            sanlock=Sanlock(io_timeout=1),
            vdsm_mp=House(run_dir=f"{self.base}/run", vdsm_run_dir=f"{self.base}/run"),
        )
        install.install(LIBEXEC, user="root", repository=f"{self.base}/dc")
        self.room = Called("vdsm_mp.workers.storage", config, root=SudoRoot("storage", str(LIBEXEC)))
        self.call = self.room.call
        #: Short times, so that a dead server is an error soon.
        self.nfs = {"id": "n", "connection": EXPORT, "protocol_version": version, "timeout": "20", "retrans": "1"}

    def server(self, verb: str, kind: int, row: dict[str, Any]) -> int:
        [found] = self.call(f"StoragePool.{verb}", storagepoolID=BLANK, domainType=kind, connectionParams=[row])
        return int(found["status"])

    def create(self, sd_id: str, kind: int, path: str) -> None:
        names = {"storagedomainID": sd_id, "domainType": kind, "typeArgs": path, "name": "d"}
        self.call("StorageDomain.create", domainClass=1, version="5", **names)

    def monitor(self, *sd_ids: str) -> None:
        for sd_id in sd_ids:
            self.call("Host.startMonitoringDomain", sdUUID=sd_id, hostID=1)

    def stats(self, sd_id: str) -> dict[str, Any]:
        found: dict[str, Any] = self.call("Host.getStorageRepoStats", domains=[sd_id])[sd_id]
        return found

    def good(self, sd_id: str) -> bool:
        found = self.stats(sd_id)
        return bool(found["actual"] and found["valid"] and found["acquired"])

    def mounted(self) -> bool:
        return f"{EXPORT} " in Path("/proc/mounts").read_text()

    def during(self, until: Callable[[], bool], within_s: float) -> dict[str, Any]:
        """What an engine sees until then: codes, how old the healthy domain's check gets, how long calls take."""
        began = time.monotonic()
        codes: set[int] = set()
        oldest = slowest = 0.0
        while not until():
            assert time.monotonic() < began + within_s, (codes, self.stats(SHARED))
            asked = time.monotonic()
            shared, local = self.stats(SHARED), self.stats(LOCAL)
            assert self.call("StorageDomain.getInfo", storagedomainID=LOCAL)["uuid"] == LOCAL
            slowest = max(slowest, time.monotonic() - asked)
            assert (local["code"], local["valid"]) == (0, True), local
            assert shared["actual"], shared
            if not shared["valid"]:
                codes.add(shared["code"])
            oldest = max(oldest, float(local["lastCheck"]))
            time.sleep(0.1)
        return {
            "took_s": round(time.monotonic() - began, 1),
            "codes": sorted(codes),
            "healthy_age_s": oldest,
            "slowest_call_s": round(slowest, 2),
        }


def suffer(agent: Agent, name: str, for_s: float) -> dict[str, Any]:
    """One fault and its mending."""
    breaks, mends = FAULTS[name]
    ask(SERVER, breaks)
    noticed = agent.during(lambda: not agent.stats(SHARED)["valid"], 90)
    end = time.monotonic() + for_s
    lasting = agent.during(lambda: time.monotonic() > end, for_s + 60)
    told = {agent.stats(SHARED)["valid"]}
    try:
        agent.call("StorageDomain.getStats", storagedomainID=SHARED)
        verb = 0
    except Error as e:
        verb = e.code
    ask(SERVER, mends)
    mended = agent.during(lambda: agent.good(SHARED), 240)
    found = {"noticed": noticed, "lasting": lasting, "valid": sorted(told), "verb": verb, "mended": mended}
    print(name, json.dumps(found), flush=True)
    return found


def leave_dead(agent: Agent) -> dict[str, Any]:
    """The server is silent; the engine gives up and disconnects; the server comes back, and so does the engine."""
    ask(SERVER, DROP.format("A"))
    agent.during(lambda: not agent.stats(SHARED)["valid"], 90)
    began = time.monotonic()
    agent.call("Host.stopMonitoringDomain", sdUUID=SHARED)
    stopped_s = time.monotonic() - began
    status = agent.server("disconnectStorageServer", 1, agent.nfs)
    left_s = time.monotonic() - began
    mounted = agent.mounted()
    # While it is dead a new connection is an error in time, and leaves nothing.
    began = time.monotonic()
    refused = agent.server("connectStorageServer", 1, agent.nfs | {"timeout": "10"})
    refused_s = time.monotonic() - began
    left = agent.mounted() or any((agent.base / "dc/mnt").glob("host1:*"))
    ask(SERVER, DROP.format("D"))
    again = eventually(lambda: agent.server("connectStorageServer", 1, agent.nfs) == 0, within_s=120, every_s=1)
    agent.monitor(SHARED)
    eventually(lambda: agent.stats(SHARED)["actual"], within_s=30, every_s=0.1)
    mended = agent.during(lambda: agent.good(SHARED), 240)
    found = {
        "status": status,
        "mounted": mounted,
        "refused": refused,
        "left": left,
        "again": again,
        "stopped_s": round(stopped_s, 1),
        "left_s": round(left_s, 1),
        "refused_s": round(refused_s, 1),
        "mended": mended,
    }
    print("left dead", json.dumps(found), flush=True)
    return found


def main() -> None:
    agent = Agent(sys.argv[1])
    assert agent.server("connectStorageServer", 1, agent.nfs) == 0
    agent.create(SHARED, 1, EXPORT)
    local = {"id": "l", "connection": str(agent.base / "local")}
    assert agent.server("connectStorageServer", 4, local) == 0
    agent.create(LOCAL, 4, local["connection"])
    agent.monitor(SHARED, LOCAL)
    eventually(lambda: agent.good(SHARED) and agent.good(LOCAL), within_s=60, every_s=0.2)
    pid = os.getpid()
    seen: dict[str, Any] = {name: suffer(agent, name, 10.0) for name in list(FAULTS)[:-1]}
    seen["server stopped"] = suffer(agent, "server stopped", float(sys.argv[2]))
    seen["left dead"] = leave_dead(agent)
    agent.call("Host.stopMonitoringDomain", sdUUID=SHARED)
    seen["left"] = agent.server("disconnectStorageServer", 1, agent.nfs)
    seen["mounted"] = agent.mounted()
    assert os.getpid() == pid
    print("SEEN " + json.dumps(seen), flush=True)
    # What still hangs in the kernel must not keep this process.
    os._exit(0)


if __name__ == "__main__":
    subprocess.run("mkdir -p /run/sanlock; id sanlock >/dev/null", shell=True, check=True)
    daemon = subprocess.Popen(["/usr/sbin/sanlock", "daemon", "-D", "-w", "0"], stderr=subprocess.DEVNULL)
    eventually(Path("/run/sanlock/sanlock.sock").exists)
    main()
