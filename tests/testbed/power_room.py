# SPDX-License-Identifier: Apache-2.0
"""Runs inside a testbed host whose power goes: the storage room, three clients of it, and what they find afterwards.

    python -m tests.testbed.power_room make          domain, pool, role; then as `go`
    python -m tests.testbed.power_room go SEED       look at what the last power cut left, then work until the next

The domains are on a disk of the host; the clients' ledger is in the folder that all hosts see, which no cut reaches.
`looked {…}` in the file `said` tells that all was well and that work goes on.
"""

import json
import os
import random
import sys
import threading
import traceback
from pathlib import Path

from tests.support.diskjobs import BusyWorker
from tests.support.ledger import Ledger, Storage, settle
from tests.support.storage_room import StorageRoom

BASE = Path("/run/agent")
SHARED = Path("/testbed")
CLIENTS = 3


def main() -> None:
    ledger = Ledger(SHARED / "ledger", sync=True)
    house = StorageRoom(BASE, sd_health_check_delay=5)
    house = house.make() if sys.argv[1] == "make" else house.take_role()
    storage = Storage(house.call, house.pool_id, {house.sd_id: house.domain}, jobs="internal.storage_jobs")
    counts = settle(ledger, storage)
    seed = sys.argv[2]
    workers = [BusyWorker(f"client{n}", storage, ledger, random.Random(f"{seed} {n}")) for n in range(CLIENTS)]
    for worker in workers:
        worker.take_up()
    say(f"looked {json.dumps(counts)}")
    threads = [threading.Thread(target=work, args=(worker,)) for worker in workers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def work(worker: BusyWorker) -> None:
    try:
        while True:
            worker.step()
    except BaseException:
        say(f"failed {worker.name} {traceback.format_exc()}")
        os._exit(1)


def say(text: str) -> None:
    with (SHARED / "said").open("a") as file:
        file.write(text.replace("\n", " | ") + "\n")
        file.flush()
        os.fsync(file.fileno())


if __name__ == "__main__":
    try:
        main()
    except BaseException:
        say(f"failed {traceback.format_exc()}")
        raise
