# SPDX-License-Identifier: Apache-2.0
"""Every figure of the house in one run and one table, with its expectation beside it.

    python -m bench.run [--repeats 5] [--seconds 1] [--vms 100] [--libvirt URI] [--only PARTS] [--json FILE] [--first]

PARTS, comma separated: house, bus, rpc, storage, vms (which takes most of the time).

Machines differ and are shared: judge by the ratios, which compare with something bare measured in the same run.
`--repeats 20` gives the p99 of starts and restarts a meaning. `--first` runs with real-time priority, before all other
work of the machine (but not the part vms, whose guests would take it for themselves): what a quiet machine would show.
Nothing fails here; the exit code is 0 when all ran.
"""

import argparse
import asyncio
import contextlib
import json
import math
import os
import platform
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

from bench import bus, events, house, rpc, storage, vms
from tests.support.libvirtd import PrivateLibvirtd


class Expected(NamedTuple):
    """A figure, what it should be, and in which direction it may differ."""

    what: str
    value: float
    bound: float
    at_most: bool
    unit: str = ""

    def line(self) -> str:
        kept = self.value <= self.bound if self.at_most else self.value >= self.bound
        sign = "<=" if self.at_most else ">="
        return f"{self.what:86}{self.value:10.2f} {self.unit:5}{sign} {self.bound:g} {'' if kept else '  MISSED'}"


def measure_house(repeats: int, libvirt_uri: str, result: dict[str, Any]) -> list[Expected]:
    with contextlib.ExitStack() as stack:
        if not libvirt_uri:
            # Not libvirt's test driver: that one lives in the process whose memory and start are measured.
            libvirt_uri = stack.enter_context(PrivateLibvirtd.start()).uri
        found = house.measure(repeats, libvirt_uri)
    result["house"] = {"figures": asdict(found), "ratios": house.ratios(found)}
    print(f"{'the house':52}{'median':>10}{'p99':>10}")
    rows = {what: (median, unit) for what, median, p99, unit in house.rows(found)}
    for what, median, p99, unit in house.rows(found):
        print(f"{what:52}{median:10.3f}{p99:10.3f} {unit}")
    expected = {"exec -> first good answer over TLS": 0.5, "idle memory of all processes (PSS)": 60.0}
    expected |= {what: 0.3 for what in rows if what.startswith("kill -9")} | {"SIGTERM -> gone": 10.0}
    return [Expected(what, rows[what][0], bound, True, rows[what][1]) for what, bound in expected.items()]


def measure_bus(seconds: float, result: dict[str, Any]) -> list[Expected]:
    found = asyncio.run(bus.measure(seconds))
    result["bus"] = {"figures": found, "ratios": bus.ratios(found)}
    print(bus.table(found))
    return [
        Expected(what, value, 2.0, True) for what, value in bus.ratios(found).items() if "zmq.asyncio round" in what
    ]


def measure_rpc(seconds: float, result: dict[str, Any]) -> list[Expected]:
    counts = [1, 8, 32]
    found = rpc.measure(seconds, 3, counts)
    said = rpc.ratios(found, counts)
    result["rpc"] = {"figures": {name: asdict(one) for name, one in found.items()}, "ratios": said}
    print(f"{'calls at the door, over TLS':28}{'calls/s':>10}{'p50 ms':>9}{'p99 ms':>9}{'server CPU ms/call':>21}")
    for name, one in found.items():
        print(f"{name:28}{one.per_s:10.0f}{one.p50_ms:9.2f}{one.p99_ms:9.2f}{one.cpu_ms:21.3f}")
    expected = [Expected(what, value, 2.0, True) for what, value in said.items() if "round trips" in what]
    ping2 = "ping2 x32, part of the echo's rate"
    expected.append(Expected(ping2, said[ping2], 0.7, False))
    expected.append(Expected("Host.ping2 x32, server CPU a call", found["ping2 x32"].cpu_ms, 0.11, True, "ms"))
    open_loop = found["ping2 open loop 1000/s"].p99_ms
    expected.append(Expected("Host.ping2 open loop 1000/s, p99", open_loop, 3.0, True, "ms"))
    part, fresh = "new connections, part of the echo's rate", found["new connections"]
    expected.append(Expected(part, said[part], 0.9, False))
    expected.append(Expected("new TLS connections, one after the other", fresh.per_s, 500, False, "/s"))
    crowd = f"new connections, {rpc.AT_ONCE} at once"
    expected.append(Expected(f"{crowd}, TLS", found[crowd].per_s, 500, False, "/s"))
    expected.append(Expected("a new TLS connection, server CPU", fresh.cpu_ms, 5.0, True, "ms"))
    return expected


def measure_storage(repeats: int, result: dict[str, Any]) -> list[Expected]:
    found = storage.measure(repeats)
    result["storage"] = {"figures": found, "ratios": storage.ratios(found)}
    print(f"{'file storage on a local directory':60}{'ms, or as said':>16}")
    for what, value in [*found.items(), *storage.ratios(found).items()]:
        print(f"{what:60}{value:16.2f}")
    return [Expected("nothing -> active data centre, local", found["nothing -> active data centre"], 600, True, "ms")]


def measure_vms(count: int, repeats: int, result: dict[str, Any]) -> list[Expected]:
    found = events.measure(5, 1000) | vms.measure(count, repeats)
    result["vms"] = {"figures": found}
    print(f"{f'{count} virtual machines, and a storm of events':86}{'unit as said':>12}")
    for what, value in found.items():
        print(f"{what:86}{value:12.2f}")
    return [
        Expected(what, found.get(what, math.nan), bound, at_most) for what, (bound, at_most) in vms.EXPECTED.items()
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5, help="fresh houses to start, kill and stop")
    parser.add_argument("--seconds", type=float, default=1.0, help="per figure of calls")
    parser.add_argument("--libvirt", default="", help="what virt connects to; a private libvirtd when not given")
    parser.add_argument("--only", default="house,bus,rpc,storage,vms", help="parts to run, comma separated")
    parser.add_argument("--vms", type=int, default=100, help="so many at once")
    parser.add_argument("--first", action="store_true", help="before all other work of the machine; needs root")
    parser.add_argument("--json", type=Path, help="write all figures there, too")
    options = parser.parse_args()
    result: dict[str, Any] = {
        "machine": {"cpus": os.cpu_count(), "kernel": platform.release(), "python": platform.python_version()}
    }
    expected: list[Expected] = []
    if options.first:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
    for part in options.only.split(","):
        match part:
            case "house" | "vms" if os.getuid() != 0:
                print(f"{part}: not measured, a house needs root to become its user")
                continue
            case "house":
                expected += measure_house(options.repeats, options.libvirt, result)
            case "bus":
                expected += measure_bus(options.seconds, result)
            case "rpc":
                expected += measure_rpc(options.seconds, result)
            case "storage":
                expected += measure_storage(options.repeats, result)
            case "vms":
                os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
                expected += measure_vms(options.vms, min(2, options.repeats), result)
            case _:
                parser.error(f"there is no part {part}")
        print()
    print("expected, as far as one run on a shared machine can tell")
    for figure in expected:
        print(figure.line())
    result["expected"] = [figure._asdict() for figure in expected]
    if options.json is not None:
        options.json.write_text(json.dumps(result, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
