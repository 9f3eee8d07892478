# SPDX-License-Identifier: Apache-2.0
"""Two agents in throw-away hosts share an NFS export and have sanlock with a watchdog: the SPM is cut off from it.

A few minutes: a lease of a dead host goes over when its watchdog must have reset it (sanlock's I/O timeout is 2 s).
"""

import json
import sys
from pathlib import Path

import pytest

from tests.support.eventually import eventually
from tests.support.needs import needs_program, needs_root
from tests.testbed.asks import Play, folders, must
from tests.testbed.test_nfs_faults import CLIENT, SERVER
from tests.testbed.testbed import Testbed

pytestmark = [
    needs_root(),
    needs_program("mmdebstrap", "mke2fs"),
    pytest.mark.timeout(1200),
]

_SANLOCK = "tb-start wdmd && SANLOCK_WATCHDOG=1 tb-start sanlock"
_CUT = "iptables -{} OUTPUT -p tcp --dport 2049 -j DROP"
_ROOM = "tests.testbed.spm_room"


def _lines(shared: Path, host_id: int) -> list[tuple[float, int, str]]:
    """[(seconds, pid, what)]"""
    path = shared / f"history-{host_id}"
    rows = [line.split() for line in path.read_text().splitlines()] if path.exists() else []
    return [(float(at), int(pid), what) for at, _, pid, what in rows]


def _count(shared: Path, host_id: int, what: str) -> int:
    return sum(row[2] == what for row in _lines(shared, host_id))


def test_an_spm_that_loses_its_storage_loses_the_role_before_another_has_it() -> None:
    with Testbed(hosts=3, project=str(Path(__file__).parents[2])) as bed:
        server, *agents = bed.hosts
        shared = Path(bed.folder) / "testbed"
        must(server.run(SERVER, timeout=120))
        for host in agents:
            must(host.run(CLIENT.format(folders=" ".join(folders())), timeout=120))
            must(host.run(_SANLOCK, timeout=120))
        first = agents[0]
        made = Play(first, _ROOM, "1", "make", timeout_s=200)
        eventually(lambda: made.over, within_s=200, every_s=0.2)
        made.seen()

        plays = [Play(first, _ROOM, "1", "keep", timeout_s=900)]
        eventually(lambda: _count(shared, 1, "task") > 3, within_s=200, every_s=0.2)
        plays.append(Play(agents[1], _ROOM, "2", "keep", timeout_s=900))
        eventually(lambda: _count(shared, 2, "sees-1") > 0, within_s=200, every_s=0.2)
        mail = Play(agents[1], _ROOM, "2", "mail", timeout_s=120)
        eventually(lambda: mail.over, within_s=150, every_s=0.2)
        answers = mail.seen()["mail"]

        cut_at = float(first.run("date +%s.%N", timeout=30).output)
        must(first.run(_CUT.format("A"), timeout=30))
        eventually(lambda: _count(shared, 2, "begin") == 1, within_s=300, every_s=0.5)
        must(first.run(_CUT.format("D"), timeout=30))
        eventually(lambda: _count(shared, 1, "sees-2") > 0, within_s=300, every_s=0.5)
        went_on = _count(shared, 2, "task")
        eventually(lambda: _count(shared, 2, "task") > went_on, within_s=60, every_s=0.2)
        log = first.run("grep -vE 'renewed' /var/log/sanlock.log | tail -40; uptime", timeout=30).output
        (shared / "over").touch()
        eventually(lambda: all(play.over for play in plays), within_s=120, every_s=0.2)
        one, two = _lines(shared, 1), _lines(shared, 2)
    print(log, file=sys.stderr)
    [(began, old_spm, _)] = [row for row in one if row[2] == "begin"]
    [(taken, _, _)] = [row for row in two if row[2] == "begin"]
    [ended] = [at for at, pid, what in one if (pid, what) == (old_spm, "end")]
    last_task = max(at for at, pid, what in one if (pid, what) == (old_spm, "task"))
    told = [at - cut_at for at, pid, what in one if (pid, what) == (old_spm, "told")]
    seen = {
        "told_s": told,
        "lost_s": ended - cut_at,
        "last_task_s": last_task - cut_at,
        "taken_s": taken - cut_at,
        "mail": answers,
    }
    print(json.dumps(seen), file=sys.stderr)
    assert answers == ["done", "failed"]
    assert began < cut_at < ended < taken
    assert last_task <= ended
    assert not any(what == "task" for at, _, what in one if at > taken)
