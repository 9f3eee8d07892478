# SPDX-License-Identifier: Apache-2.0
"""A thousand events a second from libvirt's test driver, through a whole house, to a client. Needs root.

    python -m bench.events [--seconds 10] [--per-s 1000]

Counted against what was done to the VMs: each event once and in its order, or it is called lost or doubled. Latency
runs from just before libvirt is told to pause or resume a VM to the frame at the client.
"""

import argparse
import json
import threading
import time
from collections import Counter

from bench.guests import percentile
from bench.processes import cpu_s
from tests.support.eventually import eventually
from tests.support.house import RunningHouse, forget_program

_VMS = 50

Found = dict[str, float]


def measure(seconds: float, per_s: float) -> Found:
    """{what: figure}; the unit is in the name."""
    try:
        with RunningHouse.start(tls=True, table="tests.support.storm_table") as house:
            return _storm(house, int(seconds * per_s), per_s)
    finally:
        forget_program()


def _storm(house: RunningHouse, count: int, per_s: float) -> Found:
    listener, other = house.client(), house.client()
    ids = set(other.call("Storm.prepare", {"vms": _VMS}))
    eventually(lambda: ids <= {entry["vmId"] for entry in other.call("Host.getVMList")})
    listener.subscribe()
    listener.call("Host.ping2")
    pids = [house.pid_of("virt"), house.pid_of("clientif")]
    before = cpu_s(pids)
    done: list[tuple[str, str, float]] = []
    params = json.dumps({"events": count, "per_s": per_s}).encode()

    def raise_storm() -> None:
        done.extend(json.loads(other.call_raw("Storm.raise", params, timeout_s=600)))

    storm = threading.Thread(target=raise_storm)
    storm.start()
    told: list[tuple[str, str]] = []
    at: list[float] = []
    for event in listener.events(timeout_s=2 * count / per_s + 10):
        now = time.monotonic()
        for vm_id, info in event.params.items():
            if vm_id in ids:
                told.append((vm_id, info["status"]))
                at.append(now)
        if len(told) >= count:
            break
    storm.join()
    used = cpu_s(pids) - before
    due = [(vm_id, status) for vm_id, status, _ in done]
    late_ms = [(now - done_at) * 1000 for now, (_, _, done_at) in zip(at, done, strict=False)]
    more, less = Counter(told) - Counter(due), Counter(due) - Counter(told)
    return {
        "events from libvirt in the storm": len(due),
        "events a second": len(due) / (at[-1] - done[0][2]),
        "events lost": less.total(),
        "events doubled": more.total(),
        "events out of order": sum(a != b for a, b in zip(told, due, strict=False)),
        "event in the storm, pause or resume -> frame at a client, p50, ms": percentile(late_ms, 0.5),
        "event in the storm, pause or resume -> frame at a client, p99, ms": percentile(late_ms, 0.99),
        "event in the storm, CPU of virt and the door, ms": used * 1000 / len(due),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--per-s", type=float, default=1000.0)
    options = parser.parse_args()
    for what, value in measure(options.seconds, options.per_s).items():
        print(f"{what:80}{value:10.3f}")


if __name__ == "__main__":
    main()
