# SPDX-License-Identifier: Apache-2.0
"""Several clients work on disks of two domains at random while something dies or a disk is full, round after round.

After each round an engine takes the host up again, and what the clients were told, storage, tasks and data agree:
see `tests/support/ledger.py`. VDSM_MP_FAULTS_STRIDE=1: two hundred rounds.
"""

import os
import random
import shutil
import signal
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
from tests.support.diskwork import Failed, Worker
from tests.support.eventually import eventually
from tests.support.house import RunningHouse
from tests.support.ledger import Ledger, Storage, settle
from tests.support.needs import needs_program, needs_root
from tests.support.patientengine import Lost, PatientEngine
from vdsm_mp.common import kernel

pytestmark = [pytest.mark.system, needs_root(), needs_program("sudo", "qemu-img", "qemu-io", "mkfs.ext4")]

ROUNDS = int(os.environ.get("VDSM_MP_CHAOS_ROUNDS", "200" if os.environ.get("VDSM_MP_FAULTS_STRIDE") == "1" else "5"))
CLIENTS = 4
VICTIMS = ("storage", "io", "qemu-img", "clientif", "master", "full", "nobody")
_WORK_S = 4.0
_DOMAIN_BYTES = 400 * 2**20


class Chaos:
    def __init__(self, house: RunningHouse, paths: list[Path], rng: random.Random) -> None:
        self.house, self.rng = house, rng
        first = sequences.Storage(str(paths[0]))
        self.storages = [first, *(sequences.Storage(str(path), pool_id=first.pool_id) for path in paths[1:])]
        self.engine = PatientEngine(house, self.storages, rng)
        sequences.from_nothing(self.engine.ask, first, "chaos")
        for n, storage in enumerate(self.storages[1:]):
            sequences.add_domain(self.engine.ask, storage, f"chaos {n}")
        self.domains = {one.sd_id: Path(one.path) / one.sd_id for one in self.storages}
        self.ledger = Ledger(house.root / "ledger")
        self.told: Counter[str] = Counter()
        self.workers = [
            Worker(f"client{n}", self.storage(), self.ledger, random.Random(rng.random()), most=5, depth=20)
            for n in range(CLIENTS)
        ]

    def storage(self) -> Storage:
        """As one client sees it, over a connection of its own."""
        engine = PatientEngine(self.house, self.storages, self.rng)
        return Storage(engine.ask, self.storages[0].pool_id, self.domains)

    def round(self, victim: str) -> None:
        """All work, something happens, all stop at their next step, an engine looks."""
        stopped = threading.Event()
        threads = [threading.Thread(target=self._work, args=(worker, stopped)) for worker in self.workers]
        for thread in threads:
            thread.start()
        time.sleep(self.rng.uniform(0.3, _WORK_S))  # the harm is to come anywhere
        self._harm(victim)
        stopped.set()
        for thread in threads:
            thread.join(150)
            assert not thread.is_alive(), "a client waits for ever"
        eventually(self._taken_up, within_s=90, every_s=0.2)
        patient = Storage(self._patiently, self.storages[0].pool_id, self.domains)
        self.told.update(settle(self.ledger, patient))
        for worker in self.workers:
            worker.take_up()

    def _work(self, worker: Worker, stopped: threading.Event) -> None:
        while not stopped.is_set():
            try:
                self.told[worker.step()] += 1
            except (Lost, Refused, Failed, AssertionError) as error:
                self.told[f"{type(error).__name__} {str(error)[:100]}"] += 1
                return

    def _harm(self, victim: str) -> None:
        if victim == "qemu-img":
            for pid in self._programs():
                os.kill(pid, signal.SIGKILL)
        elif victim == "full":
            with filled(Path(self.rng.choice(self.storages).path)):
                time.sleep(self.rng.uniform(0.5, 3.0))  # everybody meets it
        elif victim != "nobody":
            self.engine.kill_soon(victim).join()

    def _programs(self) -> list[int]:
        """Programs that the storage worker runs now."""
        session = self.house.pid_of("storage")
        found = []
        for path in Path("/proc").glob("[0-9]*"):
            facts = kernel.process(int(path.name))
            if facts is not None and facts.session == session and (path / "comm").exists():
                name = (path / "comm").read_text().strip()
                found += [int(path.name)] if name == "qemu-img" else []
        return found

    def _taken_up(self) -> bool:
        try:
            sequences.take_role(self.engine.ask, *self.storages)
        except (Lost, Refused, sequences.TookTooLong) as error:
            print(f"not yet: {error}")
            return False
        return True

    def _patiently(self, verb: str, **params: object) -> object:
        return self.engine.ask(verb, **params)


@contextmanager
def filled(path: Path) -> Iterator[None]:
    ballast = path / "ballast"
    subprocess.run(["dd", "if=/dev/zero", f"of={ballast}", "bs=1M"], check=False, capture_output=True)
    try:
        yield
    finally:
        ballast.unlink()


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
    with file_systems(2) as paths, RunningHouse.start(tls=True) as house:
        chaos = Chaos(house, paths, rng)
        victims = [victim for _ in range(ROUNDS) for victim in rng.sample(VICTIMS, len(VICTIMS))][:ROUNDS]
        for number, victim in enumerate(victims):
            print(f"round {number}: {victim}")
            chaos.round(victim)
        print(dict(chaos.told))
        assert chaos.told["create"] and chaos.told["snapshot"]
        assert "Traceback" not in house.log_text()
