# SPDX-License-Identifier: Apache-2.0
"""Clients that work on disks and leases of a pool while its engine changes it and something dies (`pool_chaos`)."""

import random
import re
import threading
from collections import Counter
from pathlib import Path
from typing import Any

from tests.faults.pool_engine import Engine
from tests.faults.pool_transfers import PoolWorker, Transfers
from tests.support.diskjobs import ImageServer
from tests.support.diskwork import Failed
from tests.support.imagedaemon import NoTicketError
from tests.support.ledger import Ledger, Storage, settle
from vdsm_mp.common.errors import Error

#: The tasks of a master that is given up as lost are lost with it, and so is what would undo them.
ALONE = ("rebuild", "destroy")
CLIENTS = 2
_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


class Disks:
    def __init__(self, engine: Engine, ledger: Path) -> None:
        self.engine = engine
        self.ledger = Ledger(ledger)
        self.server = ImageServer()
        self.transfers = Transfers(engine)
        self.told: Counter[str] = Counter()
        self._stopped = threading.Event()
        self._threads: list[threading.Thread] = []
        self._workers = [self._worker(number) for number in range(CLIENTS)]

    def _worker(self, number: int) -> PoolWorker:
        return PoolWorker(
            f"client{number}",
            Storage(self._call, "", {}, volume_leases=True),
            self.ledger,
            random.Random(self.engine.random.random()),
            most=3,
            depth=4,
            ovfs=False,
            server=self.server,
            one_host=False,
            modern=False,
            transfers=self.transfers,
        )

    def _call(self, verb: str, /, **params: Any) -> Any:
        if verb == "Host.getJobs":  # the role may have gone to another host since
            return {key: job for host in self.engine.hosts for key, job in host.call(verb, **params).items()}
        return self.engine.spm.call(verb, **params)

    def begin(self) -> None:
        """They work on what is active now, whatever becomes of it."""
        pool = self.engine.pool
        active = {sd_id: self.engine.directory(sd_id) for sd_id, status in pool.status.items() if status == "Active"}
        self._stopped.clear()
        self._threads = []
        for worker in self._workers:
            worker.storage.pool_id, worker.storage.domains = pool.pool_id, active
            worker.leases = tuple(active) if int(pool.version) >= 4 else ()
            self._threads.append(threading.Thread(target=self._work, args=(worker,)))
            self._threads[-1].start()

    def _work(self, worker: PoolWorker) -> None:
        while not self._stopped.is_set():
            try:
                self.told[worker.step()] += 1
            except (Error, OSError, Failed, NoTicketError, AssertionError) as error:
                self.told[f"{type(error).__name__} {_ID.sub('ID', str(error))[:200]}"] += 1
                return

    def end(self) -> None:
        self._stopped.set()
        for thread in self._threads:
            thread.join(200)
            assert not thread.is_alive(), "a client waits for ever"

    def host_died(self, host_id: int) -> None:
        self.transfers.daemons[host_id].forget()

    def stop(self) -> None:
        self.server.stop()
        self.transfers.stop()

    def settle(self) -> None:
        """What became of everything, also on domains that are not active now. Raises: AssertionError."""
        engine = self.engine
        self.transfers.settle()
        domains = {sd_id: engine.directory(sd_id) for sd_id in engine.device_of}
        for key in [key for key in self.ledger.things if _domain_of(key) not in domains]:
            del self.ledger.things[key]  # its domain was made anew
        others = {f"{sd_id}/{image_id}" for sd_id, made in engine.volumes.items() for image_id, _ in made}
        storage = Storage(self._call, engine.pool.pool_id, domains, volume_leases=True, others=others)
        storage.master = engine.pool.master
        settle(self.ledger, storage, somebody_clears=True)
        for worker in self._workers:
            worker.take_up()


def _domain_of(key: str) -> str:
    return key.removeprefix("lease/").partition("/")[0]
