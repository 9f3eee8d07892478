# SPDX-License-Identifier: Apache-2.0
# SPDX-License-Identifier: Apache-2.0
"""What is done to a world under load, one function for one injection.

Each opens a fault, does harm, measures, and sets `happened` only when it saw that the harm was real. Limits are not
checked here: they stand in the table of scenarios beside what was promised.
"""

import contextlib
import os
import signal
import time

from tests.faults.world import POLL_S, Fault, World
from tests.support.eventually import eventually
from tests.system.test_storage_house import SD
from vdsm_mp.common import kernel
from vdsm_mp.common.errors import Error


class CannotRun(Exception):
    """This machine does not have what the injection needs; the sentence says what."""


def kill_worker(world: World, worker: str) -> None:
    """kill -9; the others keep their processes."""
    others = {name: w["pid"] for name, w in world.house.status()["workers"].items() if name != worker}
    pid = world.house.pid_of(worker)
    with world.fault(worker) as fault:
        os.kill(pid, signal.SIGKILL)
        world.watch_restart(fault, worker, pid)
        if worker == "clientif":
            fault.numbers["accepts again"] = world.until_answers(fault)
        if worker == "virt":
            fault.numbers["VMs known again"] = _vms_known(world, fault)
        _others_live(world, fault, others)


def _others_live(world: World, fault: Fault, others: dict[str, int]) -> None:
    now = {name: w["pid"] for name, w in world.house.status()["workers"].items()}
    fault.broken += [f"{name} was restarted too" for name, pid in others.items() if now[name] != pid]


def _vms_known(world: World, fault: Fault) -> float:
    """Until every VM is listed with its right state; it may not be listed as anything else before."""
    wanted = {guest.vm_id for guest in world.guests}

    def known() -> bool:
        try:
            found = {entry["vmId"]: entry["status"] for entry in world.house.call("Host.getAllVmStats")}
        except Error:
            return False
        missing = wanted - set(found)
        if missing:
            fault.broken.append(f"the new virt worker answered without VMs: {sorted(missing)}")
            return True
        return all(found[vm_id] in ("Up", "Powering up") for vm_id in wanted)

    try:
        eventually(known, within_s=15)
    except AssertionError:
        fault.broken.append("VMs did not come back in their right state within 15 s")
    return time.monotonic() - fault.at_mono - fault.waited_s


def freeze_worker(world: World, worker: str) -> None:
    """SIGSTOP, for ever."""
    others = {name: w["pid"] for name, w in world.house.status()["workers"].items() if name != worker}
    pid = world.house.pid_of(worker)
    with world.fault(worker) as fault:
        os.kill(pid, signal.SIGSTOP)
        world.watch_restart(fault, worker, pid)
        if not (world.house.worker(worker)["last_death"] or "").endswith(")"):
            fault.broken.append(f"{worker} was replaced without being found out as hung")
        _others_live(world, fault, others)


def pause_worker(world: World, worker: str) -> None:
    """SIGSTOP and SIGCONT before the limit: nothing may be restarted."""
    before = world.house.all_pids()
    pid = world.house.pid_of(worker)
    with world.fault(worker) as fault:
        os.kill(pid, signal.SIGSTOP)
        time.sleep(2.0)
        facts = kernel.process(pid)
        fault.happened = facts is not None and facts.state == "T"
        os.kill(pid, signal.SIGCONT)
        time.sleep(1.0)
        if world.house.all_pids()[: len(before)] != before:
            fault.broken.append(f"a pause of 2 s of {worker} cost a process")


def kill_master(world: World) -> None:
    """kill -9, then a new one as supervisord would start it: all is gone, all comes back, guests go on."""
    house = world.house
    assert house.process is not None
    pids = house.all_pids()
    programs = [f.pid for f in kernel.processes() if f.session in pids and f.pid not in pids]
    with world.fault("") as fault:
        house.process.kill()
        house.process.wait(10)
        left = until_gone([*pids, *programs], 10.0)
        fault.seen_s = time.monotonic() - fault.at_mono
        fault.numbers["all gone"] = fault.seen_s
        if left:
            fault.broken.append(f"processes outlived the master by 10 s: {left}")
        fault.happened = True
        house.begin()
        fault.ready_s = world.until_answers(fault)
        house.wait_ready()


def until_gone(pids: list[int], within_s: float) -> list[int]:
    until = time.monotonic() + within_s
    while left := [p for p in pids if (facts := kernel.process(p)) is not None and facts.state != "Z"]:
        if time.monotonic() > until:
            return left
        time.sleep(POLL_S)
    return []


