# SPDX-License-Identifier: Apache-2.0
"""Runs inside a testbed host: one of two agents that share an NFS export of host1 and may be its SPM.

    python -m tests.testbed.spm_room HOST_ID make      domain and pool
    python -m tests.testbed.spm_room HOST_ID keep      the agent, started again as a master would when it ends
    python -m tests.testbed.spm_room HOST_ID agent     one life of its storage room
    python -m tests.testbed.spm_room HOST_ID mail      asks the SPM for larger volumes

An agent takes the role whenever it can and keeps it, with a task that never ends. What it does is written, one line
each, to HISTORY-HOST_ID in the folder that all hosts see, which no fault touches: `SECONDS HOST_ID PID begin|task|end`.
`begin` is written after the role is ours; `task` by the SPM's task while it runs; `end` by whoever sees the process
gone. Seconds are of the machine's own clock: all hosts are processes of one machine.
"""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from tests.support.eventually import eventually
from tests.support.neighbour import Neighbour
from tests.support.room import Called
from vdsm_mp.api.types import BLANK
from vdsm_mp.common.errors import Error
from vdsm_mp.common.options import Config, House, Irs, Sanlock
from vdsm_mp.priv import install
from vdsm_mp.priv.call import SudoRoot
from vdsm_mp.storage import mailbox_format as fmt
from vdsm_mp.tasks.run import TaskRun

SD = "5d000000-0000-4000-8000-000000000001"
POOL = "90000000-0000-4000-8000-000000000001"
IMAGE, VOLUME = "10000000-aaaa-4bbb-8ccc-100000000000", "20000000-aaaa-4bbb-8ccc-200000000000"
EXPORT = "host1:/srv/data"
BASE = Path("/var/tmp/agent")
LIBEXEC = Path("/usr/libexec/vdsm-mp")
SHARED = Path("/testbed")
IO_TIMEOUT_S = 2


class Agent:
    def __init__(self, host_id: int) -> None:
        self.host_id = host_id
        (BASE / "run").mkdir(parents=True, exist_ok=True)
        (BASE / "dc").mkdir(exist_ok=True)
        BASE.chmod(0o755)
        config = Config(
            irs=Irs(repository=f"{BASE}/dc", sd_health_check_delay=2),
            sanlock=Sanlock(io_timeout=IO_TIMEOUT_S),
            vdsm_mp=House(run_dir=f"{BASE}/run", vdsm_run_dir=f"{BASE}/run"),
        )
        install.install(LIBEXEC, user="root", repository=f"{BASE}/dc")
        self.room = Called("vdsm_mp.workers.storage", config, root=SudoRoot("storage", str(LIBEXEC)))
        self.call = self.room.call
        row = {"id": "n", "connection": EXPORT, "protocol_version": "4.2", "timeout": "20", "retrans": "1"}
        params = {"storagepoolID": BLANK, "domainType": 1, "connectionParams": [row]}
        [found] = self.call("StoragePool.connectStorageServer", **params)
        assert found["status"] == 0, found

    def make(self) -> None:
        params = {"domainType": 1, "typeArgs": EXPORT, "name": "shared", "domainClass": 1, "version": "5"}
        self.call("StorageDomain.create", storagedomainID=SD, **params)
        numbers = {"lockRenewalIntervalSec": 5, "leaseTimeSec": 60, "ioOpTimeoutSec": 10, "leaseRetries": 3}
        names = {"name": "pool", "masterSdUUID": SD, "masterVersion": 1, "domainList": [SD]}
        self.call("StoragePool.create", storagepoolID=POOL, **names, **numbers)

    def join(self) -> None:
        params = {"masterSdUUID": SD, "masterVersion": 1, "domainDict": {SD: "active"}}
        self.call("StoragePool.connect", storagepoolID=POOL, hostID=self.host_id, scsiKey="", **params)

    def take(self) -> bool:
        start = {"prevID": -1, "prevLver": "-1", "enableScsiFencing": "false", "maxHostID": 250}
        try:
            task_id = self.call("StoragePool.spmStart", storagepoolID=POOL, **start)
            result = self._result(task_id)
        except Error as e:
            print(e, file=sys.stderr)
            return False
        return result == "success"

    def _result(self, task_id: str) -> str:
        def ended() -> str:
            status = self.call("Task.getStatus", taskID=task_id)
            return str(status["taskResult"]) if status["taskState"] == "finished" else ""

        result = eventually(ended, within_s=300, every_s=0.1)
        self.call("Task.clear", taskID=task_id)
        return str(result)

    def owner(self) -> int:
        return int(self.call("StoragePool.getSpmStatus", storagepoolID=POOL)["spmId"])

    def work(self) -> None:
        """A task of the SPM's that goes on for as long as it may."""

        def job(run: TaskRun) -> None:
            while True:
                run.check()
                write(self.host_id, "task")
                time.sleep(0.2)

        tasks = next(thing for thing in self.room.room.state if type(thing).__name__ == "Tasks")
        tasks.start("work", job, spm=True)


def write(host_id: int, what: str, pid: int | None = None) -> None:
    path = SHARED / f"history-{host_id}"
    line = f"{time.time():.3f} {host_id} {pid or os.getpid()} {what}\n"
    fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    try:
        os.write(fd, line.encode())
    finally:
        os.close(fd)


def life(host_id: int) -> None:
    agent = Agent(host_id)

    def leave(number: int, frame: object) -> None:
        """As the worker does when it is told to end, by sanlock here."""
        write(host_id, "told")
        agent.room.background.draining = True
        for step in agent.room.room.on_drain:
            step()
        os._exit(0)

    signal.signal(signal.SIGTERM, leave)
    agent.join()
    while not agent.take():
        write(host_id, f"sees-{agent.owner()}")
        time.sleep(1)
    write(host_id, "begin")
    agent.work()
    while True:
        time.sleep(1)


def keep(host_id: int) -> None:
    """The master's part: an agent that ended is started again."""
    argv = [sys.executable, "-m", "tests.testbed.spm_room", str(host_id), "agent"]
    while not (SHARED / "over").exists():
        child = subprocess.Popen(argv)
        while child.poll() is None and not (SHARED / "over").exists():
            time.sleep(0.1)
        if child.returncode is None:
            child.kill()
            child.wait(10)
        write(host_id, "end", child.pid)
        print(f"agent {child.pid} of host {host_id} ended with {child.returncode}", flush=True)


def mailed() -> list[str]:
    """This host asks the other, which is SPM, for a larger volume: one that is there, one that is not."""
    neighbour = Neighbour(BASE / f"dc/mnt/host1:_srv_data/{SD}/dom_md", 2)
    answers = []
    for slot, volume in enumerate((VOLUME, IMAGE)):
        request = fmt.Extend(SD, volume, 2560)
        reply = neighbour.ask(slot, request)
        answers.append("done" if reply == request.encode() else "failed" if reply == fmt.failed(reply) else "?")
    return answers


def make(host_id: int) -> None:
    agent = Agent(host_id)
    agent.make()
    image = Path(f"{BASE}/dc/mnt/host1:_srv_data/{SD}/images/{IMAGE}")
    image.mkdir(parents=True)
    (image / f"{VOLUME}.meta").write_text("")
    agent.room.stop()


def main() -> None:
    host_id, what = int(sys.argv[1]), sys.argv[2]
    if what == "mail":
        print("SEEN " + json.dumps({"mail": mailed()}), flush=True)
        return
    {"make": make, "keep": keep, "agent": life}[what](host_id)
    print("SEEN {}", flush=True)
    # What still hangs in the kernel must not keep this process.
    os._exit(0)


if __name__ == "__main__":
    main()
