# SPDX-License-Identifier: Apache-2.0
"""An engine leads the disk of a running VM through its life while something of ours dies at every step.

Whatever dies, and whenever: in the end libvirt, metadata and disk tell the same chain, nothing is left over, and the
guest has noticed nothing. VDSM_MP_CHAOS_SEED plays what a seed has chosen once more.
"""

import os
import random
from collections.abc import Callable

import pytest

from demonstration import sequences
from demonstration.sequences import Disk, Refused
from tests.support.house import RunningHouse
from tests.support.libvirtd import PrivateLibvirtd
from tests.support.needs import needs_program, needs_root
from tests.support.patientengine import PatientEngine
from tests.system.test_disk_life import Place

pytestmark = [
    pytest.mark.system,
    needs_root(),
    needs_program("libvirtd", "qemu-system-x86_64", "qemu-img", "sudo", "unshare", "nsenter"),
]

FULL = os.environ.get("VDSM_MP_FAULTS_STRIDE") == "1"
ROUNDS = int(os.environ.get("VDSM_MP_CHAOS_ROUNDS", "60" if FULL else "3"))
VICTIMS = ("virt", "storage", "clientif", "master", "io", "network")
_NO_VOLUME, _NO_IMAGE = 201, 268


class Life:
    """The place, and the engine that outlives deaths."""

    def __init__(self, place: Place, engine: PatientEngine) -> None:
        self.place = place
        self.engine = engine
        self.life = place.life
        self.layers = [place.life.disk.volume_id]

    def attempt(self, what: str, act: Callable[[], object], happened: Callable[[], bool]) -> None:
        self.engine.attempt(what, act, happened, self.engine.rng.choice(VICTIMS))

    def exists(self, disk: Disk, volume_id: str) -> bool:
        try:
            self.engine.ask("Volume.getInfo", **disk.params() | {"volumeID": volume_id})
        except Refused as refused:
            assert refused.code in (_NO_VOLUME, _NO_IMAGE), refused
            return False
        return True

    def volumes(self) -> list[str]:
        """As an engine looks whether a deletion was done: one that was cut short is listed, though it is no volume."""
        image = {name: value for name, value in self.life.disk.params().items() if name != "volumeID"}
        listed: list[str] = self.engine.ask("Image.getVolumes", **image)
        return listed

    def grow(self) -> None:
        """A snapshot: a volume, then the VM goes on in it."""
        life, below, new = self.life, self.layers[-1], sequences.new_id()
        there = lambda: self.exists(life.disk, new)  # noqa: E731 -- a look, handed on
        self.attempt("Volume.create", lambda: life.create_volume(new, below), there)
        self.attempt("VM.snapshot", lambda: life.snapshot(below, new), lambda: life.chain()[0] == new)
        self.layers.append(new)

    def shrink(self) -> None:
        """A live merge somewhere in the chain, and the end of what is left of it."""
        life, top = self.life, self.engine.rng.randrange(1, len(self.layers))
        base, gone = self.layers[top - 1], self.layers[top]

        def merged() -> bool:
            life.wait_for_merges()
            return gone not in life.chain()

        self.attempt("VM.merge", lambda: life.merge(base, gone), merged)
        self.attempt("Image.deleteVolumes", lambda: life.delete_volume(gone), lambda: gone not in self.volumes())
        self.layers.remove(gone)

    def another_disk(self) -> None:
        """One that comes and goes beside it."""
        ask, disk = self.engine.ask, Disk(self.place.second, size_bytes=4 << 20)
        there = lambda: self.exists(disk, disk.volume_id)  # noqa: E731 -- a look, handed on
        self.attempt("Volume.create", lambda: sequences.create_disk(ask, disk), there)
        self.attempt("Image.delete", lambda: sequences.delete_disk(ask, disk), lambda: not there())


@pytest.mark.timeout(280 + 40 * ROUNDS)
def test_whatever_dies_while_a_disk_is_worked_on_nothing_is_lost_or_left_over() -> None:
    rng = random.Random(seed := int(os.environ.get("VDSM_MP_CHAOS_SEED") or random.SystemRandom().randrange(1 << 32)))
    print(f"seed {seed}")
    with PrivateLibvirtd.start() as libvirtd, RunningHouse.start(tls=True, libvirt_uri=libvirtd.uri) as house:
        place = Place(house, libvirtd)
        engine = PatientEngine(house, [place.first, place.second], rng)
        place.ask = place.life.ask = engine.ask
        life = Life(place, engine)
        for number in range(ROUNDS):
            life.grow() if len(life.layers) < 2 + number % 3 else life.shrink()
            life.another_disk()
            place.all_is_well()
        assert place.images(place.second) == []
        assert engine.deaths > ROUNDS
        assert "Traceback" not in house.log_text()
