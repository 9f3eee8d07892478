# SPDX-License-Identifier: Apache-2.0
"""Several clients work on disks of two domains at random while something dies or a disk is full, round after round.

After each round an engine takes the host up again, and what the clients were told, storage, tasks and data agree:
see `tests/support/ledger.py`. VDSM_MP_FAULTS_STRIDE=1: two hundred rounds.
"""

import os
import random
import shutil
import subprocess
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from demonstration import sequences
from demonstration.sequences import Refused
from tests.support.diskharms import HARMS, Place, nothing_left_over
from tests.support.diskjobs import BusyWorker, ImageServer
from tests.support.diskwork import Failed
from tests.support.eventually import eventually
from tests.support.house import RunningHouse
from tests.support.ledger import Ledger, Storage, settle
from tests.support.needs import needs_program, needs_root
from tests.support.patientengine import Lost, PatientEngine

pytestmark = [
    pytest.mark.system,
    needs_root(),
    needs_program("sudo", "qemu-img", "qemu-io", "qemu-nbd", "mkfs.ext4", "fsfreeze"),
]

ROUNDS = int(os.environ.get("VDSM_MP_CHAOS_ROUNDS", "200" if os.environ.get("VDSM_MP_FAULTS_STRIDE") == "1" else "3"))
CLIENTS = 4
_WORK_S = 4.0
_DOMAIN_BYTES = 400 * 2**20
_EXPORT, _EXPORT_VERSION = 3, "0"


class Chaos:
    def __init__(self, house: RunningHouse, paths: list[Path], rng: random.Random, server: ImageServer) -> None:
        self.house, self.rng = house, rng
        first = sequences.Storage(str(paths[0]))
        storages = [first, *(sequences.Storage(str(path), pool_id=first.pool_id) for path in paths[1:])]
        exported = storages.pop()
        engine = PatientEngine(house, storages, rng)
        self.place = Place(house, engine, storages, exported, rng)
        sequences.from_nothing(engine.ask, first, "chaos")
        for n, storage in enumerate(storages[1:]):
            sequences.add_domain(engine.ask, storage, f"chaos {n}")
        self._add_export(exported)
        self.domains = {one.sd_id: Path(one.path) / one.sd_id for one in storages}
        self.exports = {exported.sd_id: Path(exported.path) / exported.sd_id}
        self.ledger = Ledger(house.root / "ledger")
        self.told: Counter[str] = Counter()
        self.workers = [
            BusyWorker(
                f"client{n}", self.storage(), self.ledger, random.Random(rng.random()), most=5, depth=20, server=server
            )
            for n in range(CLIENTS)
        ]

    def _add_export(self, storage: sequences.Storage) -> None:
        ask = self.place.ask
        sequences.connect_server(ask, storage)
        names = {"storagedomainID": storage.sd_id, "domainType": storage.kind, "typeArgs": storage.path}
        ask("StorageDomain.create", **names, name="export", domainClass=_EXPORT, version=_EXPORT_VERSION)
        ask("StorageDomain.attach", storagedomainID=storage.sd_id, storagepoolID=storage.pool_id)
        sequences.activate_domain(ask, storage)

    def storage(self) -> Storage:
        """As one client sees it, over a connection of its own."""
        engine = PatientEngine(self.house, self.place.storages, self.rng)
        return Storage(engine.ask, self.place.exported.pool_id, self.domains, self.exports)

    def round(self, harm: str) -> None:
        """All work, something happens, all stop at their next step, an engine looks."""
        stopped = threading.Event()
        threads = [threading.Thread(target=self._work, args=(worker, stopped)) for worker in self.workers]
        for thread in threads:
            thread.start()
        time.sleep(self.rng.uniform(0.3, _WORK_S))  # the harm is to come anywhere
        HARMS[harm](self.place)
        stopped.set()
        for thread in threads:
            thread.join(150)
            assert not thread.is_alive(), "a client waits for ever"
        eventually(self.place.taken_up, within_s=90, every_s=0.2)
        self.place.learn_master()
        patient = Storage(self.place.ask, self.place.exported.pool_id, self.domains, self.exports)
        patient.master = self.place.storages[0].sd_id
        self.told.update(settle(self.ledger, patient))
        for worker in self.workers:
            worker.take_up()
            worker.tidy(patient)
        nothing_left_over(self.house)

    def _work(self, worker: BusyWorker, stopped: threading.Event) -> None:
        while not stopped.is_set():
            try:
                self.told[worker.step()] += 1
            except (Lost, Refused, Failed, AssertionError) as error:
                self.told[f"{type(error).__name__} {str(error)[:100]}"] += 1
                return


@contextmanager
def file_systems(count: int) -> Iterator[list[Path]]:
    """Small ones of their own, so that they can be full."""
    root = Path(tempfile.mkdtemp(prefix="vdsm-mp-data-", dir="/var/tmp"))
    root.chmod(0o755)
    made: list[Path] = []
    try:
        for n in range(count):
            image, path = root / f"{n}.img", root / f"domain{n}"
            with image.open("wb") as file:
                file.truncate(_DOMAIN_BYTES)
            subprocess.run(["mkfs.ext4", "-q", "-m", "0", image], check=True)
            path.mkdir()
            subprocess.run(["mount", "-o", "loop", image, path], check=True)
            made.append(path)
            shutil.rmtree(path / "lost+found")
            shutil.chown(path, "vdsm", "kvm")
            path.chmod(0o755)
        yield made
    finally:
        for path in made:
            subprocess.run(["umount", path], check=True)
        shutil.rmtree(root)


@pytest.mark.timeout(200 + 60 * ROUNDS)
def test_whatever_dies_while_several_work_on_disks_all_is_as_it_was_told() -> None:
    rng = random.Random(seed := int(os.environ.get("VDSM_MP_CHAOS_SEED") or random.SystemRandom().randrange(1 << 32)))
    print(f"seed {seed}")
    harms = [name for name in os.environ.get("VDSM_MP_CHAOS_HARMS", "").split(",") if name] or list(HARMS)
    server = ImageServer()
    with file_systems(3) as paths, RunningHouse.start(tls=True) as house:
        chaos = Chaos(house, paths, rng, server)
        for number, harm in enumerate([one for _ in range(ROUNDS) for one in rng.sample(harms, len(harms))][:ROUNDS]):
            print(f"round {number}: {harm}", flush=True)
            chaos.round(harm)
        print(dict(chaos.told))
        assert chaos.told["create"] and chaos.told["snapshot"]
        assert "Traceback" not in house.log_text()
    server.stop()
