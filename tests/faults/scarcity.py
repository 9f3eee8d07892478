# SPDX-License-Identifier: Apache-2.0
"""A house under load runs out of what its host has: room or inodes on its disks, the memory of one worker, a log disk
that is full, a thousand programs asked for at once, folders for temporary files that take nothing.

Like `injections`: each sets `happened` only when it saw that the harm was real.
"""

import contextlib
import errno
import os
import shutil
import signal
import subprocess
import threading
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import msgspec

from tests.faults.hostlife import log_disk, memory_hog
from tests.faults.injections import CannotRun
from tests.faults.pressure import control_group
from tests.faults.together import WORKERS
from tests.faults.world import World
from tests.support.eventually import eventually
from tests.system.test_storage_house import POOL, SD
from vdsm_mp.api.errors import RemoteError
from vdsm_mp.common import kernel
from vdsm_mp.common.errors import Error

#: Longer than a worker that cannot start waits before it is tried again.
_LASTS_S = 6.0
_FOLDERS = ("run", "vrun", "state", "log")
_DISK_BYTES, _DISK_INODES = 24 << 20, 600
#: Runs qemu-img for each.
_ASKED = "Volume.getQemuImageInfo"


# --- room


@contextlib.contextmanager
def _small_disk(world: World) -> Iterator[Path]:
    """One file system of 24 MiB and 600 inodes for sockets, state and logs of a house that is started on it."""
    house, disk = world.house, world.house.root / "small"
    disk.mkdir()
    options = f"size={_DISK_BYTES},nr_inodes={_DISK_INODES},mode=0755"
    if subprocess.run(["mount", "-t", "tmpfs", "-o", options, "small", disk], check=False).returncode:
        raise CannotRun("nothing can be mounted here")
    with contextlib.ExitStack() as mounted:
        mounted.callback(subprocess.run, ["umount", "--lazy", disk], check=True)
        with world.fault(""):
            house.terminate(within_s=20)
            for name in _FOLDERS:
                subprocess.run(["cp", "-a", house.root / name, disk / name], check=True)
                subprocess.run(["mount", "--bind", disk / name, house.root / name], check=True)
                mounted.callback(subprocess.run, ["umount", "--lazy", house.root / name], check=True)
            _begin(world)
        yield disk
        with world.fault(""):
            house.terminate(within_s=20)
            kept = (disk / "log/vdsm.log").read_bytes()
            mounted.close()
            (house.root / "log" / f"small-{time.monotonic_ns()}.log").write_bytes(kept)
            _begin(world)
    disk.rmdir()


def _begin(world: World) -> None:
    world.house.begin()
    world.house.wait_ready()
    time.sleep(2.0)  # clients have connected again, and processes are as large as they get


@contextlib.contextmanager
def _filled(disk: Path, *, inodes: bool) -> Iterator[None]:
    """Somebody takes all room, or all inodes, and whatever becomes free again; then all of it is given back."""
    folder, over, once = disk / "filler", threading.Event(), threading.Event()
    folder.mkdir()

    def fill() -> None:
        number = 0
        with open(folder / "octets", "wb", buffering=0) as file:
            while not over.is_set():
                try:
                    if inodes:
                        (folder / str(number)).touch()
                    else:
                        # The file system may find room yet when it writes what it had only noted.
                        file.write(bytes(1024))
                    number += 1
                except OSError:
                    if not once.is_set():
                        subprocess.run(["sync", "-f", folder], check=True)
                        once.set()
                    over.wait(0.005)

    filler = threading.Thread(target=fill)
    filler.start()
    try:
        assert once.wait(30), "the disk could not be filled"
        yield
    finally:
        over.set()
        filler.join(30)
        shutil.rmtree(folder)


def _is_full(disk: Path, *, with_bytes: bool) -> bool:
    try:
        (disk / "one more").write_bytes(b"x" if with_bytes else b"")
    except OSError as error:
        return error.errno == errno.ENOSPC
    finally:
        with contextlib.suppress(OSError):
            (disk / "one more").unlink(missing_ok=True)
    return False


