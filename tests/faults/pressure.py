# SPDX-License-Identifier: Apache-2.0
"""Want of resources, strangers at the door, and deaths again and again: as in `injections`, a function for each."""

import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from tests.faults.injections import CannotRun, until_gone
from tests.faults.world import World
from tests.support.eventually import eventually
from tests.support.roothelpers import as_vdsm
from vdsm_mp.common import controlsocket, kernel


@contextlib.contextmanager
def control_group(kind: str) -> Iterator[Path]:
    """A fresh control group of the old hierarchy, which this kernel may not have."""
    group = Path(f"/sys/fs/cgroup/{kind}/vdsm-mp-fault-{os.getpid()}")
    try:
        group.mkdir()
    except OSError as error:
        raise CannotRun(f"no control group of kind {kind} can be made: {error.strerror}") from error
    try:
        yield group
    finally:
        eventually(lambda: _removed(group), within_s=20)


def _removed(group: Path) -> bool:
    """Move everybody out, also who was forked inside meanwhile, and remove it."""
    try:
        for pid in (group / "cgroup.procs").read_text().split():
            with contextlib.suppress(OSError):
                (group.parent / "cgroup.procs").write_text(pid)
        group.rmdir()
    except OSError:
        return not group.exists()
    return True


def no_more_processes(world: World) -> None:
    """pids.max at what is there: nothing can be forked, by worker or master. Then room again."""
    with world.fault("") as fault, control_group("pids") as group:
        pids = [int(entry) for entry in world.house.all_pids()]
        for pid in pids:
            (group / "cgroup.procs").write_text(str(pid))
        (group / "pids.max").write_text((group / "pids.current").read_text())
        pid = world.house.pid_of("scheduler")
        os.kill(pid, signal.SIGKILL)
        until_gone([pid], 5.0)
        # Its place may be taken by the next one; a thread more, and nobody can fork.
        (group / "pids.max").write_text("1")
        time.sleep(1.5)
        fault.happened = True
        if world.house.call("Host.ping2") is not True:
            fault.broken.append("the door did not answer while nothing could be forked")
        (group / "pids.max").write_text("max")
        eventually(lambda: world.house.worker("scheduler")["state"] == "ready", within_s=20)
        if world.house.process is not None and world.house.process.poll() is not None:
            fault.broken.append("the master ended")


def little_processor(world: World) -> None:
    """A worker gets a twentieth of one processor: slow, and not taken for hung."""
    pid = world.house.pid_of("scheduler")
    with world.fault("scheduler") as fault, control_group("cpu") as group:
        try:
            (group / "cpu.cfs_period_us").write_text("100000")
            (group / "cpu.cfs_quota_us").write_text("5000")
            (group / "cgroup.procs").write_text(str(pid))
        except OSError as error:
            raise CannotRun(f"processor time cannot be limited here: {error.strerror}") from error
        time.sleep(8)
        fault.happened = True
        if world.house.pid_of("scheduler") != pid:
            fault.broken.append("a worker that was short of processor time was killed")


def busy_neighbours(world: World) -> None:
    """Four programs that take all processor time, before everybody else."""
    before = world.house.all_pids()[:6]
    with world.fault("none") as fault:
        hogs = [
            subprocess.Popen(["nice", "-n", "-20", "sh", "-c", "while :; do :; done"], start_new_session=True)
            for _ in range(4)
        ]
        try:
            time.sleep(8)
            fault.happened = True
        finally:
            for hog in hogs:
                hog.kill()
                hog.wait()
        if world.house.all_pids()[:6] != before:
            fault.broken.append("workers were taken for hung while others took the processors")


