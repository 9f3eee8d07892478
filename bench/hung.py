# SPDX-License-Identifier: Apache-2.0
"""A whole house with thirty storage domains and ten VMs: do clients notice that domains hang? Needs root, libvirtd.

    python -m bench.hung [--seconds 20] [--json FILE]

The domains that hang are seen through a file system of our own that stops answering (1, then 4, then 15 more), so that
whoever reads them is in uninterruptible sleep, as with a dead server. Two clients call all the time, one each verb.
Machines differ and are shared: hung and healthy take turns within one run, and their ratio is what counts.
"""

import argparse
import json
import os
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.guests import Guests, percentile
from tests.support.eventually import eventually
from tests.support.hangfs import HangFs
from tests.support.house import RunningHouse, forget_program
from tests.support.libvirtd import PrivateLibvirtd
from vdsm_mp.api.types import BLANK

DOMAINS = 30
#: How many hang together, first; one file system for each step.
STEPS = (1, 4, 15)
VMS = 10
PERIOD_S = 2
VERBS = ("Host.ping2", "Host.getAllVmStats")
#: Hung and healthy take turns so often.
ROUNDS = 4
#: Between two calls of one client, as an engine has one.
PAUSE_S = 0.01

Found = dict[str, dict[str, float]]


def measure(seconds: float) -> Found:
    """{"1 hung": {"Host.ping2 p50 ms", "Host.ping2 p99 ms", …, "oldest check of a healthy domain s"}, "none": …}.

    Each number of hung domains is followed by "none, beside N", measured in turns with it.
    """
    options = {"irs": {"sd_health_check_delay": PERIOD_S}}
    try:
        with ExitStack() as stack:
            libvirtd = stack.enter_context(PrivateLibvirtd.start())
            house = stack.enter_context(RunningHouse.start(options, tls=True, libvirt_uri=libvirtd.uri))
            (house.root / "repo").chmod(0o755)
            Guests(libvirtd, house.root / "repo").create_many(house.client(), VMS)
            steps = stack.enter_context(_domains(house))
            found: Found = {}
            for count in range(1, len(steps) + 1):
                found |= _in_turns(house, steps[:count], seconds)
            return found
    finally:
        forget_program()


def _in_turns(house: RunningHouse, steps: list[tuple[HangFs, list[str]]], seconds: float) -> Found:
    """Hung, healthy, hung, … so that what else the machine does meets both."""
    ids = {sd_id for _, group in steps for sd_id in group}
    hung, healthy = Times(), Times()
    for _ in range(ROUNDS):
        for hanging, _ in steps:
            hanging.hang()
        eventually(lambda: _invalid(house) == ids, within_s=60, every_s=0.2)
        _call(house, hung, ids, seconds / ROUNDS)
        for hanging, _ in steps:
            hanging.go_on()
        eventually(lambda: _invalid(house) == set(), within_s=60, every_s=0.2)
        _call(house, healthy, set(), seconds / ROUNDS)
    return {f"{len(ids)} hung": hung.figures(), f"none, beside {len(ids)}": healthy.figures()}


@dataclass
class Times:
    """Milliseconds of each call, and the greatest age of a healthy domain's check in seconds."""

    calls: dict[str, list[float]] = field(default_factory=lambda: {verb: [] for verb in VERBS})
    oldest: float = 0.0

    def figures(self) -> dict[str, float]:
        found = {"oldest healthy check s": self.oldest}
        for verb, times in self.calls.items():
            name = verb.partition(".")[2]
            found |= {f"{name} p50 ms": percentile(times, 0.5), f"{name} p99 ms": percentile(times, 0.99)}
        return found


