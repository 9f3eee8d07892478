# SPDX-License-Identifier: Apache-2.0
"""The rules of ballooning, each as a sentence, and a small world in which they must settle."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vdsm_mp.api.errors import PeerRestarted
from vdsm_mp.api.verb import Message
from vdsm_mp.api.vm_tuning import SetVmBalloonTarget
from vdsm_mp.host.balloon import Balloons, Guest, guests_of, targets
from vdsm_mp.host.machine import Machine
from vdsm_mp.host.policy import Policy

GIB = 1 << 20
TIGHT = {"MemTotal": 100 * GIB, "MemAvailable": 15 * GIB}
EASY = {"MemTotal": 100 * GIB, "MemAvailable": 60 * GIB}
BETWEEN = {"MemTotal": 100 * GIB, "MemAvailable": 22 * GIB}
ID = "11111111-1111-1111-1111-111111111111"


def guest(**what: Any) -> Guest:
    usual: dict[str, Any] = {"vm_id": "vm", "least": 4 * GIB, "most": 10 * GIB, "now": 10 * GIB, "free": 8 * GIB}
    return Guest(**{**usual, **what})


def test_a_guest_gives_a_twentieth_when_the_host_is_tight() -> None:
    assert targets(TIGHT, [guest()]) == {"vm": 10 * GIB - GIB // 2}


def test_a_guest_never_has_less_than_it_is_guaranteed() -> None:
    assert targets(TIGHT, [guest(now=4 * GIB + GIB // 4)]) == {"vm": 4 * GIB}
    assert targets(TIGHT, [guest(now=4 * GIB)]) == {}


def test_a_guest_keeps_a_fifth_of_its_memory_free() -> None:
    assert targets(TIGHT, [guest(free=2 * GIB)]) == {}
    shrunk = targets(TIGHT, [guest(free=2 * GIB + GIB // 4)])["vm"]
    taken = 10 * GIB - shrunk
    assert (2 * GIB + GIB // 4 - taken) / shrunk == pytest.approx(0.2, abs=0.001)


@pytest.mark.parametrize("what", [{"free": None}, {"least": 0}, {"least": 10 * GIB}])
def test_some_guests_give_nothing(what: dict[str, Any]) -> None:
    assert targets(TIGHT, [guest(**what)]) == {}


def test_between_tight_and_easy_nothing_moves() -> None:
    assert targets(BETWEEN, [guest(now=5 * GIB)]) == {}


def test_guests_get_memory_back_those_that_miss_most_first() -> None:
    poor, better = guest(vm_id="poor", now=4 * GIB), guest(vm_id="better", now=9 * GIB)
    assert targets(EASY, [better, poor]) == {"poor": 4 * GIB + GIB // 2, "better": 9 * GIB + GIB // 2}
    barely = {"MemTotal": 100 * GIB, "MemAvailable": 25 * GIB + GIB // 2}
    assert targets(barely, [better, poor]) == {"poor": 4 * GIB + GIB // 2}


def test_the_last_bit_is_given_too() -> None:
    assert targets(EASY, [guest(now=10 * GIB - 1)]) == {"vm": 10 * GIB}
    assert targets(EASY, [guest()]) == {}


@given(st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9), st.floats(0, 1)), max_size=8), st.floats(0, 1))
def test_no_target_is_out_of_bounds_and_no_step_too_large(rows: list[tuple[int, int, float]], free: float) -> None:
    guests = [
        guest(vm_id=str(n), least=least * GIB, most=10 * GIB, now=max(least, now) * GIB, free=int(part * now * GIB))
        for n, (least, now, part) in enumerate(rows)
    ]
    host = {"MemTotal": 100 * GIB, "MemAvailable": int(free * 100 * GIB)}
    by_id = {one.vm_id: one for one in guests}
    wanted = targets(host, guests)
    for vm_id, target in wanted.items():
        one = by_id[vm_id]
        assert one.least <= target <= one.most
        assert abs(target - one.now) <= one.most // 20 + 1
    given_out = sum(max(0, target - by_id[vm_id].now) for vm_id, target in wanted.items())
    assert host["MemAvailable"] - given_out >= min(host["MemAvailable"], 25 * GIB)


def test_a_host_that_is_tight_for_ever_settles_at_the_guarantees() -> None:
    now = 10 * GIB
    for _ in range(40):
        wanted = targets(TIGHT, [guest(now=now, free=now - GIB)])
        if not wanted:
            break
        now = wanted["vm"]
    assert now == 4 * GIB


def stats(**more: Any) -> dict[str, Any]:
    info = {"balloon_min": "4", "balloon_max": "10", "balloon_cur": "10", "balloon_target": "10"}
    usual: dict[str, Any] = {
        "vmId": ID,
        "status": "Up",
        "balloonInfo": {**info, "ballooning_enabled": True},
        "memoryStats": {"mem_total": "9", "mem_unused": "5", "mem_free": "6"},
    }
    return {**usual, **more}


def test_guests_are_read_from_the_statistics_of_engines() -> None:
    assert guests_of([stats()]) == [Guest(ID, 4, 10, 10, 6)]
    assert guests_of([stats(memoryStats={})])[0].free is None


@pytest.mark.parametrize(
    "more",
    [
        {"status": "Paused"},
        {"balloonInfo": {}},
        {"balloonInfo": {"balloon_min": "x", "balloon_max": "1", "balloon_cur": "1"}},
        {"balloonInfo": {**stats()["balloonInfo"], "ballooning_enabled": False}},
    ],
)
def test_guests_that_cannot_be_ballooned_are_left_out(more: dict[str, Any]) -> None:
    assert guests_of([stats(**more)]) == []


class Virt:
    def __init__(self, vms: list[dict[str, Any]]) -> None:
        self.vms = vms
        self.set: dict[str, int] = {}
        self.deaf: set[str] = set()

    def ask(self, message: Message, *, deadline_s: float | None = None) -> Any:
        if isinstance(message, SetVmBalloonTarget):
            if message.vm_id in self.deaf:
                raise PeerRestarted("virt", "VM.setBalloonTarget")
            self.set[message.vm_id] = message.target
            return None
        return self.vms


class NoRoot:
    def do(self, operation: str, /, *, deadline_s: float = 30.0, **params: Any) -> Any:
        raise AssertionError(operation)


def test_one_deaf_vm_keeps_nobody_from_being_asked_and_the_switch_is_obeyed(tmp_path: Path) -> None:
    machine = Machine(Path(__file__).resolve().parents[2] / "data/machines/two-sockets")  # 16 % available
    other = "22222222-2222-2222-2222-222222222222"
    info = {"balloon_min": str(GIB), "balloon_max": str(4 * GIB), "balloon_cur": str(4 * GIB)}
    told = {"mem_free": str(3 * GIB)}
    virt = Virt([stats(vmId=vm_id, balloonInfo=info, memoryStats=told) for vm_id in (ID, other)])
    virt.deaf = {ID}
    policy = Policy(NoRoot(), machine, str(tmp_path))
    Balloons(virt, policy, machine).beat()
    assert virt.set == {}
    policy.set({"balloonEnabled": True})
    Balloons(virt, policy, machine).beat()
    assert virt.set == {other: 4 * GIB - 4 * GIB // 20}
