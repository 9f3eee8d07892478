# SPDX-License-Identifier: Apache-2.0
"""The control socket: where operators' tools ask the master. JSON lines, one request a connection.

    {"do": "status"} · {"do": "restart", "worker": "virt"} · {"do": "stop"}
    {"do": "stacks", "worker": "virt"} · {"do": "profile", "worker": "virt", "seconds": 5}
    -> {"ok": true, "result": …} or {"ok": false, "error": "sentence"}

Who may ask: root, the agent's user, members of its group, by what the kernel says of the other end. Nobody is waited
for: requests and answers are bounded in size and time, and there are at most so many callers.
"""

import contextlib
import grp
import os
import pwd
import selectors
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import msgspec

from vdsm_mp.common import kernel, log
from vdsm_mp.house import status
from vdsm_mp.house.house import House
from vdsm_mp.house.members import State

logger = log.named("master")

MOST_CALLERS = 16
MOST_REQUEST_BYTES = 4096
#: From connecting to a whole request.
REQUEST_S = 5.0
#: A restart is answered when the worker is ready again, a look when it has answered.
ANSWER_S = 90.0
#: How long one may look: a profile is waited for, and a trace fills the log.
LONGEST_S = {"profile": 60.0, "trace": 3600.0}
SHORTEST_S = 0.1