@contextmanager
def _domains(house: RunningHouse) -> Iterator[list[tuple[HangFs, list[str]]]]:
    """Thirty that are watched; [(what makes them hang, their ids)] of the steps."""
    ids = [f"5d000000-0000-4000-8000-{n:012d}" for n in range(DOMAINS)]
    client = house.client()
    place = house.root / "domains"
    place.mkdir()
    place.chmod(0o755)
    steps: list[tuple[HangFs, list[str]]] = []
    left = list(ids)
    groups = [[left.pop() for _ in range(count)] for count in STEPS]
    try:
        for n, group in enumerate([left, *groups]):
            real = place / f"real{n}"
            seen = real
            for sd_id in group:
                _create(client, real / sd_id, sd_id)
            if n > 0:
                steps.append((HangFs(real, place / f"seen{n}"), group))
                seen = place / f"seen{n}"
            for sd_id in group:
                _server(client, "connectStorageServer", seen / sd_id)
                client.call("Host.startMonitoringDomain", {"sdUUID": sd_id, "hostID": 1})
        eventually(lambda: all(row["actual"] for row in _stats(house).values()), within_s=60, every_s=0.2)
        assert _invalid(house) == set()
        yield steps
    finally:
        for hanging, _ in steps:
            hanging.stop()


def _create(client: Any, path: Path, sd_id: str) -> None:
    path.mkdir(parents=True)
    for folder in (path.parent, path):
        folder.chmod(0o755)
        shutil.chown(folder, "vdsm", "kvm")
    _server(client, "connectStorageServer", path)
    names = {"storagedomainID": sd_id, "domainType": 4, "typeArgs": str(path), "name": "d"}
    client.call("StorageDomain.create", {"domainClass": 1, "version": "5", **names})
    _server(client, "disconnectStorageServer", path)


def _server(client: Any, verb: str, path: Path) -> None:
    row = {"id": str(path), "connection": str(path)}
    params = {"storagepoolID": BLANK, "domainType": 4, "connectionParams": [row]}
    [found] = client.call(f"StoragePool.{verb}", params)
    assert found["status"] == 0, (verb, path)


def _stats(house: RunningHouse) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = house.call("Host.getStorageRepoStats")
    return found


def _invalid(house: RunningHouse) -> set[str]:
    return {sd_id for sd_id, row in _stats(house).items() if not row["valid"]}


def _call(house: RunningHouse, into: Times, hung: set[str], seconds: float) -> None:
    end = time.monotonic() + seconds

    def call_all_the_time(verb: str) -> None:
        client = house.client()
        while time.monotonic() < end:
            began = time.monotonic()
            client.call(verb, timeout_s=30)
            into.calls[verb].append((time.monotonic() - began) * 1000)
            time.sleep(PAUSE_S)
        client.close()

    callers = [threading.Thread(target=call_all_the_time, args=(verb,)) for verb in VERBS]
    for caller in callers:
        caller.start()
    while time.monotonic() < end:
        rows = _stats(house)
        into.oldest = max(into.oldest, *(float(row["lastCheck"]) for sd_id, row in rows.items() if sd_id not in hung))
        time.sleep(0.5)
    for caller in callers:
        caller.join()


def table(found: Found) -> str:
    """Pairs of rows: so many hung, with what each figure is of the same with none hung; and those."""
    names = list(next(iter(found.values())))
    lines = [f"{'':18}" + "".join(f"{name:>24}" for name in names)]
    rows = list(found.items())
    for (hung, figures), (healthy, beside) in zip(rows[::2], rows[1::2], strict=True):
        cells = [f"{figures[name]:.2f} ({figures[name] / beside[name]:.2f})" for name in names]
        lines.append(f"{hung:18}" + "".join(f"{cell:>24}" for cell in cells))
        lines.append(f"{healthy:18}" + "".join(f"{beside[name]:>24.2f}" for name in names))
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description="do clients notice that storage domains hang?")
    parser.add_argument("--seconds", type=float, default=20.0, help="of calls with so many hung")
    parser.add_argument("--json", type=Path, help="where to write the figures")
    options = parser.parse_args()
    found = measure(options.seconds)
    print(table(found))
    if options.json:
        options.json.write_text(json.dumps({"cpus": os.cpu_count(), "figures": found}, indent=2) + "\n")


if __name__ == "__main__":
    main()
