# SPDX-License-Identifier: Apache-2.0
"""A whole house with a hundred tiny VMs: what it costs to watch them, what it takes to find them again, and whether
some that hang are felt by the others. Needs root, libvirtd and QEMU.

    python -m bench.vms [--vms 100] [--repeats 3] [--json FILE]

CPU figures are user and system time of our own processes. A house is begun anew for each death, because a second one
of the same worker would measure the back-off. What is measured against bare libvirt is in `vms_bare.py`.
"""

import argparse
import contextlib
import json
import os
import signal
import statistics
import sys
import threading
import time
import traceback
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import libvirt

from bench import vms_bare
from bench.guests import Guests, percentile, running
from bench.house import everybody
from bench.processes import before_all_others, cpu_s, smaps_kib
from tests.support.eventually import eventually
from tests.support.house import RunningHouse, forget_program
from tests.support.libvirtd import PrivateLibvirtd
from vdsm_mp.common.errors import Error
from vdsm_mp.wire.client import Client

CYCLE_S = 15.0
STUCK = 10
#: In the part with stuck VMs, which would otherwise take minutes to be told.
_QUICK = "vm_sample_interval = 2\nvm_command_timeout = 6\n"
_CALLS = 200
_MOST_S = 60.0

Found = dict[str, float]

_STOPPED = f"{STUCK} VMs stopped"
_BESIDE = f"with {STUCK} stopped / with none"
#: {figure: (bound, at most)}; what is not here is told without being judged.
EXPECTED: dict[str, tuple[float, bool]] = {
    "a VM runs -> its statistics are complete, s": (2.0, True),
    "virt, CPU in 15 s, ms": (70, True),
    "all our processes, CPU in 15 s, ms": (70, True),
    "Host.getAllVmStats, CPU a call, ms": (3.0, True),
    "VM.create until it runs / bare createXML": (1.5, True),
    "VM.destroy / bare destroy": (1.5, True),
    "sampling / bare getAllDomainStats, CPU": (3.0, True),
    "libvirt's callback -> frame at a client, p50, ms": (2.0, True),
    "libvirt's callback -> frame at a client, p99, ms": (10.0, True),
    "events lost": (0, True),
    "events doubled": (0, True),
    "events out of order": (0, True),
    "kill -9 of virt -> complete VM list, s": (2.0, True),
    "kill -9 of virt, longest wait for a ping2 meanwhile, ms": (100, True),
    "kill -9 of the master, start -> complete VM list, s": (2.0, True),
    f"{_STOPPED}: told as not responding": (STUCK, False),
    f"{_STOPPED}: others told as not responding": (0, True),
    f"{_STOPPED}: others with fresh statistics, part": (1.0, False),
    f"VM.pause {_BESIDE}, p50": (1.5, True),
    f"VM.pause {_BESIDE}, p99": (1.5, True),
    f"VM.getStats {_BESIDE}, p50": (1.5, True),
    f"VM.getStats {_BESIDE}, p99": (1.5, True),
    f"Host.getAllVmStats {_BESIDE}, p99": (1.5, True),
    f"VM.create until it runs {_BESIDE}, p50": (1.5, True),
    f"VM.destroy {_BESIDE}, p50": (1.5, True),
    "libvirtd answers virsh again -> what was missed is told, s": (2.0, True),
    "libvirtd restarted: VMs known afterwards, part": (1.0, False),
    "libvirtd restarted: changes told that did not happen": (0, True),
}


def measure(count: int, repeats: int) -> Found:
    """{what: figure}; the unit is in the name."""
    try:
        with PrivateLibvirtd.start() as libvirtd, RunningHouse.start(tls=True, libvirt_uri=libvirtd.uri) as house:
            (house.root / "repo").chmod(0o755)
            guests = Guests(libvirtd, house.root / "repo")
            found = {f"{what}, without VMs": value for what, value in _watching(house).items()}
            started, ids = _start(house, guests, count)
            found |= started
            for part in (
                lambda: _watching(house),
                lambda: _calls(house),
                lambda: vms_bare.measure(house, guests, ids),
                lambda: _deaths(house, repeats, count),
                lambda: _stuck(house, guests, ids),
                lambda: _libvirtd_dies(house, libvirtd, ids),
            ):
                try:
                    found |= part()
                except (AssertionError, Error, OSError, libvirt.libvirtError) as error:
                    # The other parts are worth something without this one; its figures are missed.
                    print(f"not measured: {error!r}", file=sys.stderr)
                    traceback.print_exc()
            return found
    finally:
        forget_program()


def _start(house: RunningHouse, guests: Guests, count: int) -> tuple[Found, list[str]]:
    client = house.client()
    began = time.monotonic()
    ids = guests.create_many(client, count)
    found = {f"{count} x VM.create -> all run, s": time.monotonic() - began}
    for vm_id in ids:
        eventually(lambda vm_id=vm_id: _complete(client, vm_id), within_s=40)  # type: ignore[misc]
    late = []
    for _ in range(3):
        vm_id = str(uuid.uuid4())
        guests.create(client, vm_id)
        eventually(lambda: vm_id in running(client), within_s=60, every_s=0.005)  # noqa: B023
        runs = time.monotonic()
        eventually(lambda: _complete(client, vm_id), within_s=60, every_s=0.02)  # noqa: B023
        late.append(time.monotonic() - runs)
        client.call("VM.destroy", {"vmID": vm_id})
    return found | {"a VM runs -> its statistics are complete, s": max(late)}, ids


