# SPDX-License-Identifier: Apache-2.0
"""What a fault run reports is what happened: counts, limits, and calls told apart by what they need."""

from pathlib import Path

from tests.faults import crowd, page, report, run, soak
from tests.faults.report import Row
from tests.faults.scenarios import BY_TESTS, NOT_HERE, UNDER_LOAD
from tests.faults.world import Fault
from tests.support.load import Operation

TESTS = Path(__file__).parents[2]


def fault(victim: str, at: float, until: float, **more: float) -> Fault:
    return Fault(victim, at, until, happened=True, **more)


def call(verb: str, asked: float, took: float, number: list[int] = [0]) -> Operation:  # noqa: B006 -- counts the ids
    number[0] += 1
    return Operation(str(number[0]), verb, False, asked, 60.0, None, [(asked + took, "done", None)])


def test_an_injection_that_did_not_happen_is_not_counted() -> None:
    row = Row("A1", "kill", wanted=2)
    row.take(Fault("virt", 1.0, 2.0, seen_s=0.1, happened=False))
    row.take(fault("virt", 1.0, 2.0, seen_s=0.1))
    assert row.executed == 1
    assert row.measures == {"seen": [0.1]}


def test_what_was_broken_is_kept_even_if_the_injection_does_not_count() -> None:
    row = Row("A1", "kill")
    row.take(Fault("virt", 1.0, broken=["the master ended"]))
    assert row.executed == 0 and row.broken == ["the master ended"]


def test_a_traceback_in_the_log_is_told_with_what_was_said_before_it_where_it_was_and_what_it_is() -> None:
    log = """10:00 INFO  all is well
10:01 ERROR virt.merges a beat failed
Traceback (most recent call last):
  File "beat.py", line 1, in beat
    raise KeyError("leaf")
KeyError: 'leaf'
10:02 INFO  going on
10:03 ERROR virt.merges a beat failed
Traceback (most recent call last):
  File "beat.py", line 1, in beat
    raise KeyError("leaf")
KeyError: 'leaf'
"""
    (told,) = run.tracebacks(log)
    for part in ("10:01 ERROR virt.merges a beat failed", 'raise KeyError("leaf")', "KeyError: 'leaf'"):
        assert part in told
    assert run.tracebacks("10:00 INFO  all is well\nTraceback (most recent call last):\n  File") != []


def test_a_limit_that_is_exceeded_is_named_with_its_numbers() -> None:
    row = Row("A1", "kill", limits={"ready": 1.0, "seen": 0.2})
    row.take(fault("virt", 1.0, 3.0, ready_s=2.0, seen_s=0.1))
    row.judge()
    assert row.missed == ["ready: 2.00, at most 1 was promised"]


def test_calls_to_the_victim_are_left_out_of_both_sides_of_the_comparison() -> None:
    faults = [fault("virt", 100.0, 110.0)]
    quiet = [call("Host.ping2", n / 25, 0.010) for n in range(250)]
    during = [call("Host.ping2", 100 + n / 25, 0.015) for n in range(250)]
    virt = [call("Host.getVMList", 100 + n / 25, 5.0) for n in range(250)]
    slow_before = [call("Host.getVMList", n / 25, 3.0) for n in range(250)]
    found = report.unaffected([*quiet, *during, *virt, *slow_before], {"A2": faults}, faults)["A2"]
    assert (found["calls"], found["ratio"], found["quiet_p99_ms"]) == (250, 1.5, 10.0)


def test_the_aftermath_of_a_fault_is_not_called_quiet() -> None:
    faults = [fault("virt", 100.0, 110.0)]
    calls = [call("Host.ping2", n / 25, 0.010) for n in range(250)]
    calls += [call("Host.ping2", 100 + n / 25, 0.010) for n in range(250)]
    calls += [call("Host.ping2", 110.5, 9.0)]
    assert report.unaffected(calls, {"A2": faults}, faults)["A2"]["quiet_p99_ms"] == 10.0


def test_few_calls_prove_nothing() -> None:
    faults = [fault("virt", 100.0, 110.0)]
    calls = [call("Host.ping2", 100 + n, 0.01) for n in range(5)]
    assert report.unaffected(calls, {"A2": faults}, faults) == {}


def test_a_request_without_an_answer_is_counted_as_silent() -> None:
    found = report.requests([call("Host.ping2", 1.0, 0.1), Operation("x", "Host.ping2", False, 1.0, 60.0)])
    assert (found["asked"], found["silent"], found["slowest_s"]) == (2, 1, 0.1)


def test_every_scenario_has_its_own_name_and_every_test_it_names_exists() -> None:
    names = [s.id for s in UNDER_LOAD] + [t.id for t in BY_TESTS] + list(NOT_HERE)
    assert len(names) == len(set(names))
    for row in BY_TESTS:
        for node in row.nodes:
            file, _, function = node.partition("::")
            assert (TESTS / file).exists(), node
            assert not function or f"def {function}(" in (TESTS / file).read_text(), node


def test_the_page_shows_what_is_wrong_and_lets_nobody_write_into_it() -> None:
    row = Row("A1", "kill <b>", wanted=1, limits={"ready": 1.0}, broken=["<script>"])
    row.take(fault("virt", 1.0, 3.0, ready_s=2.0, seen_s=0.1))
    row.judge()
    found = {
        "rows": [row.as_json()], "raw": {"A1": row.measures}, "requests": report.requests([]), "broken": row.broken,
        "executed": 1, "took_s": 60.0, "machine": {"processors": 2}, "full": False, "not_here": {"A5": "no router"},
    }  # fmt: skip
    shown = page.html(found)
    assert "<script>" not in shown and "&lt;script&gt;" in shown
    assert "<circle" in shown and "no router" in shown and "at most 1 was promised" in shown
    assert "BROKEN: <script>" in report.text(found)


def test_a_crowd_that_takes_more_memory_than_was_promised_is_over_its_limit() -> None:
    few, more = (
        crowd.Row("as shipped", "giants", 100, 100, 4, 9.0, 36.0, worst, 37.0, 100.0, 20.0, 0.0)
        for worst in (120.0, 1500.0)
    )
    good, bad = crowd.as_report([few, more])
    assert (good.executed, good.missed) == (1, [])
    assert bad.missed == ["memory MiB: 1464.00, at most 160 was promised"]
    assert {limits for limits, _ in crowd.MEMORY_MIB} == set(crowd.TABLES)
    assert {kind for _, kind in crowd.MEMORY_MIB} == set(crowd.KINDS)


def test_what_a_soak_found_broken_is_in_its_row() -> None:
    trend = {"name": "virt", "pid": 7, "kind": "rss_kib", "seconds": 600.0, "median": 1.0, "an_hour": 12.0, "rose": 2.0}
    row = soak.as_row({"minutes": 22.0, "broken": ["virt grew"], "trends": [trend]})
    assert row.broken == ["virt grew"] and row.measures == {"memory KiB an hour": [12.0]}