def stop_house(world: World) -> None:
    """SIGTERM under load, and a new start."""
    house = world.house
    pids = house.all_pids()
    with world.fault("") as fault:
        code = house.terminate(within_s=20)
        fault.numbers["stopped"] = time.monotonic() - fault.at_mono
        fault.happened = True
        if code != 0:
            fault.broken.append(f"an orderly stop ended with {code}")
        if left := until_gone(pids, 1.0):
            fault.broken.append(f"processes outlived an orderly stop: {left}")
        house.begin()
        fault.ready_s = world.until_answers(fault) - fault.numbers["stopped"]
        house.wait_ready()


def kill_io_child(world: World) -> None:
    """kill -9 of the process that does the file access of the domain."""
    with world.fault("storage") as fault:
        pid = next((c["pid"] for c in world.house.status()["children"] if c["name"] == SD), 0)
        if not pid:
            raise CannotRun("no storage-io child runs")
        os.kill(pid, signal.SIGKILL)
        fault.happened = not until_gone([pid], 5.0)
        eventually(lambda: _file_stats(world), within_s=15)
        fault.ready_s = time.monotonic() - fault.at_mono


def freeze_io_child(world: World) -> None:
    """SIGSTOP of that process: what it was doing never ends."""
    with world.fault("storage") as fault:
        pid = next((c["pid"] for c in world.house.status()["children"] if c["name"] == SD), 0)
        if not pid:
            raise CannotRun("no storage-io child runs")
        os.kill(pid, signal.SIGSTOP)
        fault.happened = True
        try:
            eventually(lambda: _file_stats(world), within_s=20, every_s=0.2)
        except AssertionError:
            fault.broken.append("a frozen storage-io child was not replaced within 20 s")
        fault.ready_s = time.monotonic() - fault.at_mono
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def _file_stats(world: World) -> bool:
    try:
        return bool(world.house.call("StorageDomain.getInfo", {"storagedomainID": SD}, timeout_s=5)["uuid"] == SD)
    except Error:
        return False


def kill_libvirtd(world: World) -> None:
    """kill -9 and a new one; a VM that ends in the gap is reported, and the worker keeps its process."""
    pid = world.house.pid_of("virt")
    with world.fault("virt") as fault:
        world.libvirtd.kill()
        fault.happened = True
        eventually(lambda: not connected(world), within_s=5)
        fault.seen_s = time.monotonic() - fault.at_mono
        time.sleep(0.5)
        world.libvirtd.launch()
        back = time.monotonic()
        eventually(lambda: connected(world), within_s=20)
        fault.ready_s = time.monotonic() - back
        if world.house.pid_of("virt") != pid:
            fault.broken.append("the virt worker was restarted")
        fault.numbers["VMs known again"] = _vms_known(world, fault)


def freeze_libvirtd(world: World) -> None:
    """SIGSTOP until the keepalive has noticed, then SIGCONT."""
    pid = world.house.pid_of("virt")
    with world.fault("virt") as fault:
        world.libvirtd.freeze()
        fault.happened = True
        try:
            eventually(lambda: not connected(world), within_s=20)
            fault.seen_s = time.monotonic() - fault.at_mono
        except AssertionError:
            fault.broken.append("a frozen libvirtd was not noticed within 20 s")
        finally:
            world.libvirtd.thaw()
        back = time.monotonic()
        eventually(lambda: connected(world), within_s=30)
        fault.ready_s = time.monotonic() - back
        if world.house.pid_of("virt") != pid:
            fault.broken.append("the virt worker was restarted")


def connected(world: World) -> bool:
    """Whether a call that needs libvirt works."""
    try:
        world.house.call("Host.dumpxmls", {"vmList": [world.guests[0].vm_id]}, timeout_s=5)
    except Error:
        return False
    return True


def freeze_qemu(world: World) -> None:
    """SIGSTOP of one guest's QEMU for a while: the others are told of as before."""
    name = f"vm-{world.toy.vm_id[:8]}"
    pid = world.libvirtd.qemu_pid(name)
    slowest = 0.0
    with world.fault("virt") as fault:
        os.kill(pid, signal.SIGSTOP)
        fault.happened = True
        try:
            until = time.monotonic() + 6
            while time.monotonic() < until:
                began = time.monotonic()
                told = {e["vmId"]: e["status"] for e in world.house.call("Host.getAllVmStats", timeout_s=20)}
                slowest = max(slowest, time.monotonic() - began)
                fault.broken += [f"{g.vm_id} is not Up beside a stuck guest" for g in world.guests
                                 if told.get(g.vm_id) not in ("Up", "Powering up")]  # fmt: skip
                time.sleep(0.2)
        finally:
            os.kill(pid, signal.SIGCONT)
        fault.numbers["slowest list"] = slowest