def _complete(client: Client, vm_id: str) -> bool:
    (stats,) = client.call("VM.getStats", {"vmID": vm_id})
    return bool(stats["disks"] and stats["balloonInfo"] and stats.get("cpuActual") and "cpuUsage" in stats)


def _watching(house: RunningHouse) -> Found:
    """One whole cycle in which nobody asks anything."""
    virt, pids = house.pid_of("virt"), everybody(house)
    before = cpu_s([virt]), cpu_s(pids)
    time.sleep(CYCLE_S)
    return {
        "virt, CPU in 15 s, ms": (cpu_s([virt]) - before[0]) * 1000,
        "all our processes, CPU in 15 s, ms": (cpu_s(pids) - before[1]) * 1000,
        "virt, PSS, MiB": pss_mib([virt]),
        "all our processes, PSS, MiB": pss_mib(pids),
    }


def pss_mib(pids: list[int]) -> float:
    return sum(smaps_kib(pid, "Pss:") for pid in pids) / 1024


def _calls(house: RunningHouse) -> Found:
    found: Found = {}
    pids = [house.pid_of("virt"), house.pid_of("clientif")]
    client = house.client()
    for verb in ("Host.getAllVmStats", "Host.getVMList", "Host.getVMFullList"):
        for _ in range(10):
            client.call_raw(verb, b"{}")
        before = cpu_s(pids)
        took_ms = [_ms(lambda: client.call_raw(verb, b"{}")) for _ in range(_CALLS)]  # noqa: B023
        found |= {
            f"{verb}, CPU a call, ms": (cpu_s(pids) - before) * 1000 / _CALLS,
            f"{verb}, p50, ms": percentile(took_ms, 0.5),
            f"{verb}, p99, ms": percentile(took_ms, 0.99),
        }
    return found


