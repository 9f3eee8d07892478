# SPDX-License-Identifier: Apache-2.0
"""What may happen to a host while clients work on its disks, as functions over `Place`; and a look at what is left.

Deaths, also of whoever takes over, a full disk, a file system whose writers hang (it is frozen), an I/O child that
hangs, and an engine that deactivates a domain, takes it out of the pool, disconnects its server or moves the master
meanwhile.
"""

import contextlib
import os
import random
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from demonstration import sequences
from demonstration.sequences import Refused
from tests.support.eventually import eventually
from tests.support.house import RunningHouse
from tests.support.loopdevice import frozen
from tests.support.patientengine import Lost, PatientEngine
from vdsm_mp.api.types import BLANK
from vdsm_mp.common import kernel

_WRONG_MASTER = (304, 324)
_VICTIMS = ("storage", "io", "master")


@dataclass
class Place:
    """storages: of one pool, the master first. exported: an export domain of it."""

    house: RunningHouse
    engine: PatientEngine
    storages: list[sequences.Storage]
    exported: sequences.Storage
    rng: random.Random

    @property
    def all(self) -> list[sequences.Storage]:
        return [*self.storages, self.exported]

    def ask(self, verb: str, **params: Any) -> Any:
        return self.engine.ask(verb, **params)

    def become_master(self, sd_id: str, version: int) -> None:
        """What the engine knows from now on."""
        self.storages.sort(key=lambda one: one.sd_id != sd_id)
        self.storages[0].master_version = version

    def taken_up(self) -> bool:
        """As an engine does: what is forgotten is told anew; who is master is read when it is wrong."""
        try:
            sequences.take_role(self.ask, self.storages[0], *self.storages[1:], self.exported)
            info = self.ask("StoragePool.getInfo", storagepoolID=self.storages[0].pool_id)
            for storage in self.all:
                self._back(storage, info["dominfo"].get(storage.sd_id, {}).get("status"))
        except Refused as error:
            print(f"not yet: {error}")
            if error.code in _WRONG_MASTER:
                self.become_master(next(one.sd_id for one in self.storages if says_master(one)), self._version() + 1)
            return False
        except (Lost, sequences.TookTooLong) as error:
            print(f"not yet: {error}")
            return False
        return True

    def _back(self, storage: sequences.Storage, status: str | None) -> None:
        sequences.connect_server(self.ask, storage)
        if status is None:
            self.ask("StorageDomain.attach", storagedomainID=storage.sd_id, storagepoolID=storage.pool_id)
        if status != "Active":
            sequences.activate_domain(self.ask, storage)

    def _version(self) -> int:
        return max(one.master_version for one in self.storages)

    # What an engine may do meanwhile; any of it may be refused, or not be answered

    def deactivate(self) -> None:
        storage = self.rng.choice([*self.storages[1:], self.exported])
        names = {"storagedomainID": storage.sd_id, "storagepoolID": storage.pool_id}
        self.ask("StorageDomain.deactivate", **names, masterSdUUID=BLANK, masterVersion=1)
        if self.rng.random() < 0.5:
            self.ask("StorageDomain.detach", **names, masterSdUUID=BLANK, masterVersion=1)

    def disconnect(self) -> None:
        sequences.disconnect_server(self.ask, self.rng.choice(self.all))

    def switch(self) -> None:
        old, new = self.storages[0], self.rng.choice(self.storages[1:])
        version = self._version() + 1
        names = {"oldMasterUUID": old.sd_id, "newMasterUUID": new.sd_id, "masterVersion": version}
        task_id = self.ask("StoragePool.switchMaster", storagepoolID=old.pool_id, **names)
        until = time.monotonic() + 60
        while self.ask("Task.getStatus", taskID=task_id)["taskState"] != "finished":
            assert time.monotonic() < until, "the master does not move"
            time.sleep(0.05)
        self.ask("Task.clear", taskID=task_id)

    def learn_master(self) -> None:
        """What became of the switch."""
        info = self.ask("StoragePool.getInfo", storagepoolID=self.storages[0].pool_id)["info"]
        self.become_master(info["master_uuid"], int(info["master_ver"]))


def says_master(storage: sequences.Storage) -> bool:
    return "ROLE=Master\n" in (Path(storage.path) / storage.sd_id / "dom_md/metadata").read_text()


