# SPDX-License-Identifier: Apache-2.0
"""The master's loop: waits for signals, notes, ends and operators, and hands each to the house. One step at a time."""

import os
import selectors
import signal
import socket
import time
from functools import partial

from vdsm_mp.common import log
from vdsm_mp.house import spawn
from vdsm_mp.house.desk import Desk
from vdsm_mp.house.house import House, HouseState
from vdsm_mp.house.members import Process
from vdsm_mp.house.premises import Premises
from vdsm_mp.ipc import control

logger = log.named("master")

#: How often deadlines are looked at while anything is under way, and while only heartbeats could be missed.
TICK_S, REST_S = 0.2, 1.5


class Loop:
    """See the module. Takes the process's signals over when it is made."""

    def __init__(self, house: House, selector: selectors.BaseSelector, desk: Desk, premises: Premises) -> None:
        self._house, self._selector, self._desk, self._premises = house, selector, desk, premises
        self._signals, wake = socket.socketpair()
        for end in (self._signals, wake):
            end.setblocking(False)
        self._wake = wake
        selector.register(self._signals, selectors.EVENT_READ, self._take_signals)
        signal.set_wakeup_fd(wake.fileno(), warn_on_full_buffer=False)
        self._told: set[int] = set()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD, *spawn.MEANT_FOR_THE_MASTER):
            signal.signal(number, lambda number, _: self._told.add(number))
        house.incarnations.watch, house.incarnations.unwatch = self._watch, self._unwatch

    def run(self) -> None:
        self._house.start()
        looked_mono = time.monotonic()
        while self._house.state is not HouseState.EMPTY:
            rest_s = TICK_S if self._busy else REST_S
            due_mono = min(looked_mono + rest_s, self._house.silence_mono)
            for key, _ in self._selector.select(max(0.0, due_mono - time.monotonic())):
                key.data()
            now = time.monotonic()
            if now >= due_mono or now - looked_mono >= (TICK_S if self._busy else REST_S) / 4:
                looked_mono = now
                self._house.beat(late_s=now - due_mono)
                self._desk.beat()
                self._premises.beat()
        self._desk.close()
        self._reap()
        signal.set_wakeup_fd(-1)
        for end in (self._signals, self._wake):
            end.close()

    @property
    def _busy(self) -> bool:
        return self._house.busy or self._desk.busy

    def _take_signals(self) -> None:
        # The bytes only wake us: in a flood there is no room for all of them, and one of SIGTERM may not be lost.
        self._signals.recv(4096)
        told, self._told = self._told, set()
        for number in sorted(told):
            match number:
                case signal.SIGTERM | signal.SIGINT:
                    self._house.stop()
                case signal.SIGHUP:
                    self._house.reload()
                case signal.SIGUSR1:
                    self._house.stop_spm()
        self._reap()

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if last := next((p for w in self._house.workers.values() if (p := w.process) and p.pid == pid), None):
                self._read(last)  # why it ended may be said and unread
            self._house.process_ended(pid, status)

    def _watch(self, process: Process) -> None:
        if process.pipe is not None:
            self._selector.register(process.pipe, selectors.EVENT_READ, partial(self._read, process))

    def _unwatch(self, process: Process) -> None:
        if process.pipe is not None and process.pipe in self._selector.get_map():
            self._selector.unregister(process.pipe)

    def _read(self, process: Process) -> None:
        worker = next((w for w in self._house.workers.values() if w.process is process), None)
        if worker is None or process.pipe is None:
            return
        try:
            while (note := control.receive_in_master(process.pipe)) is not None:
                self._house.take_note(worker, note)
        except control.Gone:
            self._unwatch(process)  # its end comes as SIGCHLD; until then the pipe would only spin
        except Exception:
            logger.exception("%s sent what is not a note", worker.spec.name)
