# SPDX-License-Identifier: Apache-2.0
"""A worker's life after the fork, the same for all: loop, bus, room, ready, serve, drain, exit code.

    0 asked to leave · 1 crashed · 3 can never start · 70 found itself inconsistent

The loop's heartbeat goes to the master every second; whatever blocks the loop is therefore found out. Every failure
of the master's pipe means that the master is gone: then nothing is left to wait for.
"""

import asyncio
import contextlib
import errno
import faulthandler
import importlib
import logging
import signal
import socket
import time
from collections.abc import Callable, Coroutine, Mapping
from pathlib import Path
from typing import Any

import msgspec

from vdsm_mp.api.events import LogLevelChanged
from vdsm_mp.api.ports import Ports
from vdsm_mp.common import kernel, log
from vdsm_mp.common.options import Config
from vdsm_mp.ipc import control
from vdsm_mp.ipc.dispatch import Dispatch
from vdsm_mp.ipc.handlers import Unhandled
from vdsm_mp.ipc.node import Bus
from vdsm_mp.priv.call import SudoRoot
from vdsm_mp.workers import looking
from vdsm_mp.workers.base import Room
from vdsm_mp.workers.children import ChildrenPort
from vdsm_mp.workers.table import WorkerSpec

BEAT_S = 1.0
#: PSS costs a walk over all pages, as much as five beats; it changes slowly.
PSS_EVERY = 60
#: What the host lacks at the moment is told in one line; a stack would only hide it.
_WANT = frozenset((errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.ENOMEM, errno.EMFILE, errno.ENFILE, errno.EAGAIN))
#: With the master gone, so long for the room to put things down.
ORPHAN_S = 0.5
CRASHED, CANNOT_START = 1, 3


class Place(msgspec.Struct, frozen=True):
    """What the master gives a worker besides its pipe."""

    config: Config
    bus_dir: Path
    token: str
    workers: tuple[WorkerSpec, ...]
    inherited: Mapping[str, socket.socket]


def run(place: Place, spec: WorkerSpec, epoch: int, pipe: socket.socket, stacks_fd: int) -> int:
    """The whole life. Returns the exit code; the caller leaves with os._exit."""
    faulthandler.enable(stacks_fd)
    if spec.confined:
        kernel.give_up_privileges()
        kernel.never_dump()
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    # Threads that hang must not keep us: the loop is left, never closed.
    return loop.run_until_complete(Life(place, spec, epoch, pipe).live())