def no_more_descriptors(world: World) -> None:
    """The door may open hardly any more: clients are kept waiting, those it has are served, then all is well again."""
    pid = world.house.pid_of("clientif")
    held = len(os.listdir(f"/proc/{pid}/fd"))
    with world.connect() as kept, world.fault("none") as fault:
        before = _limit(pid, held + 8)
        used = kernel_ticks(pid)
        socks = []
        try:
            for _ in range(60):
                with contextlib.suppress(OSError):
                    socks.append(socket.create_connection(("127.0.0.1", world.house.port), timeout=5))
            time.sleep(3)
            fault.happened = len(os.listdir(f"/proc/{pid}/fd")) >= held
            if kept.call("Host.ping2", timeout_s=10) is not True:
                fault.broken.append("a client that was there was not served while descriptors were short")
            fault.numbers["processor share of the door"] = (kernel_ticks(pid) - used) / 100 / 3
        finally:
            _limit(pid, before)
            for sock in socks:
                sock.close()
        fault.ready_s = world.until_answers(fault)
        if world.house.pid_of("clientif") != pid:
            fault.broken.append("the door was restarted")


def _limit(pid: int, descriptors: int) -> int:
    """Set how many descriptors a process may have; how many it might before. Its own user may everywhere, root not."""
    lines = Path(f"/proc/{pid}/limits").read_text().splitlines()
    before = int(next(line for line in lines if line.startswith("Max open files")).split()[3])
    words = ["prlimit", "--pid", str(pid), f"--nofile={descriptors}:"]
    done = subprocess.run([*as_vdsm(), *words], capture_output=True, text=True, timeout=20, check=False)
    if done.returncode:
        raise CannotRun(f"limits of another process cannot be set here: {done.stderr.strip()}")
    return before


def kernel_ticks(pid: int) -> int:
    words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(words[11]) + int(words[12])


def move_logs(world: World) -> None:
    """Log files moved away, SIGHUP ten times in a second, the folder without rights for a moment."""
    log = world.house.root / "log"
    before = world.house.all_pids()[:6]
    with world.fault("none") as fault:
        assert world.house.process is not None
        for number in range(10):
            with contextlib.suppress(FileNotFoundError):
                (log / "vdsm.log").rename(log / f"vdsm.log.{number}")
            if number == 5:
                log.chmod(0o000)
            world.house.process.send_signal(signal.SIGHUP)
            time.sleep(0.1)
            log.chmod(0o755)
        world.house.process.send_signal(signal.SIGHUP)
        fault.happened = True
        eventually((log / "vdsm.log").exists, within_s=5)
        if world.house.all_pids()[:6] != before:
            fault.broken.append("moving log files cost a process")


def idle_operators(world: World) -> None:
    """Forty callers at the control socket who never ask; it is free again by itself."""
    path = str(world.house.root / "run/control.sock")
    with world.fault("none") as fault:
        socks = []
        for _ in range(40):
            sock = socket.socket(socket.AF_UNIX)
            sock.settimeout(2)
            with contextlib.suppress(OSError):
                sock.connect(path)
                socks.append(sock)
        fault.happened = len(socks) >= 16

        def asked() -> bool:
            try:
                return bool(world.house.status()["pid"])
            except (controlsocket.NotRunning, controlsocket.Refused, OSError, ValueError):
                return False

        try:
            eventually(asked, within_s=20)
        finally:
            for sock in socks:
                sock.close()


def many_connections(world: World, count: int) -> None:
    """Connections that say nothing, or half a hello; from other addresses than the load's."""
    pid = world.house.pid_of("clientif")
    with world.connect() as kept, world.fault("none") as fault:
        rss = kernel.rss_kib(pid)
        socks = []
        worst = 0.0
        hello = bytes.fromhex("16030100c8010000c40303")
        for number in range(count):
            with contextlib.suppress(OSError):
                source = (f"127.0.{1 + number % 100}.{2 + number // 100 % 100}", 0)
                sock = socket.create_connection(("127.0.0.1", world.house.port), 5, source_address=source)
                socks.append(sock)
                if number % 2:
                    sock.send(hello)
            if number % 200 == 0:
                began = time.monotonic()
                kept.call("Host.ping2", timeout_s=20)
                worst = max(worst, time.monotonic() - began)
        fault.numbers |= {"connections": len(socks), "slowest ping": worst}
        fault.numbers["memory MiB"] = (kernel.rss_kib(pid) - rss) / 1024
        fault.happened = len(socks) > count // 2
        for sock in socks:
            sock.close()
        fault.ready_s = world.until_answers(fault)
        if world.house.pid_of("clientif") != pid:
            fault.broken.append("the door was restarted")