def programs(house: RunningHouse, name: str) -> list[int]:
    """Programs of that name that the storage worker runs now."""
    session = house.pid_of("storage")
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        facts = kernel.process(int(path.name))
        if facts is not None and facts.session == session and (path / "comm").exists():
            found += [int(path.name)] if (path / "comm").read_text().strip() == name else []
    return found


def _kill(victim: str) -> Callable[[Place], None]:
    return lambda place: place.engine.kill_soon(victim).join()


def _kill_programs(place: Place) -> None:
    until = time.monotonic() + 2
    while not (found := programs(place.house, "qemu-img")) and time.monotonic() < until:
        time.sleep(0.001)
    for pid in found:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def _kill_twice(place: Place) -> None:
    """Once more while the engine takes the host up again."""
    place.engine.kill_soon(place.rng.choice(_VICTIMS)).join()
    eventually(place.house.ready, within_s=60)
    killer = place.engine.kill_soon(place.rng.choice(_VICTIMS))
    while killer.is_alive():
        place.taken_up()
    killer.join()


def _fill_and_kill(place: Place) -> None:
    """Whoever takes over finds no room, maybe for a while."""
    with filled(Path(place.rng.choice(place.all).path)):
        time.sleep(place.rng.uniform(0.0, 1.0))
        place.engine.kill_soon(place.rng.choice(_VICTIMS)).join()
        if place.rng.random() < 0.5:
            eventually(place.house.ready, within_s=60)
            place.taken_up()


def _fill(place: Place) -> None:
    with filled(Path(place.rng.choice(place.all).path)):
        time.sleep(place.rng.uniform(0.5, 3.0))  # everybody meets it


def _freeze(place: Place) -> None:
    with frozen(Path(place.rng.choice(place.all).path)):
        time.sleep(place.rng.uniform(0.5, 12.0))  # shorter and longer than anybody waits


def _freeze_and_kill(place: Place) -> None:
    """Who hangs in the kernel cannot be killed before the file system goes on."""
    with frozen(Path(place.rng.choice(place.all).path)):
        time.sleep(place.rng.uniform(0.0, 1.0))
        place.engine.kill_soon(place.rng.choice(_VICTIMS)).join()
        time.sleep(place.rng.uniform(0.5, 4.0))


def _stop_io(place: Place) -> None:
    """Nobody lets it go on; it is replaced."""
    pids = [child["pid"] for child in place.house.status()["children"]]
    if pids:
        os.kill(place.rng.choice(pids), signal.SIGSTOP)


def _by_engine(act: Callable[[Place], None]) -> Callable[[Place], None]:
    """In every third case something dies meanwhile."""

    def harm(place: Place) -> None:
        killer: threading.Thread | None = None
        if place.rng.random() < 0.35:
            killer = place.engine.kill_soon(place.rng.choice(_VICTIMS))
        try:
            act(place)
        except (Lost, Refused) as error:
            print(f"  {error}")
        if killer is not None:
            killer.join()

    return harm


HARMS: dict[str, Callable[[Place], None]] = {
    "storage": _kill("storage"),
    "io": _kill("io"),
    "qemu-img": _kill_programs,
    "clientif": _kill("clientif"),
    "scheduler": _kill("scheduler"),
    "master": _kill("master"),
    "twice": _kill_twice,
    "full": _fill,
    "full and killed": _fill_and_kill,
    "frozen": _freeze,
    "frozen and killed": _freeze_and_kill,
    "stopped": _stop_io,
    "deactivate": _by_engine(Place.deactivate),
    "disconnect": _by_engine(Place.disconnect),
    "switch": _by_engine(Place.switch),
    "nobody": lambda place: None,
}


@contextlib.contextmanager
def filled(path: Path) -> Iterator[None]:
    ballast = path / "ballast"
    subprocess.run(["dd", "if=/dev/zero", f"of={ballast}", "bs=1M"], check=False, capture_output=True)
    try:
        yield
    finally:
        ballast.unlink()


def nothing_left_over(house: RunningHouse) -> bool:
    """No NBD server, nothing prepared, no program that works for a storage worker of ours. Raises: AssertionError."""
    run_dir = str(house.root / "run")
    left = [line for line in _command_lines() if "qemu-nbd" in line and run_dir in line]
    assert not left, left
    links = [str(path) for path in Path(run_dir).rglob("storage/*/*")]
    assert not links, links
    eventually(lambda: not programs(house, "qemu-img"), within_s=10)
    return True


def _command_lines() -> list[str]:
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            found.append(path.read_bytes().replace(b"\0", b" ").decode(errors="replace"))
    return found
