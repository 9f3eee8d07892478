# SPDX-License-Identifier: Apache-2.0
"""The checker of the fault runs on histories that are known to be bad, each beside its good sister."""

import json

from tests.faults import checker
from tests.faults.checker import Beat, Held, Record, Sighting, Size, TaskLife


def seen(asked: float, *ids: str) -> Sighting:
    return Sighting(asked, asked + 0.1, frozenset(ids))


def test_a_task_that_is_missing_from_a_later_list_is_forgotten() -> None:
    assert checker.tasks_forgotten([TaskLife("t", 1.0)], [seen(2.0, "t"), seen(3.0, "t", "other")]) == []
    (told,) = checker.tasks_forgotten([TaskLife("t", 1.0)], [seen(2.0, "t"), seen(3.0)])
    assert "task t" in told and "forgotten" in told


def test_a_task_may_go_once_its_client_asked_to_clear_it_but_not_before() -> None:
    cleared = TaskLife("t", 1.0, clear_asked=2.5)
    assert checker.tasks_forgotten([cleared], [seen(2.0, "t"), seen(3.0)]) == []
    assert checker.tasks_forgotten([cleared], [seen(2.0)]) != []


def test_a_list_that_was_asked_for_before_the_acknowledgement_proves_nothing_against_it() -> None:
    assert checker.tasks_forgotten([TaskLife("t", 2.05)], [seen(2.0)]) == []
    assert checker.tasks_forgotten([TaskLife("t", 1.0, clear_asked=2.05)], [seen(2.0)]) == []


def test_tasks_without_a_single_look_at_the_list_are_not_called_kept() -> None:
    assert "proves nothing" in checker.tasks_forgotten([TaskLife("t", 1.0)], [])[0]
    assert checker.tasks_forgotten([], []) == []


def test_two_hosts_with_the_role_at_the_same_time_are_found() -> None:
    assert checker.two_at_once([Held("a", 0, 1), Held("b", 1, 2), Held("a", 2, 3)]) == []
    assert checker.two_at_once([Held("a", 0, 1), Held("a", 0.5, 2)]) == []
    assert len(checker.two_at_once([Held("a", 0, 1.5), Held("b", 1, 2)])) == 1
    # A long one that a short one lies within, and a third that begins after the short one.
    assert len(checker.two_at_once([Held("a", 0, 9), Held("b", 1, 2), Held("c", 3, 4)])) == 2


def test_a_guest_that_stands_still_reboots_or_counts_backwards_is_found() -> None:
    well = [Beat(float(n), n, 1) for n in range(40)]
    assert checker.guests_disturbed({"g": well}) == []
    assert "stood still" in checker.guests_disturbed({"g": [*well, *(Beat(40.0 + n, 39, 1) for n in range(20))]})[0]
    assert "started again" in checker.guests_disturbed({"g": [*well, Beat(40.0, 40, 2)]})[0]
    assert "backwards" in checker.guests_disturbed({"g": [*well, Beat(40.0, 3, 1)]})[0]
    assert "proves nothing" in checker.guests_disturbed({"g": well[:1]})[0]


def test_a_short_pause_of_a_guest_is_not_a_disturbance() -> None:
    assert checker.guests_disturbed({"g": [Beat(0.0, 1, 1), Beat(10.0, 1, 1), Beat(11.0, 2, 1)]}) == []


def test_descriptors_threads_and_memory_that_grow_are_found() -> None:
    was = Size(descriptors=40, threads=20, rss_kib=60_000)
    assert checker.grown([{"w": was}, {"w": Size(44, 22, 62_000)}]) == []
    assert "descriptors" in checker.grown([{"w": was}, {"w": Size(60, 20, 60_000)}])[0]
    assert "threads" in checker.grown([{"w": was}, {"w": Size(40, 60, 60_000)}])[0]
    assert "MiB" in checker.grown([{"w": was}, {"w": Size(40, 20, 90_000)}])[0]
    assert "missing" in checker.grown([{"w": was}, {}])[0]
    assert "proves nothing" in checker.grown([{"w": was}])[0]


def test_a_record_is_judged_the_same_after_it_was_written_and_read() -> None:
    record = Record(
        tasks=[TaskLife("t", 1.0), TaskLife("u", 1.0, 1.5)],
        sightings=[seen(2.0)],
        held=[Held("a", 0, 2), Held("b", 1, 2)],
        guests={"g": [Beat(0.0, 1, 1), Beat(1.0, 0, 2)]},
        sizes=[{"w": Size(1, 1, 1)}, {"w": Size(99, 1, 1)}],
        zombies=["42 sh"],
        died=["g"],
    )
    broken = checker.judge(record)
    assert len(broken) == 7
    assert checker.judge(checker.read(json.dumps(checker.written(record)))) == broken
