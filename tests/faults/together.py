# SPDX-License-Identifier: Apache-2.0
"""Several processes at once: every worker dies or hangs, the master dies while it forks, libvirtd stays away.

Each worker's death or hang is a fault of its own, measured and counted by itself; no call is unaffected meanwhile.
"""

import contextlib
import os
import random
import signal
import time
from collections.abc import Iterator

from tests.faults.injections import connected, until_gone
from tests.faults.pressure import kernel_ticks
from tests.faults.world import POLL_S, Fault, World
from tests.support.eventually import eventually
from tests.system.test_storage_house import SD
from vdsm_mp.common import kernel
from vdsm_mp.common.errors import Error

WORKERS = ("storage", "network", "virt", "scheduler", "clientif")
#: How long the verbs are watched after libvirtd is gone.
AWAY_S = 12.0
#: Less than the silence by which the checker calls a guest disturbed.
FROZEN_S = 8.0


def kill_workers(world: World) -> None:
    """kill -9 of all of them within a millisecond or two: whatever was asked is answered or its connection closed."""
    _all_at_once(world, signal.SIGKILL)


def freeze_workers(world: World) -> None:
    """SIGSTOP of all of them: each is found out by itself."""
    found = _all_at_once(world, signal.SIGSTOP)
    for name, fault in found.items():
        if not (world.house.worker(name)["last_death"] or "").endswith(")"):
            fault.broken.append(f"{name} was replaced without being found out as hung")


def _all_at_once(world: World, number: signal.Signals) -> dict[str, Fault]:
    master = world.house.status()["pid"]
    pids = {name: world.house.pid_of(name) for name in WORKERS}
    with world.faults_together(WORKERS) as faults:
        for name, pid in pids.items():
            faults[name].at_mono = time.monotonic()
            os.kill(pid, number)
        world.watch_restarts(faults, pids)
        first = faults["clientif"]
        world.until_answers(first)
    if world.house.status()["pid"] != master:
        first.broken.append("the master ended with its workers")
    return faults


def kill_master_while_it_forks(world: World) -> None:
    """A master dies by SIGKILL while it makes its workers, wherever it is; soon nothing of it lives.

    Between two instructions of a fork there is no other way in than to try often: the moment is chosen anew each time.
    """
    house = world.house
    assert house.process is not None
    with world.fault("") as fault:
        pids = house.all_pids()
        house.process.kill()
        house.process.wait(10)
        until_gone(pids, 10.0)
        house.begin()
        master, wanted = house.process.pid, random.randrange(1, len(WORKERS) + 1)
        # As soon as so many have been forked, or a moment later.
        eventually(lambda: sum(f.parent == master for f in kernel.processes()) >= wanted, within_s=20, every_s=0.001)
        time.sleep(random.choice((0.0, random.uniform(0.0, 0.05))))
        os.kill(master, signal.SIGSTOP)
        family = [f.pid for f in _descendants(master)]
        fault.happened = bool(family)
        fault.numbers["children at that moment"] = len(family)
        house.process.kill()
        house.process.wait(10)
        gone = time.monotonic()
        if left := until_gone(family, 5.0):
            fault.broken.append(f"processes outlived a master that was killed while it forked: {left}")
        fault.numbers["all gone"] = time.monotonic() - gone
        again = time.monotonic()
        house.begin()
        world.until_answers(fault)
        fault.ready_s = time.monotonic() - again
        house.wait_ready()


def _descendants(pid: int) -> Iterator[kernel.ProcessFacts]:
    every = kernel.processes()
    parents = {pid}
    while found := [f for f in every if f.parent in parents and f.pid not in parents]:
        yield from found
        parents |= {f.pid for f in found}


def keep_libvirtd_away(world: World) -> None:
    """libvirtd is gone for a while: what needs it says so within a second, storage works on, nobody spins."""
    pid = world.house.pid_of("virt")
    with world.fault("virt") as fault:
        world.libvirtd.kill()
        fault.happened = True
        eventually(lambda: not connected(world), within_s=5)
        used, began, slowest = kernel_ticks(pid), time.monotonic(), 0.0
        while time.monotonic() - began < AWAY_S:
            asked = time.monotonic()
            with contextlib.suppress(Error):
                world.house.call("Host.dumpxmls", {"vmList": [world.guests[0].vm_id]}, timeout_s=20)
                fault.broken.append("what needs libvirtd was answered without it")
            slowest = max(slowest, time.monotonic() - asked)
            world.house.call("StorageDomain.getInfo", {"storagedomainID": SD}, timeout_s=20)
            time.sleep(0.5)
        fault.numbers["slowest refusal"] = slowest
        fault.numbers["processor share of virt"] = (kernel_ticks(pid) - used) / 100 / AWAY_S
        world.libvirtd.launch()
        back = time.monotonic()
        eventually(lambda: connected(world), within_s=30, every_s=POLL_S)
        fault.ready_s = time.monotonic() - back
        if world.house.pid_of("virt") != pid:
            fault.broken.append("the virt worker was restarted")


def freeze_guests(world: World) -> None:
    """SIGSTOP of every QEMU for a while: lists come as fast as ever, and all are Up when they go on."""
    every = [*world.guests, world.toy]
    pids = [world.libvirtd.qemu_pid(f"vm-{guest.vm_id[:8]}") for guest in every]
    with world.fault("virt") as fault:
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        try:
            slowest, until = 0.0, time.monotonic() + FROZEN_S
            while time.monotonic() < until:
                began = time.monotonic()
                told = {entry["vmId"] for entry in world.house.call("Host.getAllVmStats", timeout_s=20)}
                slowest = max(slowest, time.monotonic() - began)
                if missing := {guest.vm_id for guest in every} - told:
                    fault.broken.append(f"VMs that stand still are not listed: {sorted(missing)}")
                time.sleep(0.2)
            stopped = [kernel.process(pid) for pid in pids]
            fault.happened = all(facts is not None and facts.stopped for facts in stopped)
        finally:
            for pid in pids:
                os.kill(pid, signal.SIGCONT)
        fault.numbers["slowest list"] = slowest
        went_on, wanted = time.monotonic(), {guest.vm_id for guest in world.guests}

        def up() -> bool:
            found = world.house.call("Host.getAllVmStats", timeout_s=20)
            return wanted <= {entry["vmId"] for entry in found if entry["status"] in ("Up", "Powering up")}

        eventually(up, within_s=60)
        fault.ready_s = time.monotonic() - went_on
