# SPDX-License-Identifier: Apache-2.0
"""A compressed soak: does a house grow under load, with VMs and clients that come and go, and with deaths?

    python -m tests.faults.soak [--minutes 30] [--json FILE]

The first two thirds nothing dies, so that every process lives long enough to be judged; then workers, a child, libvirtd
and what they run are killed one after the other, and the master, its log writer and the host are judged over all of it.
Looked at every five seconds: descriptors, sockets, threads and memory of each process; files below the folders of the
house, Unix sockets and mounts of the host. `tests/faults/growth.py` judges, `tests/faults/checker.py` the rest.
"""

import argparse
import contextlib
import itertools
import json
import os
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from tests.faults import checker, growth, report
from tests.faults import injections as do
from tests.faults.growth import Look
from tests.faults.world import World
from tests.support.eventually import eventually
from tests.support.house import forget_program
from tests.support.load import check
from tests.system.virt.test_vm_house import Guest
from vdsm_mp.common import controlsocket, kernel
from vdsm_mp.common.errors import Error

LOOK_S = 5.0
#: The shortest soak of which every process can be judged.
SHORTEST_MINUTES = 1.5 * (growth.WARM_S + growth.ENOUGH_S) / 60 + 0.5
#: Between two deaths: shorter than this, and the back-off of workers would be all that is seen.
DEATH_EVERY_S = 20.0
#: A VM comes and goes this often, and so do clients that hear events.
VM_EVERY_S, CLIENT_EVERY_S = 5.0, 1.0
WORKERS = ("storage", "network", "virt", "scheduler", "clientif")
#: Judged from beginning to end.
LASTING = ("master", "log", "host")