class Request(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    do: Literal["status", "restart", "stop", "stacks", "profile", "trace"]
    worker: str = ""
    seconds: float = 5.0


class Caller:
    """One connection. `out` is what still has to be sent; then it closes."""

    def __init__(self, sock: socket.socket, until_mono: float) -> None:
        self.sock = sock
        self.until_mono = until_mono
        self.got = b""
        self.out = b""
        self.wants: Callable[[], bytes | None] | None = None


class Desk:
    """Lives in the master's loop: `ready` when its sockets have something, `beat` for time."""

    def __init__(self, path: Path, house: House, selector: selectors.BaseSelector, user: str, group: str) -> None:
        self._path = path
        self._house = house
        self._selector = selector
        self._user, self._group = user, group
        self._callers: dict[socket.socket, Caller] = {}
        self._numbers = 0
        self._listener = self._listen()

    def _listen(self) -> socket.socket:
        """Raises OSError; then there is no new socket, and no file of one."""
        self._path.unlink(missing_ok=True)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            before = os.umask(0o117)
            try:
                listener.bind(str(self._path))
            finally:
                os.umask(before)
            self._give_to_group(self._path)
            listener.listen(MOST_CALLERS)
            listener.setblocking(False)
            self._file = self._path.lstat()
        except OSError:
            listener.close()
            raise
        self._selector.register(listener, selectors.EVENT_READ, self._accept)
        return listener

    @property
    def reachable(self) -> bool:
        """Is our socket's file there? Raises OSError for what is no answer to that."""
        try:
            return os.path.samestat(self._path.lstat(), self._file)
        except FileNotFoundError:
            return False

    def open_again(self) -> None:
        """Somebody removed the socket's file: make another one. Who is connected stays so. Raises OSError."""
        before = self._listener
        self._listener = self._listen()
        self._selector.unregister(before)
        before.close()

    def _give_to_group(self, path: Path) -> None:
        try:
            os.chown(path, -1, grp.getgrnam(self._group).gr_gid)
        except (KeyError, PermissionError) as error:
            logger.warning("the control socket stays with group %d: %s", os.getegid(), error)

    def close(self) -> None:
        for caller in list(self._callers.values()):
            self._drop(caller)
        self._selector.unregister(self._listener)
        self._listener.close()
        with contextlib.suppress(OSError):  # a folder that was taken away or is read-only now must not keep us
            if self.reachable:
                self._path.unlink()

    def _accept(self) -> None:
        for _ in range(2 * MOST_CALLERS):
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            self._admit(sock)

    def _admit(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        pid, uid, gid = kernel.peer_of(sock)
        if len(self._callers) >= MOST_CALLERS or not self._may_ask(uid, gid):
            logger.warning("control: uid=%d pid=%d is turned away", uid, pid)
            sock.close()
            return
        caller = Caller(sock, time.monotonic() + REQUEST_S)
        self._callers[sock] = caller
        self._selector.register(sock, selectors.EVENT_READ, lambda: self._turn(caller))

    def _may_ask(self, uid: int, gid: int) -> bool:
        if uid in (0, os.geteuid()):
            return True
        try:
            ours = grp.getgrnam(self._group)
            return gid == ours.gr_gid or ours.gr_gid in os.getgrouplist(pwd.getpwuid(uid).pw_name, gid)
        except KeyError:
            return False

    def _turn(self, caller: Caller) -> None:
        try:
            if caller.out:
                self._send(caller)
            else:
                self._read(caller)
        except OSError:
            self._drop(caller)

    def _read(self, caller: Caller) -> None:
        data = caller.sock.recv(MOST_REQUEST_BYTES + 1)
        if not data or caller.wants is not None:
            self._drop(caller)  # it has gone, or talks out of turn
            return
        caller.got += data
        if b"\n" in caller.got:
            self._answer(caller, caller.got.partition(b"\n")[0])
        elif len(caller.got) > MOST_REQUEST_BYTES:
            self._reply(caller, False, f"a request has at most {MOST_REQUEST_BYTES} bytes and ends with a newline")

    def _answer(self, caller: Caller, line: bytes) -> None:
        try:
            ask = msgspec.json.decode(line, type=Request)
        except msgspec.MsgspecError as error:
            self._reply(caller, False, f"not a request: {error}")
            return
        caller.until_mono = time.monotonic() + ANSWER_S
        house = self._house
        match ask.do:
            case "status":
                self._reply(caller, True, status.of(house))
            case "stop":
                logger.info("control: told to stop")
                house.stop()
                self._reply(caller, True, "stopping")
            case "restart":
                self._restart(caller, ask.worker)
            case _:
                self._look(caller, ask)

    def _restart(self, caller: Caller, name: str) -> None:
        before = self._house.workers[name].epoch if name in self._house.workers else 0
        logger.info("control: restart %s", name)
        if refused := self._house.restart(name):
            self._reply(caller, False, refused)
            return

        def wants() -> bytes | None:
            worker = self._house.workers[name]
            if worker.up and worker.epoch > before:
                took_s = worker.ready_mono - (worker.process.started_mono if worker.process else 0.0)
                return _encoded(True, {"worker": name, "epoch": worker.epoch, "ready_after_s": round(took_s, 3)})
            if worker.state in (State.FAILED, State.STOPPED):
                return _encoded(False, f"{name} did not start: {worker.history.last_reason}")
            return None

        caller.wants = wants

    def _look(self, caller: Caller, ask: Request) -> None:
        longest_s = LONGEST_S.get(ask.do)
        if longest_s is not None and not SHORTEST_S <= ask.seconds <= longest_s:
            self._reply(caller, False, f"a {ask.do} takes {SHORTEST_S:g} to {longest_s:g} s, not {ask.seconds:g}")
            return
        self._numbers += 1
        number = self._numbers
        arrived: list[str | None] = []
        refused = self._house.look(number, ask.worker, ask.do, ask.seconds, arrived.append)
        if refused:
            self._reply(caller, False, refused)
            return

        def wants() -> bytes | None:
            if not arrived:
                return None
            return (
                _encoded(False, f"{ask.worker} died before it answered")
                if arrived[0] is None
                else _encoded(True, *arrived)
            )

        caller.wants = wants

    @property
    def busy(self) -> bool:
        """Does anybody wait, or keep us waiting?"""
        return bool(self._callers)

    def beat(self) -> None:
        """Answers that were waited for, and callers that took too long."""
        now = time.monotonic()
        for caller in list(self._callers.values()):
            if caller.wants is not None and not caller.out and (answer := caller.wants()) is not None:
                self._queue(caller, answer)
            elif now >= caller.until_mono:
                if caller.wants is not None and not caller.out:
                    self._reply(caller, False, f"no answer within {ANSWER_S:g} s")
                else:
                    self._drop(caller)

    def _reply(self, caller: Caller, ok: bool, result: Any) -> None:
        self._queue(caller, _encoded(ok, result))

    def _queue(self, caller: Caller, answer: bytes) -> None:
        caller.out = answer
        caller.until_mono = time.monotonic() + REQUEST_S
        self._selector.modify(caller.sock, selectors.EVENT_WRITE, lambda: self._turn(caller))

    def _send(self, caller: Caller) -> None:
        caller.out = caller.out[caller.sock.send(caller.out) :]
        if not caller.out:
            self._drop(caller)

    def _drop(self, caller: Caller) -> None:
        if self._callers.pop(caller.sock, None) is not None:
            self._selector.unregister(caller.sock)
            caller.sock.close()


def _encoded(ok: bool, result: Any) -> bytes:
    return msgspec.json.encode({"ok": ok, "result" if ok else "error": result}) + b"\n"
