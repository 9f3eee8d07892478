# SPDX-License-Identifier: Apache-2.0
"""The I/O child: one process for one file domain, which may hang in the kernel so that the worker need not.

Forked by the master on the storage worker's request; owns nothing but its end of a SOCK_SEQPACKET pair. It answers
requests (`ioproc_wire`) with a few threads, ends when the other end is gone, and never decides anything: deadlines,
replacement and meaning of errors are the client's. The first request is `open`, which names the domain's root and is
answered with our process id; `ping` is answered whatever hangs.
"""

import errno
import os
import queue
import socket
import threading
import time
from typing import Any

import msgspec

from vdsm_mp.storage.ioproc_compound import COMPOUND
from vdsm_mp.storage.ioproc_operations import OPERATIONS, WITH_BODY, Passed
from vdsm_mp.storage.ioproc_paths import Root
from vdsm_mp.storage.ioproc_wire import PACKET, SLOTS, Request, pack_answer, unpack_request

#: The root is looked up by name again; health is checked less often than that.
_FOLLOW_EVERY_S = 1.0
_encode = msgspec.json.Encoder().encode


class _Child:
    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._root: Root | None = None
        self._opened = threading.Event()
        self._waiting: queue.SimpleQueue[tuple[Request, bytes]] = queue.SimpleQueue()
        self._idle = threading.Semaphore(0)
        self._threads = 0
        self._follow_at_mono = 0.0

    def serve(self) -> None:
        """Until the worker closes its end."""
        while True:
            try:
                packet = self._sock.recv(PACKET)
            except ConnectionResetError:  # closed with answers unread
                return
            if not packet:
                return
            request, body = unpack_request(packet)
            if request.op == "ping":  # by this thread, which touches no storage: that is what it tells
                self._answer(request, body)
                continue
            self._waiting.put((request, body))
            # One thread more only when nobody is free: most children need one or two.
            if not self._idle.acquire(blocking=False) and self._threads < SLOTS:
                self._threads += 1
                threading.Thread(target=self._work, daemon=True, name=f"io-{self._threads}").start()

    def _work(self) -> None:
        while True:
            request, body = self._waiting.get()
            self._answer(request, body)
            self._idle.release()

    def _answer(self, request: Request, body: bytes) -> None:
        passed: Passed | None = None
        try:
            result = self._do(request, body)
            if isinstance(result, Passed):
                passed, result = result, None
            raw = isinstance(result, bytes)
            packets = pack_answer(request.id, result if raw else _encode(result), raw=raw)
        except OSError as e:
            packets = pack_answer(request.id, (e.strerror or str(e)).encode(), errno=e.errno or errno.EIO)
        except (TypeError, ValueError, KeyError) as e:
            packets = pack_answer(request.id, repr(e).encode(), errno=errno.EINVAL)
        try:
            if passed is not None:
                socket.send_fds(self._sock, packets, [passed.fd])
            else:
                for packet in packets:
                    self._sock.send(packet)
        except (BrokenPipeError, ConnectionResetError):
            os._exit(0)  # nobody is left to answer
        finally:
            if passed is not None:
                os.close(passed.fd)

    def _do(self, request: Request, body: bytes) -> Any:
        if request.op == "ping":
            return None
        if request.op == "open":
            try:
                self._root = Root(request.args["root"], request.args["beneath"])
            finally:
                self._opened.set()
            return os.getpid()
        # Opening the root may hang, too; its client has given that up and asks on.
        self._opened.wait()
        if self._root is None:
            raise OSError(errno.EBADF, "the root could not be opened")
        function = OPERATIONS.get(request.op) or COMPOUND[request.op]
        extra = {"body": body} if request.op in WITH_BODY else {}
        self._follow(self._root)
        try:
            return function(self._root, **request.args, **extra)
        except OSError as e:
            if e.errno != errno.ESTALE:
                raise
        # The server gave the root a new handle (restart, export again): look it up once more by name.
        self._root.reopen()
        return function(self._root, **request.args, **extra)

    def _follow(self, root: Root) -> None:
        """Now and then, and again and again while the root's name leads nowhere."""
        now_mono = time.monotonic()
        if now_mono >= self._follow_at_mono:
            root.follow()
            self._follow_at_mono = now_mono + _FOLLOW_EVERY_S


def main(sock: socket.socket) -> int:
    """Serve the other end of `sock`; returns the exit code. The caller leaves with os._exit: threads may hang."""
    sock.setblocking(True)
    _Child(sock).serve()
    return 0
