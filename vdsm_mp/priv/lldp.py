# SPDX-License-Identifier: Apache-2.0
"""Listens to what switches say of themselves (LLDP, IEEE 802.1AB). Root side, standard library only.

Nothing is ever sent; what a frame means is read by the unprivileged side.
"""

import base64
import contextlib
import select
import socket
import struct
import time
from collections.abc import Callable, Mapping
from typing import Any

from vdsm_mp.priv.child import Refused
from vdsm_mp.priv.context import Context

_ETHERTYPE = 0x88CC
#: Nearest bridge, nearest non-TPMR bridge, nearest customer bridge.
_GROUPS = tuple(bytes.fromhex(f"0180c20000{last}") for last in ("0e", "03", "00"))
_SOL_PACKET, _PACKET_ADD_MEMBERSHIP, _PACKET_MR_MULTICAST = 263, 1, 0
_PACKET_OUTGOING = 4
_NICS_MOST = 64
_FRAME_MOST = 1600


def _hear(context: Context, p: Mapping[str, Any]) -> dict[str, str]:
    """{NIC: its first frame, in base64}; returns when all were heard, or after the seconds."""
    names = [name for name in p["names"].split(",") if name]
    if len(names) > _NICS_MOST:
        raise Refused(f"more than {_NICS_MOST} NICs")
    until = min(time.monotonic() + p["seconds"], context.deadline_mono - 0.5)
    found: dict[str, str] = {}
    with contextlib.ExitStack() as stack:
        ears: dict[int, tuple[socket.socket, str]] = {}
        poll = select.poll()
        for name in names:
            sock = stack.enter_context(_ear(name))
            ears[sock.fileno()] = (sock, name)
            poll.register(sock, select.POLLIN)
        while ears and (left := until - time.monotonic()) > 0:
            for fd, _ in poll.poll(left * 1000):
                sock, name = ears[fd]
                try:
                    frame, sender = sock.recvfrom(_FRAME_MOST)
                except OSError:
                    frame, sender = b"", ()  # the NIC went down or away
                if sender and sender[2] == _PACKET_OUTGOING:
                    continue  # an agent on this host talks about us
                if frame:
                    found[name] = base64.b64encode(frame).decode()
                poll.unregister(fd)
                del ears[fd]
    return found


def _ear(name: str) -> socket.socket:
    if name == "lo":
        raise Refused("lo is not ours")
    # Bound to a NIC only once the groups are asked for; with protocol 0 nothing comes in before.
    sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC, 0)
    try:
        index = socket.if_nametoindex(name)
        for group in _GROUPS:
            request = struct.pack("@iHH8s", index, _PACKET_MR_MULTICAST, len(group), group)
            sock.setsockopt(_SOL_PACKET, _PACKET_ADD_MEMBERSHIP, request)
        sock.bind((name, _ETHERTYPE))
    except BaseException:
        sock.close()
        raise
    return sock


HANDLERS: Mapping[str, Callable[[Context, Mapping[str, Any]], Any]] = {"lldp-hear": _hear}
