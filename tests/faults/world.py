# SPDX-License-Identifier: Apache-2.0
"""The world of a fault run: a whole house with guests, storage, its engine and its load, and everything written down.

    with World.open(guests=3, callers=50, per_s=50) as world:
        with world.fault("virt") as fault:
            …
        record = world.close()

The house runs as installed: user vdsm, sudo, TLS; libvirtd and QEMU are real ones in a namespace of their own. The
harness is the engine: it has the SPM started again when storage came back, looks at the list of tasks, and goes on
making volumes. Nothing outlives the run.
"""

import contextlib
import os
import random
import shutil
import tempfile
import threading
import time
import uuid
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Self

from tests.faults.checker import Beat, Held, Record, Sighting, Size, TaskLife, grown
from tests.faults.load import Load, Question
from tests.support.bootsector import hellos
from tests.support.eventually import eventually
from tests.support.house import RunningHouse
from tests.support.libvirtd import PrivateLibvirtd
from tests.system import test_storage_house as storage
from tests.system.virt.test_vm_house import Guest
from vdsm_mp.common import controlsocket, kernel
from vdsm_mp.common.errors import Error
from vdsm_mp.wire.client import Client
from vdsm_mp.wire.tls import client_context

#: How often the harness looks at the master while it waits for something.
POLL_S = 0.005
#: A minute after the last fault processes are as large as before, and are measured once more then.
BACK_TO_NORMAL_S = 75.0
#: What is called quiet begins so long after the end of a fault.
AFTERMATH_S = 1.0


@dataclass
class Fault:
    """One injection. victim: the worker whose calls are concerned; "" = all are. Seconds, None = not measured.

    waited_s: the back-off that the master keeps before it starts a worker that dies often; no part of what is measured.
    """

    victim: str
    at_mono: float
    until_mono: float = 0.0
    seen_s: float | None = None
    ready_s: float | None = None
    waited_s: float = 0.0
    happened: bool = False
    broken: list[str] = field(default_factory=list)
    numbers: dict[str, float] = field(default_factory=dict)


