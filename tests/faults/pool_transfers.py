# SPDX-License-Identifier: Apache-2.0
"""What else clients of `pool_disks` do: sparsify a disk, and upload into one, prepared on a host, under a ticket."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from tests.faults.pool_engine import Engine, again
from tests.support.diskjobs import BusyWorker
from tests.support.diskwork import new_id
from tests.support.imagedaemon import ImageDaemon
from tests.support.ledger import leaf_of
from tests.support.storage_hosts import StorageHost
from tests.support.ticket_storage import SOCKET
from vdsm_mp.api.types import BLANK

_TIMEOUT_S = 300


class Transfers:
    """One daemon for each host, and what is open there. (host id, image key, ticket id) each."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.daemons = {host.host_id: ImageDaemon(host.house.root / "state" / SOCKET) for host in engine.hosts}
        self.open: set[tuple[int, str, str]] = set()

    def settle(self) -> None:
        """As an engine: what was cut short is taken back. Raises: AssertionError, when something is left."""
        by_id = {host.host_id: host for host in self.engine.hosts}
        for host_id, key, ticket_id in sorted(self.open):
            again(partial(self.take_back, by_id[host_id], key, ticket_id))
        self.open.clear()
        for host in self.engine.hosts:
            assert self.daemons[host.host_id].tickets == {}, (host.host_id, self.daemons[host.host_id].tickets)
            left = [str(link) for link in (host.house.root / "vrun/storage").glob("*/*")]
            assert left == [], (host.host_id, left)

    def take_back(self, host: StorageHost, key: str, ticket_id: str) -> None:
        sd_id, _, image_id = key.partition("/")
        names = {"storagepoolID": BLANK, "storagedomainID": sd_id, "imageID": image_id, "volumeID": new_id()}
        host.call("Host.remove_image_ticket", uuid=ticket_id)
        host.call("Image.teardown", **names)

    def stop(self) -> None:
        for daemon in self.daemons.values():
            daemon.stop()


@dataclass
class PoolWorker(BusyWorker):
    transfers: Transfers = field(kw_only=True)

    def more(self, key: str) -> list[Callable[[], str]]:
        acts = super().more(key)
        if not self.is_template(key):
            acts += [lambda: self.sparsify(key), lambda: self.transfer(key), lambda: self.transfer(key)]
        return acts

    def sparsify(self, key: str) -> str:
        return self._change("sparsify", key, lambda names: names, "SDM.sparsify_volume", again=True)

    def transfer(self, key: str) -> str:
        """Twice the same data, so that something may happen between; the ticket is prolonged there."""
        engine, ticket_id = self.transfers.engine, new_id()
        host = self.rng.choice(engine.hosts)
        before, after = self.view(key), self.view(key)
        leaf, at, byte = leaf_of(before), self.rng.randrange(16) * 65536, self.rng.randrange(1, 256)
        form = "qcow2" if before[leaf]["format"] == "COW" else "raw"
        after[leaf]["writes"][str(at)] = byte
        number = self.ledger.begin(f"{self.name}: transfer", {key: before}, {key: after})
        self.transfers.open.add((host.host_id, key, ticket_id))
        found: dict[str, Any] = host.call("Image.prepare", **self.storage.names(key, leaf) | {"storagepoolID": BLANK})
        ticket = {"uuid": ticket_id, "url": f"file://{found['path']}", "size": 1, "ops": ["read", "write"]}
        host.call("Host.add_image_ticket", ticket=ticket | {"timeout": _TIMEOUT_S})
        daemon = self.transfers.daemons[host.host_id]
        for _ in range(2):
            daemon.write(ticket_id, form, at, byte)
            time.sleep(self.rng.uniform(0.0, 0.3))
            host.call("Host.extend_image_ticket", uuid=ticket_id, timeout=_TIMEOUT_S)
            assert host.call("Host.get_image_ticket", uuid=ticket_id)["uuid"] == ticket_id
        self.ledger.note(number, result="success")
        self.transfers.take_back(host, key, ticket_id)
        self.transfers.open.discard((host.host_id, key, ticket_id))
        return "transfer"
