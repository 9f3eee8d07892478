# SPDX-License-Identifier: Apache-2.0
"""What is done to a house under load from the host's keyboard, or by the host below it: debuggers, stray signals, a
suspended host, a disk that has become read-only, a libvirtd that is slow.

Like `injections`: each sets `happened` only when it saw that the harm was real.
"""

import contextlib
import os
import random
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from tests.faults.injections import CannotRun
from tests.faults.together import WORKERS
from tests.faults.world import World
from tests.support.debugger import holding
from tests.support.eventually import eventually
from tests.system.virt.test_vm_house import Guest
from vdsm_mp.common import kernel
from vdsm_mp.house.spawn import MEANT_FOR_THE_MASTER

#: Longer than the silence by which a worker is called hung, shorter than any verb's deadline.
_SUSPENDED_S = 4.0
_SLOW_S = 12.0
#: Of each three seconds libvirtd runs for so long.
_STOPPED_S, _RUNS_S = 2.85, 0.15


def _processes(world: World) -> dict[str, int]:
    status = world.house.status()
    found = {name: int(worker["pid"] or 0) for name, worker in status["workers"].items()}
    found |= {f"{child['kind']} {child['name']}": int(child["pid"]) for child in status["children"]}
    return {**found, "log": int(status["log"]["pid"] or 0), "master": int(status["pid"])}


def hold_in_debugger(world: World, worker: str) -> None:
    """Every thread stands still, and the end of the process stays the debugger's until that leaves."""
    pid = world.house.pid_of(worker)
    with world.fault(worker) as fault:
        with holding(pid):
            world.watch_restart(fault, worker, pid)
            facts = kernel.process(pid)
            fault.happened = fault.happened and facts is not None and facts.state == "Z"
        try:
            eventually(lambda: not world.house.status()["lost"], within_s=10)
        except AssertionError:
            fault.broken.append(f"{worker} is still counted as lost after the debugger has left")


def signal_all(world: World) -> None:
    """What is meant for the master goes to everybody, as by pkill."""
    before = _processes(world)
    with world.fault("none") as fault:
        for number in MEANT_FOR_THE_MASTER:
            if number is not signal.SIGUSR1:  # the role would be given up, as it must be
                for pid in before.values():
                    os.kill(pid, number)
        fault.happened = True
        time.sleep(1.0)
        if (after := _processes(world)) != before:
            fault.broken.append(f"stray signals cost a process: {before} -> {after}")


def suspend(world: World) -> None:
    """Every process of the house stands still, and they come back one after the other: nobody may be blamed."""
    before = _processes(world)
    with world.fault("") as fault:
        for pid in before.values():
            os.kill(pid, signal.SIGSTOP)
        time.sleep(_SUSPENDED_S)
        facts = kernel.process(before["virt"])
        fault.happened = facts is not None and facts.stopped
        pids = list(before.values())
        random.shuffle(pids)
        for pid in pids:
            os.kill(pid, signal.SIGCONT)
            time.sleep(0.05)
        fault.ready_s = world.until_answers(fault) - _SUSPENDED_S
        time.sleep(4.0)  # somebody taken for hung would have been killed by now
        if (after := _processes(world)) != before:
            fault.broken.append(f"a suspended house lost processes: {before} -> {after}")


def slow_libvirtd(world: World) -> None:
    """It answers once in three seconds: late, but never a reason to give it or the worker up."""
    pid, daemon, over = world.house.pid_of("virt"), world.libvirtd.pid, threading.Event()

    def hold() -> None:
        while not over.is_set():
            os.kill(daemon, signal.SIGSTOP)
            time.sleep(_STOPPED_S)
            os.kill(daemon, signal.SIGCONT)
            over.wait(_RUNS_S)

    holder = threading.Thread(target=hold)
    with world.fault("virt") as fault:
        holder.start()
        try:
            began = time.monotonic()
            for _ in range(2):
                world.house.call("Host.dumpxmls", {"vmList": [world.guests[0].vm_id]}, timeout_s=30)
            fault.happened = time.monotonic() - began > 1.0
            time.sleep(max(0.0, began + _SLOW_S - time.monotonic()))
        finally:
            over.set()
            holder.join(10)
        if world.house.pid_of("virt") != pid:
            fault.broken.append("the virt worker was restarted")


def virsh(world: World) -> None:
    """An operator suspends, resumes and ends a VM of its own behind our back: it is told as libvirt has it."""
    pid, guest = world.house.pid_of("virt"), Guest(world.house, world.libvirtd)
    world.may_end.add(guest.vm_id)

    def told(vm_id: str) -> str:
        found = world.house.call("Host.getAllVmStats")
        return next((str(entry["status"]) for entry in found if entry["vmId"] == vm_id), "")

    def until(*wanted: str) -> None:
        began = time.monotonic()
        eventually(lambda: told(guest.vm_id) in wanted, within_s=15)
        fault.numbers["told"] = max(fault.numbers.get("told", 0.0), time.monotonic() - began)

    with world.fault("none") as fault:
        for command, wanted in (("suspend", ("Paused",)), ("resume", ("Up", "Powering up")), ("destroy", ("Down",))):
            world.libvirtd.virsh(command, f"vm-{guest.vm_id[:8]}")
            until(*wanted)
        fault.happened = True
        world.house.call("VM.destroy", {"vmID": guest.vm_id})
        eventually(lambda: told(guest.vm_id) == "", within_s=15)
        if world.house.pid_of("virt") != pid:
            fault.broken.append("the virt worker was restarted")


@contextlib.contextmanager
def _read_only(folders: list[Path]) -> Iterator[None]:
    with contextlib.ExitStack() as mounted:
        for folder in folders:
            bound = subprocess.run(["mount", "--bind", folder, folder], check=False, capture_output=True)
            if bound.returncode:
                raise CannotRun("nothing can be mounted here")
            mounted.callback(subprocess.run, ["umount", "--lazy", folder], check=True)
            subprocess.run(["mount", "-o", "remount,ro,bind", folder], check=True)
        yield


def read_only_disk(world: World) -> None:
    """The disk with state, log and configuration takes no writes any more, and then every worker dies."""
    house = world.house
    with _read_only([house.root / name for name in ("state", "log", "etc")]):
        assert house.process is not None
        house.process.send_signal(signal.SIGHUP)
        pids = {name: house.pid_of(name) for name in WORKERS}
        with world.faults_together(WORKERS) as faults:
            for name, pid in pids.items():
                faults[name].at_mono = time.monotonic()
                os.kill(pid, signal.SIGKILL)
            world.watch_restarts(faults, pids)
            world.until_answers(faults["clientif"])
    house.process.send_signal(signal.SIGHUP)