def full_disks(world: World, *, inodes: bool) -> None:
    """All workers die on a host whose disk is full: those that need room say so, and are back when there is some."""
    house = world.house
    with _small_disk(world) as disk, world.faults_together(WORKERS) as faults:
        first = faults["clientif"]
        with _filled(disk, inodes=inodes):
            if house.call("Host.ping2", timeout_s=10) is not True:
                first.broken.append("the door did not answer on a full disk")
            pids = {name: house.pid_of(name) for name in WORKERS}
            for name, pid in pids.items():
                faults[name].at_mono = time.monotonic()
                os.kill(pid, signal.SIGKILL)
            eventually(lambda: all(house.worker(name)["pid"] != pid for name, pid in pids.items()), within_s=20)
            time.sleep(_LASTS_S)
            waiting = {name: house.worker(name) for name in WORKERS}
            full = _is_full(disk, with_bytes=not inodes)
            first.numbers["workers without room"] = sum(found["state"] != "ready" for found in waiting.values())
        freed = time.monotonic()
        for name, fault in faults.items():
            eventually(lambda name=name: house.worker(name)["state"] == "ready", within_s=60)  # type: ignore[misc]
            fault.ready_s = time.monotonic() - freed
            fault.happened = full
            found = waiting[name]
            if found["state"] != "ready" and "space" not in (found["last_death"] or ""):
                fault.broken.append(f"{name} is not there and does not say that there is no room: {found}")
        world.until_answers(first)
        if house.process is None or house.process.poll() is not None:
            first.broken.append("the master ended on a full disk")


def full_log(world: World) -> None:
    """The log's disk is full: nobody waits, a worker that dies is back, and what is lost is counted."""
    house = world.house
    with log_disk(world) as folder, world.fault("network") as fault:
        with _filled(folder, inodes=False):
            pid = house.pid_of("network")
            os.kill(pid, signal.SIGKILL)
            world.watch_restart(fault, "network", pid)
            # Each is a line, and the last block of the log has room for some.
            with world.connect() as client:
                for _ in range(100):
                    with contextlib.suppress(RemoteError):
                        client.call("VM.destroy", {"vmID": str(uuid.uuid4())}, timeout_s=20)
            fault.happened = fault.happened and _is_full(folder, with_bytes=True)
        house.kill_worker("network")

        def counted() -> bool:
            return "lines before this one could not be written" in (folder / "vdsm.log").read_text(errors="replace")

        try:
            eventually(counted, within_s=10)
        except AssertionError:
            fault.broken.append("lines are lost on a full disk, and nobody counts them")


# --- memory


def memory_of_one(world: World, worker: str) -> None:
    """The kernel kills one worker for want of memory in a group of its own; the next one has what it needs."""
    house = world.house
    pid = house.pid_of(worker)
    others = {name: house.pid_of(name) for name in WORKERS if name != worker}
    with control_group("memory") as group, world.fault(worker) as fault:
        room = (kernel.rss_kib(pid) << 10) + (24 << 20)
        try:
            (group / "memory.limit_in_bytes").write_text(str(room))
        except OSError as error:
            raise CannotRun(f"memory cannot be limited here: {error.strerror}") from error
        (group / "cgroup.procs").write_text(str(pid))
        with memory_hog(group, room, [pid], until_killed=True):
            world.watch_restart(fault, worker, pid)
        # The kernel chose the time: what counts begins when the end was seen.
        if fault.seen_s is not None and fault.ready_s is not None:
            fault.numbers["replaced"] = fault.ready_s - fault.seen_s
        fault.seen_s = fault.ready_s = None
        died = house.worker(worker)["last_death"] or ""
        if "out of memory" not in died:
            fault.broken.append(f"{worker} died for want of memory, and is told as: {died}")
        fault.broken += [f"{name} was restarted too" for name, was in others.items() if house.pid_of(name) != was]


# --- programs


def many_programs(world: World, *, requests: int = 1000, clients: int = 10) -> None:
    """A thousand questions that each take a program, at once: few programs run, the others wait or are refused."""
    house = world.house
    image_id, volume_id = world.volume
    params = {"storagepoolID": POOL, "storagedomainID": SD, "imageID": image_id, "volumeID": volume_id}
    outcomes, most, over = Counter[str](), [0], threading.Event()
    storage = house.pid_of("storage")

    def ask() -> None:
        with world.connect() as client:
            ids = [client.start(_ASKED, msgspec.json.encode(params)) for _ in range(requests // clients)]
            for request in ids:
                try:
                    client.wait(request, timeout_s=180, method=_ASKED)
                    outcomes["done"] += 1
                except Error as error:
                    outcomes["refused" if "busy" in str(error) else str(error)] += 1

    def watch() -> None:
        while not over.wait(0.02):
            most[0] = max(most[0], sum(f.name == "qemu-img" and f.parent == storage for f in kernel.processes()))

    with world.fault("storage") as fault:
        threads = [threading.Thread(target=ask) for _ in range(clients)]
        watcher = threading.Thread(target=watch)
        watcher.start()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(300)
        over.set()
        watcher.join(10)
        fault.happened = most[0] > 1 and outcomes["done"] > 0
        fault.numbers |= {"programs at once": most[0], "done": outcomes["done"], "refused": outcomes["refused"]}
        if outcomes["done"] + outcomes["refused"] != requests:
            fault.broken.append(f"{requests} were asked and {dict(outcomes)} answered")
        if house.pid_of("storage") != storage:
            fault.broken.append(f"the storage worker was restarted: {house.worker('storage')['last_death']}")
