# SPDX-License-Identifier: Apache-2.0
"""The verdict on a host: what is a problem, and what is not one yet."""

from typing import Any

import pytest

from vdsm_mp.host.health import problems

WELL: dict[str, Any] = {"actual": True, "code": 0, "lastCheck": "3.5"}


def judge(**what: Any) -> list[str]:
    return problems(what.get("beats", {}), what.get("vms", {}), what.get("domains", {}), what.get("free_mib", {}))


def test_a_host_that_is_well_has_no_problems() -> None:
    beats = {"sample VMs": {"failures": 2, "error": "no"}}
    assert judge(beats=beats, vms={"v": {"status": "Up"}}, domains={"sd": WELL}, free_mib={"/tmp": 5000}) == []


def test_a_beat_that_keeps_failing_is_named_with_its_reason() -> None:
    assert judge(beats={"sample VMs": {"failures": 3, "error": "no answer"}}) == [
        "sample VMs: failed 3 times in a row: no answer"
    ]


@pytest.mark.parametrize("status", ["NotResponding", "Not Responding"])
def test_a_vm_that_does_not_respond_is_named(status: str) -> None:
    assert judge(vms={"id": {"name": "web", "status": status}}) == ["VM web does not respond"]


@pytest.mark.parametrize(
    ("vitals", "says"),
    [({"code": 358}, "error 358"), ({"lastCheck": "31.2"}, "last checked 31 s ago")],
)
def test_a_domain_that_an_engine_would_take_for_bad_is_named(vitals: dict[str, Any], says: str) -> None:
    [problem] = judge(domains={"sd": {**WELL, **vitals}})
    assert says in problem


def test_a_domain_without_a_verdict_yet_is_no_problem() -> None:
    assert judge(domains={"sd": {"actual": False, "code": 358}, "other": {"io": {}}}) == []


def test_a_folder_that_fills_up_is_named() -> None:
    assert judge(free_mib={"/var/log": 499, "/tmp": 500}) == ["/var/log: only 499 MiB are free"]
    assert judge(free_mib={"/run/vdsm": 397}) == []
