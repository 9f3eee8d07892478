# SPDX-License-Identifier: Apache-2.0
"""The rules that all golden-answer tests lean on."""

from typing import Any

import pytest

from tests.support import decode, rules

VM = "6e7f7e0a-1111-4222-8333-444444444444"


@pytest.mark.parametrize(
    ("rule", "good", "bad"),
    [
        (rules.double, ["0.25", 0.25, "-3", "1e-3"], [3, None, True, "x", float("nan")]),
        (rules.integer, [3, "3", "3.7"], [3.0, True, 2**31, None, "x"]),
        (rules.bare_integer, [3], ["3", 3.0]),
        (rules.text_integer, ["3", "-1"], [3, "3.5", None]),
        (rules.boolean, [True, "false"], [None, "yes", 1]),
        (rules.bare_boolean, [False], ["false", 0]),
        (rules.text_boolean, ["true"], [True, "True"]),
        (rules.fraction, [1.5], [1, "1.5"]),
        (rules.uuid, [VM], [VM.upper(), VM + "\n", "x", None]),
    ],
)
def test_a_value_is_read_as_the_engine_reads_it(rule: rules.Rule, good: list[Any], bad: list[Any]) -> None:
    assert [value for value in good if rule(value)] == []
    assert [value for value in bad if not rule(value)] == []


def test_every_wrong_field_is_named() -> None:
    with pytest.raises(rules.Undecodable) as caught:
        decode.check_task_status({"taskState": "over", "taskResult": "", "code": "0", "message": "m", "taskID": VM})
    assert "taskState: 'over'" in str(caught.value)
    assert "code: string '0' throws" in str(caught.value)


def test_a_vm_report_without_status_is_refused() -> None:
    with pytest.raises(rules.Undecodable, match="status: missing"):
        decode.check_vm_stats({"vmId": VM, "statusTime": "2147483648"})


def test_another_key_in_an_event_is_refused() -> None:
    decode.check_vm_event({VM: {"status": "Powering up"}, "notify_time": 2**31})
    with pytest.raises(rules.Undecodable, match="extra"):
        decode.check_vm_event({VM: {"status": "Up"}, "extra": {}, "notify_time": 2**31})


def test_the_capabilities_need_a_version_the_engine_accepts() -> None:
    with pytest.raises(rules.Undecodable, match=r"packages2\.vdsm\.version"):
        decode.check_caps({"packages2": {"vdsm": {"version": "5.1", "release": "1"}}})


def test_nan_is_found_wherever_it_hides() -> None:
    assert list(rules.nowhere_nan({"a": [{"b": float("inf")}]})) == ["a.0.b: inf"]