def garbage(world: World) -> None:
    """Other protocols at the port: each connection is closed, and nobody else notices."""
    pid = world.house.pid_of("clientif")
    words = [
        b"GET / HTTP/1.1\r\n\r\n", b"\0" * 64, b"\xff" * 1000, b"CONNECT\naccept-version:1.2\n\n\0", b"SSH-2.0-x\r\n",
        bytes.fromhex("160300ffff") + b"\1" * 200, bytes.fromhex("80800103010057000000200000"), b"{}" * 500,
    ]  # fmt: skip
    with world.fault("none") as fault, contextlib.ExitStack() as stack:
        closed, socks = 0, list[socket.socket]()
        for word in words:
            socks.append(stack.enter_context(socket.create_connection(("127.0.0.1", world.house.port), 5)))
            socks[-1].sendall(word)
        for sock in socks:
            sock.settimeout(15)
            with contextlib.suppress(TimeoutError):
                with contextlib.suppress(ConnectionResetError):
                    while sock.recv(4096):
                        pass
                closed += 1
        fault.happened = closed == len(words)
        if not fault.happened:
            fault.broken.append(f"only {closed} of {len(words)} connections full of garbage were closed within 15 s")
        if world.house.pid_of("clientif") != pid:
            fault.broken.append("the door was restarted")


def storm(world: World, worker: str, for_s: float = 22.0) -> None:
    """The worker is killed whenever it is ready: restarted ever later, called degraded, and the master stays calm."""
    master = world.house.status()["pid"]
    log = world.house.root / "log"
    with world.fault(worker) as fault:
        used = kernel_ticks(master)
        size = sum(path.stat().st_size for path in log.iterdir())
        deaths = 0
        while time.monotonic() - fault.at_mono < for_s:
            found = world.house.worker(worker)
            if found["state"] == "ready":
                with contextlib.suppress(ProcessLookupError):
                    os.kill(found["pid"], signal.SIGKILL)
                    deaths += 1
                eventually(lambda found=found: world.house.worker(worker)["pid"] != found["pid"], within_s=5)  # type: ignore[misc]
            time.sleep(0.1)
        fault.happened = deaths > 3
        fault.numbers["deaths"] = deaths
        fault.numbers["processor share of the master"] = (kernel_ticks(master) - used) / 100 / for_s
        fault.numbers["log MiB"] = (sum(path.stat().st_size for path in log.iterdir()) - size) / 2**20
        if deaths > 8:
            fault.broken.append(f"{deaths} restarts within {for_s:g} s: the back-off does not hold")
        if world.house.status()["verdict"] != "degraded":
            fault.broken.append("a worker that keeps dying is not called degraded")
        if world.house.worker(worker)["state"] != "ready":
            world.house.ask("restart", worker=worker)
        eventually(lambda: world.house.worker(worker)["state"] == "ready", within_s=40)


def race_masters(world: World) -> None:
    """Four more masters at once beside the one that serves: all give way and leave it alone."""
    house = world.house
    first, pids = house.process, house.all_pids()[:6]
    with world.fault("none") as fault:
        racers = []
        try:
            for _ in range(4):
                house.begin()
                assert house.process is not None
                racers.append(house.process)
        finally:
            house.process = first
        codes = [racer.wait(30) for racer in racers]
        fault.happened = True
        if codes != [3] * 4:
            fault.broken.append(f"second masters ended with {codes}, not 3")
        if house.all_pids()[:6] != pids:
            fault.broken.append("second masters cost the first one a process")
