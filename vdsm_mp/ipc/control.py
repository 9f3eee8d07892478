# SPDX-License-Identifier: Apache-2.0
"""The pipe between the master and each worker: a SOCK_SEQPACKET pair, one JSON note a packet.

No zmq and no asyncio, because the master uses this. A note never waits: a full pipe means that the other side does
not read, which the heartbeat finds out. Every failure on the pipe, end of file or reset, means "gone".
"""

import socket
from typing import Any

import msgspec

#: A profile or a stack dump of many threads fits; the sender cuts what is longer.
MAX_NOTE_BYTES = 160 * 1024


class Note(msgspec.Struct, frozen=True, kw_only=True, tag_field="note", forbid_unknown_fields=True):
    """Parent of all notes."""


# Master to worker


class Peer(Note, frozen=True, kw_only=True, tag="peer"):
    """Another worker became ready or is gone."""

    name: str
    epoch: int
    up: bool


class PrepareForShutdown(Note, frozen=True, kw_only=True, tag="prepareForShutdown"):
    """The house will stop: begin nothing long. Also broadcast on the bus."""


class Leave(Note, frozen=True, kw_only=True, tag="leave"):
    """Drain now and exit 0 within so many seconds."""

    within_s: float


class Reload(Note, frozen=True, kw_only=True, tag="reload"):
    """SIGHUP: open log files again, read certificates again."""


class StopSpm(Note, frozen=True, kw_only=True, tag="stopSpm"):
    """SIGUSR1: give the SPM role up (fencing)."""


class BindAgain(Note, frozen=True, kw_only=True, tag="bindAgain"):
    """Somebody removed the files of your sockets on the bus; their directory is there (again)."""


class Look(Note, frozen=True, kw_only=True, tag="look"):
    """Report your thread stacks, or a profile of the next `seconds`."""

    id: int
    kind: str
    seconds: float = 0.0


class ChildMade(Note, frozen=True, kw_only=True, tag="childMade"):
    """The answer to OpenChild; the packet carries one descriptor when `refused` is empty."""

    id: int
    refused: str = ""


# Worker to master


class Ready(Note, frozen=True, kw_only=True, tag="ready"):
    """Calls may come."""


class CannotStart(Note, frozen=True, kw_only=True, tag="cannotStart"):
    """Last words before exit code 1 or 3."""

    reason: str


class Alive(Note, frozen=True, kw_only=True, tag="alive"):
    """Sent by the worker's loop every second. late_s: how late the loop was."""

    late_s: float
    pss_kib: int = 0
    vitals: dict[str, Any] = {}


class OpenChild(Note, frozen=True, kw_only=True, tag="openChild"):
    """Fork a child of the process table's `kind`, in place of one of the same kind and name."""

    id: int
    kind: str
    name: str


class CloseChild(Note, frozen=True, kw_only=True, tag="closeChild"):
    kind: str
    name: str


class Report(Note, frozen=True, kw_only=True, tag="report"):
    """The answer to Look."""

    id: int
    text: str


ToWorker = Peer | PrepareForShutdown | Leave | Reload | StopSpm | BindAgain | Look | ChildMade
ToMaster = Ready | CannotStart | Alive | OpenChild | CloseChild | Report

_encode = msgspec.json.Encoder().encode
_to_worker: msgspec.json.Decoder[ToWorker] = msgspec.json.Decoder(ToWorker)
_to_master: msgspec.json.Decoder[ToMaster] = msgspec.json.Decoder(ToMaster)


class Gone(Exception):
    """The other side is not there any more."""


def pair() -> tuple[socket.socket, socket.socket]:
    """(master's end, worker's end); both non-blocking and close-on-exec."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    for end in (ours, theirs):
        end.setblocking(False)
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2 * MAX_NOTE_BYTES)
    return ours, theirs


def send(pipe: socket.socket, note: Note, fds: tuple[int, ...] = ()) -> bool:
    """Put a note on the pipe. False: the pipe is full or the note too long, nothing was sent. Raises Gone."""
    data = _encode(note)
    if len(data) > MAX_NOTE_BYTES:
        return False
    try:
        if fds:
            socket.send_fds(pipe, [data], list(fds), socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
        else:
            pipe.send(data, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
    except BlockingIOError:
        return False
    except OSError as error:
        raise Gone(str(error)) from error
    return True


def receive_in_worker(pipe: socket.socket) -> tuple[ToWorker, list[int]] | None:
    """The next note and the descriptors it carries; None when there is none now. Raises Gone."""
    try:
        data, fds, _, _ = socket.recv_fds(pipe, MAX_NOTE_BYTES, 4, socket.MSG_DONTWAIT | socket.MSG_CMSG_CLOEXEC)
    except BlockingIOError:
        return None
    except OSError as error:
        raise Gone(str(error)) from error
    if not data:
        raise Gone("end of file")
    return _to_worker.decode(data), fds


def _last_words(pipe: socket.socket) -> bytes:
    """Who ends with notes of ours unread leaves an error, which the kernel tells before what was said until then."""
    try:
        return pipe.recv(MAX_NOTE_BYTES, socket.MSG_DONTWAIT)
    except ConnectionResetError:
        return pipe.recv(MAX_NOTE_BYTES, socket.MSG_DONTWAIT)


def receive_in_master(pipe: socket.socket) -> ToMaster | None:
    """The next note; None when there is none now. Raises Gone, and msgspec.MsgspecError for what is not a note."""
    try:
        data = _last_words(pipe)
    except BlockingIOError:
        return None
    except OSError as error:
        raise Gone(str(error)) from error
    if not data:
        raise Gone("end of file")
    return _to_master.decode(data)
