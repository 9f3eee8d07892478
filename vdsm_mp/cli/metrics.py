# SPDX-License-Identifier: Apache-2.0
"""`vdsm-mp metrics`: this host as numbers, in the text format of Prometheus; once, or served by HTTP.

A program of its own, a client like any other: it asks the master's control socket and the public door, so it costs the
agent nothing while nobody asks, tells what hangs while it hangs, and may die without anybody noticing.

Labels are workers, lanes, domains and VMs: there are as many series as things, and they go when the thing goes. What is
not known now is left out, never told from memory.
"""

import argparse
from collections.abc import Iterator, Mapping
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from vdsm_mp.cli import exporter, status
from vdsm_mp.common import config
from vdsm_mp.common.errors import Error

SAYS_NO = (Error, exporter.BadAddress)
#: Where exporters of agents are usually looked for.
DEFAULT_LISTEN = "127.0.0.1:9595"
#: A domain that was not checked for so long is neither valid nor invalid.
STALE_S = 30.0


def arguments(parser: argparse.ArgumentParser, _name: str) -> None:
    parser.add_argument(
        "--listen",
        nargs="?",
        const=DEFAULT_LISTEN,
        metavar="ADDRESS:PORT",
        help=f"serve /metrics, /healthz and /readyz by HTTP until told to stop ({DEFAULT_LISTEN})",
    )


def run(asked: argparse.Namespace) -> int:
    if asked.listen is not None:
        return exporter.serve(asked.listen, gather, text)
    print(text(gather()), end="")
    return 0


def gather() -> dict[str, Any]:
    """What `vdsm-mp status --json` tells, asked for now."""
    return status.gather(*config.load_usable())


