# SPDX-License-Identifier: Apache-2.0
"""Answers of a door that is not ours, or not of this version."""

from typing import Any

import pytest

from vdsm_mp.api.catalogue import VERBS
from vdsm_mp.cli import waiting
from vdsm_mp.cli.answers import SHAPES, NotUnderstood, checked

VM = {"vmId": "a", "status": "Up"}


@pytest.mark.parametrize(
    ("verb", "answer"),
    [
        ("Host.getAllVmStats", []),
        ("Host.getAllVmStats", [VM]),
        ("Host.getAllVmStats", [VM | {"elapsedTime": "12", "cpuUser": "-0.50", "migrationProgress": 3, "more": []}]),
        ("Host.getStats", {"storageDomains": {"a": {"delay": "1.2e-05", "code": 0, "lastCheck": 4.5}}, "memFree": 7}),
        ("Host.getAllTasksStatuses", {"a": {"taskState": "running", "taskResult": "", "code": 0, "message": ""}}),
        ("Host.getJobs", {"a": {"status": "running", "progress": 3.0}}),
    ],
)
def test_what_is_read_may_have_more_beside_it_and_is_given_as_it_came(verb: str, answer: Any) -> None:
    assert checked(verb, answer) is answer


@pytest.mark.parametrize(
    ("verb", "answer"),
    [
        ("Host.getAllVmStats", True),
        ("Host.getAllVmStats", {"vmId": "a"}),
        ("Host.getAllVmStats", [{"status": "Up"}]),
        ("Host.getAllVmStats", [VM | {"elapsedTime": "for ever"}]),
        ("Host.getAllVmStats", [VM | {"disks": {"vda": {"readBytes": "many"}}}]),
        ("Host.getStats", []),
        ("Host.getStats", {"storageDomains": {"a": {"lastCheck": "never"}}}),
        ("Host.getAllTasksStatuses", {"a": "running"}),
        ("Task.getStatus", {"taskState": "finished"}),
        ("Host.getJobs", {"a": {"status": "running", "progress": "half"}}),
    ],
)
def test_an_answer_of_another_shape_is_a_sentence_that_names_the_verb(verb: str, answer: Any) -> None:
    with pytest.raises(NotUnderstood, match=f"the answer to {verb} is not understood"):
        checked(verb, answer)


def test_who_waits_for_a_task_is_told_of_an_answer_that_nobody_understands() -> None:
    with pytest.raises(NotUnderstood, match=r"Task\.getStatus"):
        waiting.follow(lambda verb, params: True, VERBS["Image.delete"], {}, "a-task", 5.0)


def test_the_answers_are_of_verbs_that_there_are() -> None:
    assert set(SHAPES) <= set(VERBS)