class Looker:
    """A thread that looks at a house, and how many looks failed because somebody had just died."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._stop = threading.Event()
        self.looks: list[Look] = []
        self.missed = 0
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._stop.wait(LOOK_S):
            try:
                self._look()
            except (OSError, controlsocket.NotRunning, controlsocket.Refused):
                self.missed += 1

    def _look(self) -> None:
        status = self._world.house.status()
        now = time.monotonic()
        pids = {name: worker["pid"] for name, worker in status["workers"].items() if worker["pid"]}
        pids |= {child["name"]: child["pid"] for child in status["children"]}
        pids |= {"master": status["pid"], "log": status["log"]["pid"]}
        for name, pid in pids.items():
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                self.looks.append(Look(name, pid, now, _held(pid)))
        self.looks.append(Look("host", 0, now, _host(self._world)))

    def stop(self) -> None:
        self._stop.set()
        self._thread.join(30)


def _held(pid: int) -> dict[str, float]:
    kinds = []
    for fd in os.listdir(f"/proc/{pid}/fd"):
        with contextlib.suppress(FileNotFoundError):
            kinds.append(os.readlink(f"/proc/{pid}/fd/{fd}"))
    sockets = sum(kind.startswith("socket:") for kind in kinds)
    threads = len(os.listdir(f"/proc/{pid}/task"))
    return {"descriptors": len(kinds), "sockets": sockets, "threads": threads, "rss_kib": kernel.rss_kib(pid)}


def _host(world: World) -> dict[str, float]:
    root = world.house.root
    files = sum(len(names) + len(folders) for n in ("run", "vrun", "state") for _, folders, names in os.walk(root / n))
    sockets = sum(str(root) in line for line in Path("/proc/net/unix").read_text().splitlines())
    mounts = sum(str(root) in line for line in Path("/proc/self/mountinfo").read_text().splitlines())
    log = sum(path.stat().st_size for path in (root / "log").iterdir())
    return {"files": files, "unix_sockets": sockets, "mounts": mounts, "log_bytes": log}


class Guests:
    """VMs and listeners that come and go until told to stop. made, heard: how many."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._stop = threading.Event()
        self.made = self.heard = 0
        self._threads = [threading.Thread(target=run, daemon=True) for run in (self._vms, self._listeners)]
        for thread in self._threads:
            thread.start()

    def _vms(self) -> None:
        while not self._stop.wait(VM_EVERY_S):
            try:
                guest = Guest(self._world.house, self._world.libvirtd)
                eventually(partial(self._destroyed, guest.vm_id), within_s=60, every_s=1.0)
                self.made += 1
            except (Error, AssertionError, OSError):
                continue  # somebody died meanwhile: the requests of the load judge that

    def _destroyed(self, vm_id: str) -> bool:
        try:
            self._world.house.call("VM.destroy", {"vmID": vm_id})
        except Error as error:
            return error.code == 1  # gone
        return True

    def _listeners(self) -> None:
        while not self._stop.wait(CLIENT_EVERY_S):
            with contextlib.suppress(Error, OSError), self._world.connect() as client:
                client.subscribe()
                client.call("Host.getAllVmStats")
                self.heard += 1

    def stop(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(120)


def _deaths(world: World) -> Iterator[Any]:
    """What dies next, for ever."""
    kinds = [lambda w=w: do.kill_worker(world, w) for w in ("clientif", "virt", "storage", "scheduler", "network")]
    kinds += [lambda: do.kill_io_child(world), lambda: do.kill_libvirtd(world)]
    return itertools.cycle(kinds)


def run(minutes: float, guests: int = 3, per_s: float = 50.0) -> dict[str, Any]:
    """{"minutes", "deaths", "requests", "trends", "broken", …}"""
    broken: list[str] = []
    began = time.monotonic()
    with World.open(guests=guests, callers=30, per_s=per_s) as world:
        looker, visitors = Looker(world), Guests(world)
        try:
            deaths = _until_the_end(world, began, minutes * 60, broken)
        finally:
            visitors.stop()
            looker.stop()
        # A destroyed VM is down: its owner asked for it.
        world.record.died = [vm_id for vm_id in world.record.died if vm_id in {guest.vm_id for guest in world.guests}]
        world.settle()
        log = world.house.log_text()
        history = world.load.history
    found = growth.trends(looker.looks)
    broken += growth.judge(found, [*WORKERS, *LASTING])
    broken += check(history, {}) + checker.judge(world.record)
    broken += [line[:200] for line in log.splitlines() if "uncaught exception" in line or "Traceback" in line][:5]
    grown_log = [look.held["log_bytes"] for look in looker.looks if look.name == "host"]
    return {
        "minutes": round((time.monotonic() - began) / 60, 1),
        "deaths": deaths,
        "vms": visitors.made,
        "listeners": visitors.heard,
        "looks": len(looker.looks),
        "missed_looks": looker.missed,
        "log_mib_an_hour": round((grown_log[-1] - grown_log[0]) / 2**20 / (len(grown_log) * LOOK_S / 3600), 2),
        "requests": report.requests(history),
        "trends": [asdict(trend) for trend in found],
        "broken": broken,
        "series": [[look.name, look.pid, round(look.at - began, 1), look.held] for look in looker.looks],
    }


def _until_the_end(world: World, began: float, seconds: float, broken: list[str]) -> int:
    """Quiet, then deaths; how many there were."""
    time.sleep(max(0.0, began + seconds * 2 / 3 - time.monotonic()))
    deaths = 0
    for kill in _deaths(world):
        due = time.monotonic() + DEATH_EVERY_S
        if due > began + seconds:
            return deaths
        before = len(world.faults)
        kill()
        deaths += 1
        broken += [line for fault in world.faults[before:] for line in fault.broken]
        time.sleep(max(0.0, due - time.monotonic()))
    return deaths


def as_row(found: dict[str, Any]) -> report.Row:
    """The same as a row of a fault run."""
    row = report.Row("E11", f"a soak of {found['minutes']:g} minutes, deaths in its last third", wanted=1)
    row.executed, row.broken = 1, list(found["broken"])
    for trend in found["trends"]:
        if trend["kind"] == "rss_kib":
            row.measures.setdefault("memory KiB an hour", []).append(trend["an_hour"])
    return row


def show(found: dict[str, Any]) -> None:
    for trend in sorted(found["trends"], key=lambda t: (t["kind"], t["name"])):
        print(
            f"{trend['kind']:13}{trend['name'][:12]:13}{trend['seconds']:6.0f} s  median {trend['median']:10.1f}"
            f"  rose {trend['rose']:8.1f}  an hour {trend['an_hour']:9.1f}"
        )
    asked = found["requests"]
    print(
        f"{found['minutes']} minutes, {found['deaths']} deaths, {found['vms']} VMs, {found['listeners']} listeners, "
        f"{asked['asked']} requests, {asked['silent']} without an answer, log {found['log_mib_an_hour']} MiB an hour"
    )
    for line in found["broken"]:
        print(f"BROKEN: {line}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    if asked.minutes < SHORTEST_MINUTES:
        parser.error(f"processes are judged after {SHORTEST_MINUTES:.0f} minutes")
    try:
        found = run(asked.minutes)
    finally:
        forget_program()
    if asked.json:
        asked.json.write_text(json.dumps(found, indent=1))
    show(found)
    return 1 if found["broken"] else 0


if __name__ == "__main__":
    sys.exit(main())