class Life:
    """See the module."""

    def __init__(self, place: Place, spec: WorkerSpec, epoch: int, pipe: socket.socket) -> None:
        self._place = place
        self._spec = spec
        self._epoch = epoch
        self._pipe = pipe
        self._log = logging.getLogger(spec.name)
        self._room = Room()
        self._leaving: asyncio.Future[float] | None = None
        self._tasks: set[asyncio.Task[Any]] = set()
        self._peers: dict[str, control.Peer] = {}
        self._built = False
        self._beats = 0
        self._failed = ""

    async def live(self) -> int:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(self._uncaught)
        self._leaving = loop.create_future()
        loop.add_reader(self._pipe, self._read_notes)
        loop.add_signal_handler(signal.SIGTERM, self._leave, self._spec.grace_s)
        self._task(self._beat(), "heartbeat")
        spec, place = self._spec, self._place
        callers = [row.name for row in place.workers if spec.name in row.calls]
        self._bus = Bus(
            spec.name, place.bus_dir, epoch=self._epoch, token=place.token, calls=spec.calls, callers=callers
        )
        self._children = ChildrenPort(self._tell_threadsafe(loop))
        self._root = SudoRoot(spec.name, place.config.vdsm_mp.libexec_dir)
        building = asyncio.ensure_future(self._build())
        either: list[asyncio.Future[Any]] = [building, self._leaving]
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        if not building.done():
            # Nothing was promised yet, so there is nothing to put down; a step that hangs must not keep us.
            self._log.info("told to leave before it was ready")
            return 0
        if (error := building.exception()) is not None:
            return await self._cannot_start(error)
        self._tell(control.Ready())
        within_s = await self._leaving
        return await self._drain(within_s)

    async def _build(self) -> None:
        """From an empty process to a room that can answer."""
        spec, place = self._spec, self._place
        module = await asyncio.to_thread(importlib.import_module, spec.main)
        ports = Ports(
            worker=spec.name,
            call=self._bus.caller,
            publish=self._bus.publisher,
            background=self._bus.background,
            children=self._children,
            root=self._root,
            inherited={name: place.inherited[name] for name in spec.inherits},
        )
        self._room = room = module.build(place.config, ports)
        dispatch = Dispatch(spec.name, room.handlers, room.state, room.may_block)
        self._bus.subscribe(LogLevelChanged, _follow_level)
        for event, function in room.subscribes.items():
            self._bus.subscribe(event, function)
        self._bus.on_shutdown(self._prepare)
        await self._bus.start()
        for step in room.on_loop:
            going = step()
            if asyncio.iscoroutine(going):
                self._task(going, "room")
        self._built = True
        for note in list(self._peers.values()):
            self._peer(note)
        for ready_step in room.before_ready:
            await asyncio.to_thread(ready_step)
        self._bus.set_handlers(dispatch)

    async def _cannot_start(self, error: BaseException) -> int:
        permanent = isinstance(error, (Unhandled, ImportError, TypeError))
        if isinstance(error, OSError) and error.errno in _WANT:
            self._log.critical("%s cannot start: %s", self._spec.name, error)
        else:
            self._log.critical("%s cannot start", self._spec.name, exc_info=error)
        self._tell(control.CannotStart(reason=f"{type(error).__name__}: {error}"[:2000]))
        return CANNOT_START if permanent else CRASHED

    # The heartbeat

    async def _beat(self) -> None:
        due_mono = time.monotonic()
        while True:
            late_s = max(0.0, time.monotonic() - due_mono)
            pss_kib = await asyncio.to_thread(kernel.own_pss_kib) if self._beats % PSS_EVERY == 2 else 0
            self._beats += 1
            note = control.Alive(late_s=round(late_s, 3), pss_kib=pss_kib, vitals=self._vitals())
            if not self._tell(note):
                self._tell(control.Alive(late_s=round(late_s, 3)))
            # All workers beat at the same moments, so that the master is woken once for most of them.
            due_mono = (time.monotonic() // BEAT_S + 1) * BEAT_S
            await asyncio.sleep(due_mono - time.monotonic())

    def _vitals(self) -> dict[str, Any]:
        if not self._built:
            return {}
        try:
            room = dict(self._room.vitals()) if self._room.vitals is not None else {}
            return {**room, "bus": dict(self._bus.vitals())}
        except Exception:
            self._log.exception("vitals failed")
            return {}

    # Notes

    def _tell(self, note: control.Note) -> bool:
        try:
            return control.send(self._pipe, note)
        except (control.Gone, msgspec.MsgspecError, TypeError):
            return False

    def _tell_threadsafe(self, loop: asyncio.AbstractEventLoop) -> Callable[[control.Note], None]:
        def tell(note: control.Note) -> None:
            loop.call_soon_threadsafe(self._tell, note)

        return tell

    def _read_notes(self) -> None:
        try:
            while (got := control.receive_in_worker(self._pipe)) is not None:
                self._take(*got)
        except control.Gone:
            asyncio.get_running_loop().remove_reader(self._pipe)
            self._log.critical("the master is gone")
            self._leave(ORPHAN_S)

    def _take(self, note: control.ToWorker, fds: list[int]) -> None:
        match note:
            case control.Peer():
                self._peers[note.name] = note
                if self._built:
                    self._peer(note)
            case control.PrepareForShutdown():
                self._prepare()
            case control.Leave():
                self._leave(note.within_s)
            case control.Reload():
                log.reopen()
                self._call_note("reload")
            case control.StopSpm():
                self._call_note("stop-spm")
            case control.BindAgain():
                self._bus.bind_again()
            case control.ChildMade():
                self._children.made(note, fds)
            case control.Look():
                self._task(self._look(note), "look")

    def _peer(self, note: control.Peer) -> None:
        self._bus.peer_changed(note.name, note.epoch, note.up)
        if self._room.peer_changed is not None:
            self._room.peer_changed(note.name, note.up)

    def _call_note(self, name: str) -> None:
        if (action := self._room.on_note.get(name)) is not None:
            self._task(asyncio.to_thread(action), name)

    def _prepare(self) -> None:
        """The house will stop: long work ends at its next step. Told twice, by pipe and by bus."""
        if not self._bus.background.draining:
            self._log.debug("told to prepare for shutdown")
            self._bus.background.drain()

    async def _look(self, note: control.Look) -> None:
        if note.kind == "stacks":
            text = looking.stacks()
        elif note.kind == "trace":
            self._bus.trace_for(note.seconds)
            text = f"for {note.seconds:g} s each message of this worker is a line of the log (ipc.trace)"
        else:
            text = await asyncio.to_thread(looking.profile, note.seconds)
        self._tell(control.Report(id=note.id, text=text[: control.MAX_NOTE_BYTES // 4]))

    # The end

    def _leave(self, within_s: float) -> None:
        if self._leaving is not None and not self._leaving.done():
            self._leaving.set_result(within_s)

    async def _drain(self, within_s: float) -> int:
        """Let calls end, put the room down, close. With nobody's help, and never longer than told."""
        began = time.monotonic()
        ends = began + within_s
        if self._spec.inherits:
            # The door: its clients must hear that it closes before their calls have ended.
            await self._put_down(ends)
        await self._bus.drain(max(0.1, 0.6 * (ends - time.monotonic())))
        if not self._spec.inherits:
            await self._put_down(ends)
        for task in list(self._tasks):
            task.cancel()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(max(0.1, ends - time.monotonic())):
                await asyncio.to_thread(self._root.close)
                await self._bus.stop()
        self._log.info("leaves took=%dms", (time.monotonic() - began) * 1000)
        return CRASHED if self._failed else 0

    async def _put_down(self, ends: float) -> None:
        for step in self._room.on_drain:
            try:
                async with asyncio.timeout(max(0.1, ends - time.monotonic())):
                    await asyncio.to_thread(step)
            except TimeoutError:
                self._log.warning("a step of leaving did not end in time and is left alone")
            except Exception:
                self._log.exception("a step of leaving failed")

    # What goes wrong

    def _task(self, work: Coroutine[Any, Any, Any], name: str) -> None:
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._task_done)

    def _task_done(self, task: "asyncio.Task[Any]") -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._log.critical("task %s failed: the worker ends", task.get_name(), exc_info=error)
            self._failed = task.get_name()
            self._leave(self._spec.grace_s)

    def _uncaught(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        self._log.error("uncaught in a callback: %s", context.get("message"), exc_info=error)


def _follow_level(change: LogLevelChanged) -> None:
    log.set_level(change.logger, change.level)