class World:
    """See the module."""

    def __init__(self, *, guests: int, callers: int, per_s: float, seed: int) -> None:
        self._stack = contextlib.ExitStack()
        self.faults: list[Fault] = []
        self.record = Record()
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []
        self._crashed: list[BaseException] = []
        self._role = threading.Event()
        #: VMs whose end is part of an injection.
        self.may_end: set[str] = set()
        try:
            self.libvirtd = self._stack.enter_context(PrivateLibvirtd.start())
            self.house = self._stack.enter_context(RunningHouse.start(tls=True, libvirt_uri=self.libvirtd.uri))
            self.data = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="vdsm-mp-data-", dir="/tmp")))
            shutil.chown(self.data, "vdsm", "kvm")
            self.data.chmod(0o755)
            storage.make(self.house, self.data)
            self._role.set()
            self.volume = (str(uuid.uuid4()), str(uuid.uuid4()))
            storage.finish(self.house, storage.create_volume(self.house, *self.volume))
            self.guests = [Guest(self.house, self.libvirtd) for _ in range(guests)]
            #: The one that clients pause and continue; it does not have to tick.
            self.toy = Guest(self.house, self.libvirtd)
            self.load = Load(self.connect, self.questions(), callers=callers, per_s=per_s, seed=seed)
        except BaseException:
            self._stack.close()
            raise

    @classmethod
    @contextlib.contextmanager
    def open(cls, *, guests: int = 2, callers: int = 50, per_s: float = 50.0, seed: int = 1) -> Iterator[Self]:
        """A world with its load running; close() judges nothing, it only ends it."""
        world = cls(guests=guests, callers=callers, per_s=per_s, seed=seed)
        try:
            world._begin()
            yield world
        finally:
            world.end()

    # Clients

    def connect(self) -> Client:
        assert self.house.files is not None
        return Client("127.0.0.1", self.house.port, context=client_context(self.house.files))

    def questions(self) -> list[Question]:
        def vm(rng: random.Random) -> dict[str, str]:
            return {"vmID": rng.choice([*self.guests, self.toy]).vm_id}

        def toy(_: random.Random) -> dict[str, str]:
            return {"vmID": self.toy.vm_id}

        image_id, volume_id = self.volume
        volume = {
            "storagepoolID": storage.POOL, "storagedomainID": storage.SD, "imageID": image_id, "volumeID": volume_id,
        }  # fmt: skip
        return [
            Question("Host.ping2", 25),
            Question("Host.getAllVmStats", 15),
            Question("Host.getVMList", 5),
            Question("VM.getStats", 8, vm),
            Question("Host.getStats", 10),
            Question("Host.getCapabilities", 2),
            Question("Host.getJobs", 3),
            Question("Host.ping", 8),
            Question("Host.getAllTasksStatuses", 5),
            Question("StoragePool.getSpmStatus", 5, lambda _: {"storagepoolID": storage.POOL}),
            Question("StorageDomain.getStats", 3, lambda _: {"storagedomainID": storage.SD}),
            Question("Volume.getInfo", 3, lambda _: volume),
            Question("VM.pause", 4, toy),
            Question("VM.cont", 4, toy),
        ]

    def _begin(self) -> None:
        self.load.start()
        for work in (self._watch_guests, self._watch_zombies, self._make_tasks, self._hear_events):
            thread = threading.Thread(target=self._guarded, args=(work,), daemon=True)
            self._threads.append(thread)
            thread.start()
        time.sleep(3)  # every client has connected and asked: from here on sizes are compared
        self.record.sizes.append(self.sizes())

    def _guarded(self, work: Any) -> None:
        try:
            work()
        except BaseException as error:
            self._crashed.append(error)

    # Ending

    def settle(self) -> None:
        """Quiet time and the last looks; then load and recorders end. Raises what the harness itself stumbled over."""
        time.sleep(3)
        # Threads made for a busy time end when they were idle for a while.
        until = time.monotonic() + BACK_TO_NORMAL_S
        while grown([self.record.sizes[0], now := self.sizes()]) and time.monotonic() < until:
            time.sleep(2)
        self.record.sizes.append(now)
        self._stop.set()
        self._role.set()
        for thread in self._threads:
            thread.join(60)
        self.load.stop()
        if self._crashed:
            raise self._crashed[0]

    def end(self) -> None:
        self._stop.set()
        self._role.set()
        try:
            with contextlib.suppress(BaseException):
                self.load.stop()
        finally:
            self._stack.close()

    # What is recorded all the time

    def _watch_guests(self) -> None:
        while not self._stop.wait(1.0):
            for guest in self.guests:
                beats = self.record.guests.setdefault(guest.vm_id, [])
                beats.append(Beat(time.monotonic(), guest.ticks, hellos(guest.serial)))

    def _watch_zombies(self) -> None:
        """Zombies of ours that stay: their parent had five seconds to notice, and was not frozen by us meanwhile."""
        looks: Counter[int] = Counter()
        while not self._stop.wait(1.0):
            ours = set(self.house.all_pids())
            now = {f.pid: f for f in kernel.processes() if f.state == "Z" and f.parent in ours}
            looks = Counter({pid: looks[pid] + 1 for pid in now})
            self.record.zombies += [
                f"{f.pid} {f.name}, child of {kernel.process(f.parent)}" for f in now.values() if looks[f.pid] == 6
            ]

    def _hear_events(self) -> None:
        """No guest that lives is ever told to be Down."""
        while not self._stop.is_set():
            try:
                with self.connect() as client:
                    client.subscribe()
                    while not self._stop.is_set():
                        for event in client.events(timeout_s=0.5):
                            self._take_event(event.method, dict(event.params))
            except Error:
                self._stop.wait(0.2)

    def _take_event(self, method: str, params: dict[str, Any]) -> None:
        vm_id = method.rpartition("|")[2]
        told = params.get(vm_id)
        ended = method.startswith("|virt|VM_status|") and isinstance(told, dict) and told.get("status") == "Down"
        if ended and vm_id not in self.may_end:
            self.record.died.append(vm_id)

    def _make_tasks(self) -> None:
        """Makes volumes, one after the other, as long as the role is there; clears what has ended."""
        while not self._stop.wait(0.3):
            if not self._role.wait(1.0):
                continue
            try:
                image_id, volume_id = str(uuid.uuid4()), str(uuid.uuid4())
                task = TaskLife(storage.create_volume(self.house, image_id, volume_id), time.monotonic())
                self.record.tasks.append(task)
                eventually(partial(self._ended, task), within_s=20, every_s=0.1)
            except (Error, AssertionError):
                continue  # the worker died, or the role is gone: the next look at the list judges

    def _ended(self, task: TaskLife) -> bool:
        if self._stop.is_set() or not self._role.is_set():
            return True
        if self.house.call("Task.getStatus", {"taskID": task.id})["taskState"] != "finished":
            return False
        task.clear_asked = time.monotonic()
        self.house.call("Task.clear", {"taskID": task.id})
        return True

    def sizes(self) -> dict[str, Size]:
        """What the processes of the house hold now."""
        status = self.house.status()
        pids = {name: worker["pid"] for name, worker in status["workers"].items()} | {"master": status["pid"]}
        return {name: _size(pid) for name, pid in pids.items()}

    # Faults

    @contextlib.contextmanager
    def fault(self, victim: str) -> Iterator[Fault]:
        """The time from the injection until all is as before; what is asked within it is compared with quiet times."""
        fault = Fault(victim, time.monotonic())
        touches_storage = victim in ("storage", "")
        if touches_storage:
            self._role.clear()
        try:
            yield fault
        finally:
            fault.until_mono = time.monotonic()
            self._storage_works_again(fault, lost_is_fine=touches_storage)
            self.faults.append(fault)

    @contextlib.contextmanager
    def faults_together(self, victims: Sequence[str]) -> Iterator[dict[str, Fault]]:
        """One fault for each victim, all at once: every call is concerned."""
        with self.fault("") as first:
            found = {victims[0]: first, **{name: Fault("", first.at_mono) for name in victims[1:]}}
            yield found
        for fault in list(found.values())[1:]:
            fault.until_mono = first.until_mono
            self.faults.append(fault)

    def _storage_works_again(self, fault: Fault, *, lost_is_fine: bool) -> None:
        try:
            if not lost_is_fine and storage.spm_status(self.house) != "SPM":
                fault.broken.append("the SPM role was lost, though storage was not touched")
            self.take_role()
        except (Error, AssertionError) as error:
            fault.broken.append(f"storage did not come back to work: {error}")

    def recover(self) -> None:
        """After an injection that went wrong: what is needed for the next one to mean anything."""
        if self.house.process is None or self.house.process.poll() is not None:
            self.house.begin()
        self.house.wait_ready(60)
        self.take_role()

    def take_role(self) -> None:
        """What an engine does when storage is back; then a look at the tasks."""
        eventually(self._connected, within_s=30, every_s=0.1)
        if storage.spm_status(self.house) != "SPM":
            storage.become_spm(self.house)
        since = time.monotonic()
        self._role.set()
        self.look_at_tasks()
        self.record.held.append(Held("this host", since, time.monotonic()))

    def _connected(self) -> bool:
        """The pool is there: a killed worker remembers it, a new house has to be told."""
        try:
            storage.spm_status(self.house)
        except Error as error:
            if error.code != 309:
                return False
            storage.connect(self.house, self.data)
            storage.connect_pool(self.house)
        return True

    def look_at_tasks(self) -> None:
        asked = time.monotonic()
        ids = frozenset(self.house.call("Host.getAllTasksStatuses"))
        self.record.sightings.append(Sighting(asked, time.monotonic(), ids))
        for task in self.record.tasks:
            # What ended while nobody watched.
            if task.clear_asked == float("inf") and task.id in ids and task.acknowledged < asked - 30:
                task.clear_asked = time.monotonic()
                with contextlib.suppress(Error):
                    self.house.call("Task.clear", {"taskID": task.id})

    def watch_restart(self, fault: Fault, worker: str, pid: int, *, within_s: float = 40.0) -> None:
        """As `watch_restarts`, of one."""
        self.watch_restarts({worker: fault}, {worker: pid}, within_s=within_s)

    def watch_restarts(self, faults: Mapping[str, Fault], pids: Mapping[str, int], *, within_s: float = 40.0) -> None:
        """Until each worker is ready with another pid; notes when its end was seen and when the next one was ready.

        The back-off is noted and left out of `ready_s`.
        """
        waiting = dict(faults)
        last = time.monotonic()
        while waiting:
            looked = self._look()
            now_mono = time.monotonic()
            for worker, fault in list(waiting.items()):
                if looked is not None and _took(fault, looked[worker], pids[worker], now_mono, now_mono - last):
                    del waiting[worker]
                elif now_mono - fault.at_mono > within_s:
                    fault.happened = True
                    fault.broken.append(f"{worker} was not ready again within {within_s:g} s")
                    del waiting[worker]
            last = now_mono
            time.sleep(POLL_S)

    def _look(self) -> dict[str, Any] | None:
        try:
            found: dict[str, Any] = self.house.status()["workers"]
        except (controlsocket.NotRunning, controlsocket.Refused, OSError):
            return None
        return found

    def until_answers(self, fault: Fault, *, within_s: float = 20.0) -> float:
        """Seconds since the injection until a new client gets a good answer."""

        def answers() -> bool:
            try:
                return bool(self.house.call("Host.ping2", timeout_s=5) is True)
            except Error:
                return False

        try:
            eventually(answers, within_s=within_s, every_s=POLL_S)
        except AssertionError:
            fault.broken.append(f"no client was served within {within_s:g} s")
        return time.monotonic() - fault.at_mono - fault.waited_s


def _took(fault: Fault, found: Mapping[str, Any], pid: int, now_mono: float, since_last_s: float) -> bool:
    """Note what one look says of one victim; whether it is over."""
    gone = found["pid"] != pid
    if fault.seen_s is None and gone:
        fault.seen_s = now_mono - fault.at_mono
    if found["state"] == "waiting":
        fault.waited_s += since_last_s
    if not gone or found["state"] != "ready":
        return False
    fault.ready_s = now_mono - fault.at_mono - fault.waited_s
    fault.happened = True
    return True


def _size(pid: int) -> Size:
    return Size(len(os.listdir(f"/proc/{pid}/fd")), len(os.listdir(f"/proc/{pid}/task")), kernel.rss_kib(pid))