def text(found: Mapping[str, Any]) -> str:
    """The exposition of one status."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Once(found))
    return generate_latest(registry).decode()


class _Once(Collector):
    def __init__(self, found: Mapping[str, Any]) -> None:
        self._found = found

    def collect(self) -> Iterator[Metric]:
        found = self._found
        yield _gauge("vdsm_up", "1 when the agent runs and can be asked", [((), int(found["house"] is not None))])
        yield _gauge("vdsm_problems", "Sentences in vdsm-mp status that say what is wrong", [
            ((), len(found["problems"]))
        ])  # fmt: skip
        if found["house"] is None:
            return
        yield from _house(found["house"])
        yield from _workers(found["house"]["workers"])
        yield from _lanes(found["house"]["workers"])
        days = found["certificate_days_left"]
        if days is not None:
            yield _gauge("vdsm_certificate_left_seconds", "Until the host's certificate ends", [((), days * 86400)])
        yield from _domains(found["domains"])
        yield from _tasks(found["tasks"])
        yield from _vms(found["vms"])


Rows = list[tuple[tuple[str, ...], Any]]


def _gauge(name: str, what: str, rows: Rows, labels: tuple[str, ...] = ()) -> Metric:
    return _family(GaugeMetricFamily(name, what, labels=labels), rows)


def _counter(name: str, what: str, rows: Rows, labels: tuple[str, ...] = ()) -> Metric:
    return _family(CounterMetricFamily(name, what, labels=labels), rows)


def _family(family: Any, rows: Rows) -> Metric:
    """rows: (label values, number); what is no number is not known and left out."""
    for values, number in rows:
        try:
            family.add_metric(values, float(number))
        except (TypeError, ValueError):
            continue
    found: Metric = family
    return found


def _house(house: Mapping[str, Any]) -> Iterator[Metric]:
    yield _gauge("vdsm_info", "The program that runs", [((house["version"],), 1)], ("version",))
    yield _gauge("vdsm_uptime_seconds", "Since the master started", [((), house["uptime_s"])])
    yield _gauge("vdsm_running", "1 in normal service, 0 while it starts or stops", [
        ((), int(house["state"] == "running"))
    ])  # fmt: skip
    yield _gauge("vdsm_lost_processes", "Processes that hang in the kernel and are written off", [
        ((), len(house["lost"]))
    ])  # fmt: skip
    yield _gauge("vdsm_children", "File access processes, one for each storage domain", [((), len(house["children"]))])


def _workers(workers: Mapping[str, Mapping[str, Any]]) -> Iterator[Metric]:
    def rows(key: str, scale: float = 1.0) -> Rows:
        return [((name,), None if w.get(key) is None else float(w[key]) * scale) for name, w in workers.items()]

    label = ("worker",)
    yield _gauge("vdsm_worker_ready", "1 when it serves", [
        ((name,), int(w["state"] == "ready")) for name, w in workers.items()
    ], label)  # fmt: skip
    yield _gauge("vdsm_worker_degraded", "1 when it died often lately", rows("degraded"), label)
    yield _counter("vdsm_worker_restarts", "Since the master started", rows("restarts"), label)
    yield _gauge("vdsm_worker_uptime_seconds", "Since it was forked", rows("uptime_s"), label)
    yield _gauge("vdsm_worker_heartbeat_age_seconds", "Since it was last heard of", rows("last_heartbeat_ago_s"), label)
    yield _gauge("vdsm_worker_loop_late_seconds", "How late its loop was at the last beat", rows("loop_late_s"), label)
    yield _gauge("vdsm_worker_resident_bytes", "Memory with what is shared", rows("rss_kib", 1024), label)
    yield _gauge("vdsm_worker_proportional_bytes", "Memory with its share of it", rows("pss_kib", 1024), label)


def _lanes(workers: Mapping[str, Mapping[str, Any]]) -> Iterator[Metric]:
    lanes = [
        (name, lane, facts)
        for name, worker in workers.items()
        for lane, facts in worker["vitals"].get("bus", {}).get("lanes", {}).items()
    ]

    def rows(key: str) -> Rows:
        return [((name, lane), facts.get(key)) for name, lane, facts in lanes]

    label = ("worker", "lane")
    yield _gauge("vdsm_lane_running", "Calls and jobs in work", rows("running"), label)
    yield _gauge("vdsm_lane_waiting", "Calls and jobs that wait for a thread", rows("waiting"), label)
    yield _counter("vdsm_lane_refused", "Turned away because too many waited", rows("refused"), label)
    yield _counter(
        "vdsm_lane_expired", "Given up because their time was over before their turn", rows("expired"), label
    )
    yield _gauge("vdsm_stuck_calls", "Calls whose callers have given up and that still hang", [
        ((name,), len(worker["vitals"].get("bus", {}).get("stuck", ()))) for name, worker in workers.items()
    ], ("worker",))  # fmt: skip


def _domains(domains: Mapping[str, Mapping[str, Any]]) -> Iterator[Metric]:
    checked = {sd_id: d for sd_id, d in domains.items() if d.get("actual")}
    fresh = {sd_id: d for sd_id, d in checked.items() if float(d.get("lastCheck", 0)) <= STALE_S}
    label = ("domain",)
    yield _gauge("vdsm_storage_domain_valid", "1 when the last check found it well; absent when that is long ago", [
        ((sd_id,), int(bool(d.get("valid")))) for sd_id, d in fresh.items()
    ], label)  # fmt: skip
    yield _gauge("vdsm_storage_domain_read_delay_seconds", "Of the last direct read", [
        ((sd_id,), d.get("delay")) for sd_id, d in fresh.items()
    ], label)  # fmt: skip
    yield _gauge("vdsm_storage_domain_check_age_seconds", "Since the last check that ended", [
        ((sd_id,), d.get("lastCheck")) for sd_id, d in checked.items()
    ], label)  # fmt: skip


def _tasks(tasks: Mapping[str, Mapping[str, Any]]) -> Iterator[Metric]:
    counts: dict[str, int] = {}
    for task in tasks.values():
        state = str(task.get("taskState"))
        counts[state] = counts.get(state, 0) + 1
    yield _gauge("vdsm_tasks", "Of the SPM, by state", [((state,), n) for state, n in counts.items()], ("state",))


def _vms(vms: list[Mapping[str, Any]]) -> Iterator[Metric]:
    counts: dict[str, int] = {}
    for vm in vms:
        counts[str(vm["status"])] = counts.get(str(vm["status"]), 0) + 1
    yield _gauge("vdsm_vms", "By status", [((state,), n) for state, n in counts.items()], ("status",))
    running = [vm for vm in vms if "monitorResponse" in vm]
    # Of a VM that does not answer nothing is known but that.
    live = [vm for vm in running if int(vm["monitorResponse"]) >= 0]

    def rows(key: str, scale: float = 1.0) -> Rows:
        return [(_who(vm), float(vm[key]) * scale) for vm in live if key in vm]

    label = ("vm", "name")
    yield _gauge("vdsm_vm_responds", "0 when libvirt or QEMU does not answer for it", [
        (_who(vm), int(int(vm["monitorResponse"]) >= 0)) for vm in running
    ], label)  # fmt: skip
    yield _gauge("vdsm_vm_uptime_seconds", "Since QEMU started", rows("elapsedTime"), label)
    yield _gauge("vdsm_vm_cpu_user_ratio", "Of one processor", rows("cpuUser", 0.01), label)
    yield _gauge("vdsm_vm_cpu_system_ratio", "Of one processor", rows("cpuSys", 0.01), label)
    yield _gauge("vdsm_vm_memory_usage_ratio", "Of its memory, as its guest says", [
        (_who(vm), float(vm["memUsage"]) * 0.01) for vm in live if vm.get("memoryStats")
    ], label)  # fmt: skip
    yield _gauge("vdsm_vm_migration_ratio", "How far its migration is", rows("migrationProgress", 0.01), label)
    for name, key, what in (("read", "readBytes", "From its disks"), ("written", "writtenBytes", "To its disks")):
        yield _counter(f"vdsm_vm_disk_{name}_bytes", what, [(_who(vm), _sum(vm, "disks", key)) for vm in live], label)
    for name, key, what in (("received", "rx", "By its cards"), ("sent", "tx", "By its cards")):
        yield _counter(f"vdsm_vm_network_{name}_bytes", what, [
            (_who(vm), _sum(vm, "network", key)) for vm in live
        ], label)  # fmt: skip


def _who(vm: Mapping[str, Any]) -> tuple[str, str]:
    return str(vm["vmId"]), str(vm.get("vmName", ""))


def _sum(vm: Mapping[str, Any], devices: str, key: str) -> int | None:
    numbers = [int(one[key]) for one in vm.get(devices, {}).values() if key in one]
    return sum(numbers) if numbers else None
