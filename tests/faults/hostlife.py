# SPDX-License-Identifier: Apache-2.0
"""What an administrator's host does to a house under load: an upgrade, a log disk that hangs, want of memory.

Like `injections`: each sets `happened` only when it saw that the harm was real.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from tests.faults.injections import CannotRun, until_gone
from tests.faults.pressure import control_group
from tests.faults.world import Fault, World
from tests.support.eventually import eventually
from tests.support.house import program
from vdsm_mp.common import kernel
from vdsm_mp.common.errors import Error

#: Long enough for several heartbeats and restarts while it lasts.
_LASTS_S = 8.0
#: What the group may have, and what is left of it: less than a worker needs to start.
_GROUP_BYTES, _SPARED_BYTES = 192 << 20, 2 << 20


def upgrade(world: World) -> None:
    """A newer program is installed and a worker dies: the house ends by itself, the next one runs the new program."""
    house = world.house
    assert house.process is not None
    pids, build = house.all_pids(), house.status()["build"]
    changed = program() / "vdsm_mp/cli/watch.py"
    facts = changed.stat()
    with world.fault("") as fault:
        os.utime(changed, ns=(facts.st_atime_ns, facts.st_mtime_ns + 10_000_000))
        time.sleep(1.0)
        if house.all_pids()[:6] != pids[:6]:
            fault.broken.append("the mere installation of another program cost a process")
        os.kill(house.pid_of("virt"), signal.SIGKILL)
        began = time.monotonic()
        code = house.process.wait(40)
        fault.numbers["changes over"] = time.monotonic() - began
        if code != 1:
            fault.broken.append(f"the old house ended with {code}, so supervisord would not start the new one")
        if left := until_gone(pids, 2.0):
            fault.broken.append(f"processes of the old program outlived its house: {left}")
        began = time.monotonic()
        house.begin()
        world.until_answers(fault)
        fault.ready_s = time.monotonic() - began
        house.wait_ready()
        fault.happened = house.status()["build"] != build


@contextlib.contextmanager
def log_disk(world: World) -> Iterator[Path]:
    """A small file system in place of the log folder, with the writer on it."""
    folder, image = world.house.root / "log", world.house.root / "log.img"
    owner = folder.stat()
    with open(image, "wb") as file:
        file.truncate(32 << 20)
    subprocess.run(["mke2fs", "-q", "-F", "-t", "ext4", str(image)], check=True)
    if subprocess.run(["mount", "-o", "loop", str(image), str(folder)], check=False).returncode:
        raise CannotRun("no loop device can be mounted here")
    try:
        os.chown(folder, owner.st_uid, owner.st_gid)
        assert world.house.process is not None
        world.house.process.send_signal(signal.SIGHUP)
        eventually((folder / "vdsm.log").exists, within_s=10)
        yield folder
        # What was written there belongs to the log of the run.
        shutil.copy(folder / "vdsm.log", world.house.root / "log-disk.log")
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)
    shutil.move(world.house.root / "log-disk.log", folder / f"disk-{time.monotonic_ns()}.log")


def hang_the_log(world: World) -> None:
    """The log's file system is frozen: nobody but the writer waits, and a worker that dies meanwhile is back."""
    house = world.house
    with log_disk(world) as folder, world.fault("network") as fault:
        pid = house.pid_of("network")
        writer = int(house.status()["log"]["pid"])
        subprocess.run(["fsfreeze", "--freeze", str(folder)], check=True)
        try:
            os.kill(pid, signal.SIGKILL)
            world.watch_restart(fault, "network", pid)
            slowest_s, until = 0.0, time.monotonic() + _LASTS_S
            while time.monotonic() < until:
                began = time.monotonic()
                house.status()
                slowest_s = max(slowest_s, time.monotonic() - began)
                time.sleep(0.1)
            fault.numbers["slowest status"] = slowest_s
            facts = kernel.process(writer)
            fault.happened = fault.happened and facts is not None and facts.state == "D"
            if not house.status()["log"]["stuck"]:
                fault.broken.append("nobody is told that the log is not written")
        finally:
            subprocess.run(["fsfreeze", "--unfreeze", str(folder)], check=True)
        eventually(lambda: not house.status()["log"]["waiting_bytes"], within_s=20)


def want_of_memory(world: World) -> None:
    """The house shares a memory group with a program that takes all of it and that the kernel must spare."""
    house = world.house
    with world.fault("") as fault, control_group("memory") as group:
        try:
            (group / "memory.limit_in_bytes").write_text(str(_GROUP_BYTES))
        except OSError as error:
            raise CannotRun(f"memory cannot be limited here: {error.strerror}") from error
        writer = int(house.status()["log"]["pid"])
        pids = [*house.all_pids(), writer]
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                (group / "cgroup.procs").write_text(str(pid))
        with memory_hog(group, _GROUP_BYTES, pids):
            eventually(lambda: _usage(group) > _GROUP_BYTES - 2 * _SPARED_BYTES, within_s=20)
            os.kill(house.pid_of("network"), signal.SIGKILL)  # the next one needs memory of its own
            time.sleep(_LASTS_S)
            fault.happened = _kills(group) > 0
        _back(world, fault)


@contextlib.contextmanager
def memory_hog(group: Path, most_bytes: int, victims: list[int], *, until_killed: bool = False) -> Iterator[None]:
    """A program that takes in small steps what a group of so many bytes has left, what others let go included; the
    kernel kills the victims first. until_killed: it takes more than there is, and may be the next one to be killed."""
    # To spare the program itself takes a capability that a container may lack.
    before = dict[Path, str]()
    for pid in victims:
        path = Path(f"/proc/{pid}/oom_score_adj")
        with contextlib.suppress(OSError):
            before[path] = path.read_text()
            path.write_text("1000")
    code = f"""
import os, time
open("{group}/cgroup.procs", "w").write(str(os.getpid()))
kept = []

def wanted():
    if {until_killed}:
        return "oom_kill 0" in open("{group}/memory.oom_control").read()
    return int(open("{group}/memory.usage_in_bytes").read()) < {most_bytes - _SPARED_BYTES}

while True:
    if wanted():
        kept.append(bytearray(b"x" * (1 << 20)))
    else:
        time.sleep(0.01)
"""
    hog = subprocess.Popen([sys.executable, "-c", code])
    try:
        yield
        if hog.poll() is not None and not until_killed:
            raise CannotRun("the kernel kills the program that takes the memory, not who needs it")
    finally:
        hog.kill()
        hog.wait(10)
        for path, score in before.items():
            with contextlib.suppress(OSError):
                path.write_text(score)


def _usage(group: Path) -> int:
    return int((group / "memory.usage_in_bytes").read_text())


def _kills(group: Path) -> int:
    rows = dict(line.split() for line in (group / "memory.oom_control").read_text().splitlines())
    return int(rows.get("oom_kill", 0))


def _back(world: World, fault: Fault) -> None:
    """When the memory is there again; the master may have been the victim, and then supervisord starts another one."""
    house, began = world.house, time.monotonic()
    assert house.process is not None
    if house.process.poll() is not None:
        fault.numbers["master killed"] = 1.0
        house.begin()

    def served() -> bool:
        try:
            return bool(house.ready()) and house.call("Host.ping2", timeout_s=5) is True
        except (Error, OSError):
            return False

    # Workers that were killed often wait their back-off: up to thirty seconds.
    eventually(served, within_s=60)
    fault.numbers["serves again"] = time.monotonic() - began
