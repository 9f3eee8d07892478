# SPDX-License-Identifier: Apache-2.0
"""Many domains, some of which hang: the healthy ones keep their pace and nothing grows.

A third of the numbers of a long run, which takes 30 domains and hangs 1, 5 and 20 (VDSM_MP_FAULTS_STRIDE=1).
"""

import os
import threading
import time
from pathlib import Path

import pytest

from tests.support.background import ThreadBackground
from tests.support.children import LocalChildren
from tests.support.eventually import eventually
from tests.support.hangfs import HangFs
from tests.support.needs import lacks, needs_root
from tests.support.room import Recorder
from vdsm_mp.storage import domain_file
from vdsm_mp.storage.connect_local import LocalConnector
from vdsm_mp.storage.connections import Connections, Server
from vdsm_mp.storage.domain_file import DomainSpec
from vdsm_mp.storage.domain_format import DomainClass, DomainType
from vdsm_mp.storage.locks import LocalLock, Locks
from vdsm_mp.storage.monitors import Monitors
from vdsm_mp.storage.registry import Domains

pytestmark = [needs_root(), pytest.mark.timeout(300)]

_LONG = os.environ.get("VDSM_MP_FAULTS_STRIDE") == "1"
_DOMAINS = 30 if _LONG else 10
_PERIOD_S = 2.0


class Watched:
    """Domains below `good` and, seen through a file system that can hang, below `bad`; all of them monitored."""

    def __init__(self, root: Path, children: LocalChildren, hanging: HangFs, bad: int) -> None:
        mnt = f"{root}/mnt"
        self.background = ThreadBackground(4)
        connector = LocalConnector(mnt, children)
        self.connections = Connections(mnt, {DomainType.LOCALFS: connector})
        self.domains = Domains(self.connections, children)
        self.monitors = Monitors(self.domains, Locks(LocalLock), Recorder(), self.background, period_s=_PERIOD_S)
        self.ids = [f"5d000000-0000-4000-8000-{n:012d}" for n in range(_DOMAINS)]
        self.bad = set(self.ids[:bad])
        for sd_id in self.ids:
            real = root / ("real" if sd_id in self.bad else "good") / sd_id
            real.mkdir(parents=True)
            self._create(str(real), sd_id)
        for sd_id in self.ids:
            seen = hanging.target if sd_id in self.bad else root / "good"
            self.connections.connect(DomainType.LOCALFS, Server(id=sd_id, connection=f"{seen}/{sd_id}"))
        self.domains.scan()
        for sd_id in self.ids:
            self.monitors.start(sd_id, 1)

    def _create(self, path: str, sd_id: str) -> None:
        spec = DomainSpec(sd_id, DomainType.LOCALFS, DomainClass.DATA, 5, "many", path)
        with self.domains.mount_io(path) as io:
            domain_file.create(io, spec, lambda directory: None)

    def worst_age_s(self) -> float:
        report = self.monitors.vitals()
        return max(float(str(report[sd_id]["lastCheck"])) for sd_id in self.ids if sd_id not in self.bad)

    def codes(self) -> set[tuple[bool, object]]:
        return {(sd_id in self.bad, row["code"]) for sd_id, row in self.monitors.vitals().items()}

    def all_seen_well(self) -> bool:
        seen = all(row["actual"] for row in self.monitors.vitals().values())
        return seen and self.codes() == {(True, 0), (False, 0)}

    def stop(self) -> None:
        self.background.stop()
        self.monitors.close()
        self.domains.drop_all()


@pytest.mark.parametrize("bad", [1, 5, 20] if _LONG else [7])
def test_dead_domains_take_nothing_from_the_others(tmp_path: Path, bad: int) -> None:
    if not Path("/dev/fuse").exists():
        lacks("/dev/fuse")
    children = LocalChildren()
    for name in ("good", "real"):
        (tmp_path / name).mkdir()
    hanging = HangFs(tmp_path / "real", tmp_path / "dead")
    watched = Watched(tmp_path, children, hanging, bad)
    try:
        eventually(watched.all_seen_well, within_s=30)
        hanging.hang()
        eventually(lambda: watched.codes() == {(True, 2001), (False, 0)}, within_s=30)
        opened = children.opened
        worst = 0.0
        end = time.monotonic() + 3 * _PERIOD_S
        while time.monotonic() < end:
            worst = max(worst, watched.worst_age_s())
            assert watched.codes() == {(True, 2001), (False, 0)}
            threading.Event().wait(0.05)
        assert worst <= 2 * _PERIOD_S
        # The monitors' 32, the background's 4 and a timer for each domain.
        assert threading.active_count() <= 32 + 4 + 2 * _DOMAINS
        assert children.opened == opened
        hanging.go_on()
        eventually(lambda: watched.codes() == {(True, 0), (False, 0)}, within_s=30)
        assert children.opened == opened
    finally:
        hanging.go_on()
        watched.stop()
        try:
            children.stop()
        finally:
            hanging.stop()
    assert children.lost == []