def _ms(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return (time.perf_counter() - began) * 1000


# Deaths


def _begin_anew(house: RunningHouse) -> None:
    house.terminate()
    house.begin()
    house.wait_ready(60)


def _deaths(house: RunningHouse, repeats: int, count: int) -> Found:
    virt, door, master, cpu = [], [], [], []
    for _ in range(repeats):
        _begin_anew(house)
        with house.client() as client, _pinging(house) as gaps:
            began = time.monotonic()
            pid = house.pid_of("virt")
            os.kill(pid, signal.SIGKILL)
            _until_complete(lambda: client, count, pid, house)
            virt.append(time.monotonic() - began)
            time.sleep(2.0)
            # All that the new one has used in its first seconds, its statistics included.
            cpu.append(cpu_s([house.pid_of("virt")]))
        door.append(max(gaps))
        assert house.process is not None
        house.process.kill()
        house.process.wait(10)
        began = time.monotonic()
        house.begin()
        with contextlib.ExitStack() as stack:
            _until_complete(lambda: stack.enter_context(house.client()), count, 0, house)
        master.append(time.monotonic() - began)
        house.wait_ready(60)
    return {
        "kill -9 of virt -> complete VM list, s": statistics.median(virt),
        "kill -9 of virt, longest wait for a ping2 meanwhile, ms": max(door) * 1000,
        "kill -9 of virt, CPU of the new one until settled, s": statistics.median(cpu),
        "kill -9 of the master, start -> complete VM list, s": statistics.median(master),
    }


def _until_complete(connect: Callable[[], Client], count: int, dead_pid: int, house: RunningHouse) -> None:
    """Ask until the list has all VMs; not the list of the one that is just dying."""
    client: Client | None = None
    until = time.monotonic() + _MOST_S
    while time.monotonic() < until:
        with contextlib.suppress(Error, OSError):
            client = client or connect()
            if len(running(client)) >= count and (dead_pid == 0 or house.pid_of("virt") != dead_pid):
                return
        time.sleep(0.005)
    raise TimeoutError(f"no complete list within {_MOST_S} s")


@contextlib.contextmanager
def _pinging(house: RunningHouse) -> Iterator[list[float]]:
    """Somebody asks the door all the time; the seconds each answer took. An error ends it and is raised here."""
    took: list[float] = []
    stop = threading.Event()
    failed: list[BaseException] = []

    def ping() -> None:
        try:
            with house.client() as client:
                while not stop.wait(0.005):
                    took.append(_ms(lambda: client.call("Host.ping2")) / 1000)
        except (Error, OSError) as error:
            failed.append(error)

    thread = threading.Thread(target=ping)
    thread.start()
    try:
        time.sleep(0.1)
        yield took
    finally:
        stop.set()
        thread.join()
    if failed:
        raise failed[0]


# Some hang


def _stuck(house: RunningHouse, guests: Guests, ids: list[str]) -> Found:
    """The same work on VMs that are well, alone and while others hang with calls waiting in them.

    A millisecond is little beside what a busy machine makes of it, so our processes and libvirtd go first.
    """
    house.config_file.write_text(house.config_file.read_text().replace("[vars]\n", f"[vars]\n{_QUICK}"))
    _begin_anew(house)
    sick, well = ids[:STUCK], ids[STUCK:]
    client = house.client()
    eventually(lambda: all("cpuUsage" in entry for entry in client.call("Host.getAllVmStats")), within_s=20)
    first = [os.getpid(), guests.libvirtd.pid, *everybody(house)]
    with before_all_others(first):
        before = _work(client, guests, well)
    with guests.frozen(sick), contextlib.ExitStack() as stack:
        for vm_id in sick[:3]:
            caller = stack.enter_context(house.client())
            caller.start("VM.pause", json.dumps({"vmID": vm_id}).encode())
        eventually(lambda: _silent(client) == set(sick), within_s=45, every_s=0.2)
        with before_all_others(first):
            meanwhile = _work(client, guests, well)
        earlier = _cpu_usage(client)
        time.sleep(6)
        later = _cpu_usage(client)
        silent = _silent(client)
    eventually(lambda: not _silent(client), within_s=60, every_s=0.2)
    # Before and after, because what else the machine does changes meanwhile.
    with before_all_others(first):
        for what, took in _work(client, guests, well).items():
            before[what] += took
    found: Found = {
        f"{_STOPPED}: told as not responding": len(silent & set(sick)),
        f"{_STOPPED}: others told as not responding": len(silent - set(sick)),
        f"{_STOPPED}: others with fresh statistics, part": sum(later[vm] > earlier[vm] for vm in well) / len(well),
    }
    for what, took in meanwhile.items():
        found[f"{what} {_BESIDE}, p50"] = percentile(took, 0.5) / percentile(before[what], 0.5)
        found[f"{what} {_BESIDE}, p99"] = percentile(took, 0.99) / percentile(before[what], 0.99)
    return found


def _silent(client: Client) -> set[str]:
    return {entry["vmId"] for entry in client.call("Host.getAllVmStats") if entry.get("monitorResponse") == "-1"}


def _cpu_usage(client: Client) -> dict[str, int]:
    return {entry["vmId"]: int(entry["cpuUsage"]) for entry in client.call("Host.getAllVmStats")}


def _work(client: Client, guests: Guests, well: list[str]) -> dict[str, list[float]]:
    """{verb: milliseconds of each call}."""
    took: dict[str, list[float]] = {}
    for vm_id in well:
        for verb in ("VM.pause", "VM.cont", "VM.getStats"):
            took.setdefault(verb, []).append(_ms(lambda: client.call(verb, {"vmID": vm_id})))  # noqa: B023
    took["Host.getAllVmStats"] = [_ms(lambda: client.call_raw("Host.getAllVmStats", b"{}")) for _ in range(100)]
    for _ in range(8):
        vm_id = str(uuid.uuid4())
        began = time.perf_counter()
        guests.create(client, vm_id)
        eventually(lambda: vm_id in running(client), within_s=60, every_s=0.005)  # noqa: B023
        took.setdefault("VM.create until it runs", []).append((time.perf_counter() - began) * 1000)
        took.setdefault("VM.destroy", []).append(_ms(lambda: client.call("VM.destroy", {"vmID": vm_id})))  # noqa: B023
    return took


# libvirtd


def _libvirtd_dies(house: RunningHouse, libvirtd: PrivateLibvirtd, ids: list[str]) -> Found:
    """One VM ends and one is found paused while nobody listens: both must be told afterwards."""
    ended = ids[-1]
    with house.client() as client:
        client.subscribe()
        qemu = libvirtd.qemu_pid(f"vm-{ended[:8]}")
        libvirtd.kill()
        os.kill(qemu, signal.SIGKILL)
        answers: list[float] = []

        def launch() -> None:
            libvirtd.launch()
            answers.append(time.monotonic())

        launching = threading.Thread(target=launch)
        launching.start()
        told: list[tuple[str, str]] = []
        for event in client.events(timeout_s=_MOST_S):
            told += [(key, info["status"]) for key, info in event.params.items() if isinstance(info, dict)]
            if (ended, "Down") in told:
                break
        told_mono = time.monotonic()
        launching.join()
        known = len(running(client))
    return {
        "libvirtd answers virsh again -> what was missed is told, s": told_mono - answers[0],
        "libvirtd restarted: VMs known afterwards, part": known / (len(ids) - 1),
        "libvirtd restarted: changes told that did not happen": len(told) - told.count((ended, "Down")),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vms", type=int, default=100)
    parser.add_argument("--repeats", type=int, default=3, help="deaths of each kind")
    parser.add_argument("--json", type=Path, help="write the figures there, too")
    options = parser.parse_args()
    found = measure(options.vms, options.repeats)
    for what, value in found.items():
        print(f"{what:80}{value:10.3f}")
    if options.json is not None:
        options.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
