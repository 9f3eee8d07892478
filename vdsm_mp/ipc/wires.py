# SPDX-License-Identifier: Apache-2.0
"""The zmq context and sockets of one worker, with every limit set before anything is bound or connected.

Paths carry the worker's epoch: `virt.7.call`, `virt.7.events`. So a new worker never binds the path of a dead or
written-off one (zmq would take a live path over without a word), and what was queued for the dead is not delivered
to its successor.
"""

import os
import stat
from pathlib import Path

import zmq

from vdsm_mp.ipc import places

#: Messages waiting per peer and direction. Full means busy, and is said at once.
QUEUE = 256
#: Events waiting per subscriber, ten seconds of a storm; more are dropped, and a gap in their numbers brings a resync.
EVENT_QUEUE = 10_000
MAX_MESSAGE_BYTES = 16 * 1024 * 1024
#: How long a leaving worker's last answers may take to reach zmq's other side.
LINGER_MS = 250
#: sun_path holds 108 bytes with its NUL.
MAX_PATH_BYTES = 107


class Wires:
    """Makes sockets. Must be made after the fork, in the process that uses it."""

    def __init__(self, run_dir: Path, max_message_bytes: int = MAX_MESSAGE_BYTES) -> None:
        self.run_dir = run_dir
        self.max_message_bytes = max_message_bytes
        self._pid = os.getpid()
        _check_directory(run_dir)
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context(io_threads=1)
        self._bound: list[tuple[zmq.Socket[bytes], str]] = []

    def path(self, worker: str, epoch: int, kind: str) -> str:
        """The address of a worker's `call` or `events` socket."""
        path = self.run_dir / places.name(worker, epoch, kind)
        if len(os.fsencode(path)) > MAX_PATH_BYTES:
            raise ValueError(f"{path} is too long for a unix socket")
        return f"ipc://{path}"

    def router(self, address: str) -> "zmq.Socket[bytes]":
        socket = self._limited(zmq.ROUTER, QUEUE)
        socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
        return self._bind(socket, address)

    def dealer(self, address: str) -> "zmq.Socket[bytes]":
        socket = self._limited(zmq.DEALER, QUEUE)
        socket.connect(address)
        return socket

    def publisher(self, address: str) -> "zmq.Socket[bytes]":
        """An XPUB, because it hears of every new subscriber, who then gets a mark."""
        socket = self._limited(zmq.XPUB, EVENT_QUEUE)
        socket.setsockopt(zmq.XPUB_VERBOSE, 1)
        return self._bind(socket, address)

    def subscriber(self) -> "zmq.Socket[bytes]":
        return self._limited(zmq.SUB, EVENT_QUEUE)

    def listener(self, address: str, topic: bytes) -> "zmq.Socket[bytes]":
        """A SUB that is bound, for the one word that the master says on the bus."""
        socket = self._limited(zmq.SUB, 4)
        socket.subscribe(topic)
        return self._bind(socket, address)

    def _bind(self, socket: "zmq.Socket[bytes]", address: str) -> "zmq.Socket[bytes]":
        try:
            _listen(socket, address)
        except zmq.ZMQError as error:
            socket.close()
            # As the system's own errors are, with the reason first and the path beside it.
            raise OSError(error.errno, os.strerror(error.errno or 0), address.removeprefix("ipc://")) from error
        self._bound.append((socket, address))
        return socket

    def bind_again(self) -> None:
        """Make the files of bound sockets anew: somebody removed them. Who is connected stays so. Raises ZMQError.

        Without unbinding before, which would end every connection that came through the old files, with the calls on
        it; what listened there is of no more use to anybody and ends with its socket.
        """
        for socket, address in self._bound:
            if not socket.closed:
                _listen(socket, address)

    def _limited(self, kind: int, queue: int) -> "zmq.Socket[bytes]":
        # A context that crossed a fork sends into nothing, without an error.
        if os.getpid() != self._pid:
            raise RuntimeError("the bus belongs to another process")
        socket = self._context.socket(kind)
        socket.setsockopt(zmq.LINGER, 0)
        socket.setsockopt(zmq.SNDHWM, queue)
        socket.setsockopt(zmq.RCVHWM, queue)
        socket.setsockopt(zmq.MAXMSGSIZE, self.max_message_bytes)
        socket.setsockopt(zmq.RECONNECT_IVL, 20)
        socket.setsockopt(zmq.RECONNECT_IVL_MAX, 500)
        # The directory keeps other users out; this is the second line.
        socket.setsockopt(zmq.IPC_FILTER_UID, os.getuid())
        return socket

    def close(self) -> None:
        """End the context; waits for closed sockets to linger, LINGER_MS at most."""
        self._context.term()


def _check_directory(run_dir: Path) -> None:
    found = run_dir.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise PermissionError(f"{run_dir} must be a directory of uid {os.getuid()} with mode 0700")


def _listen(socket: "zmq.Socket[bytes]", address: str) -> None:
    # Nobody may connect between bind and a later chmod.
    before = os.umask(0o077)
    try:
        socket.bind(address)
    finally:
        os.umask(before)
