# SPDX-License-Identifier: Apache-2.0
"""A LAN of Ethernet frames over unix datagram sockets: one process, no privileges.

usage: lan.py DIR [PORTS [CUT]]     (the testbed starts it; by hand it serves until ended)

QEMU joins with `-netdev dgram` from DIR/h<N> to DIR/p<N>, user-mode Linux with
`vec0:transport=bess,dst=DIR/q1`, a SOCK_SEQPACKET connection made anew whenever its interface goes
up: both send one raw frame a packet. The file CUT (default DIR/cut), read again when it changes, holds lines `A B` of
hosts that do not hear each other (`1 2` both ways, `1>2` one way, `1 *` all). In a testbed it is
/testbed/cutL for LAN L (from 0), so that hosts too can pull the plug.
"""

import os
import selectors
import socket
import sys
from pathlib import Path


class Lan:
    def __init__(self, folder: str, ports: int = 8, cut: str | None = None):
        self.folder, self.cut_file = folder, cut or f"{folder}/cut"
        os.makedirs(folder, exist_ok=True)
        self.selector = selectors.DefaultSelector()
        self.sockets = {}
        self.connections = {}  # port -> connection, for those that connect
        for n in range(1, ports + 1):
            s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            s.setblocking(False)
            for option in (socket.SO_RCVBUF, socket.SO_SNDBUF):
                s.setsockopt(socket.SOL_SOCKET, option, 4 << 20)
            path = f"{folder}/p{n}"
            if os.path.exists(path):
                os.unlink(path)
            s.bind(path)
            self.sockets[n] = s
            self.selector.register(s, selectors.EVENT_READ, n)
            listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            path = f"{folder}/q{n}"
            if os.path.exists(path):
                os.unlink(path)
            listener.bind(path)
            listener.listen()
            self.selector.register(listener, selectors.EVENT_READ, -n)
        self.seen = {}  # mac -> port
        self.cut = set()
        self.cut_time = None
        self.dropped = 0

    def read_cut(self):
        try:
            when = os.stat(self.cut_file).st_mtime_ns
        except FileNotFoundError:
            when = None
        if when == self.cut_time:
            return
        self.cut_time = when
        pairs = set()
        if when is not None:
            for line in Path(self.cut_file).read_text().splitlines():
                a, sep, b = line.strip().partition(">")
                if sep:
                    ends = [(a, b)]
                else:
                    a, _, b = line.strip().partition(" ")
                    ends = [(a, b), (b, a)]
                for x, y in ends:
                    for i in self.sockets if x == "*" else [x]:
                        for j in self.sockets if y == "*" else [y]:
                            if i and j:
                                pairs.add((int(i), int(j)))
        self.cut = pairs

    def send(self, source: int, target: int, frame: bytes):
        if (source, target) in self.cut:
            return
        try:
            if connection := self.connections.get(target):
                connection.send(frame)
                return
            self.sockets[target].sendto(frame, f"{self.folder}/h{target}")
        except (FileNotFoundError, ConnectionRefusedError, BrokenPipeError, ConnectionResetError):
            pass  # nobody there
        except (BlockingIOError, OSError):
            self.dropped += 1  # a slow host loses frames, as on a wire

    def serve(self):
        while True:
            events = self.selector.select(0.5)
            self.read_cut()
            for key, _ in events:
                port = key.data
                if port < 0:
                    connection, _ = key.fileobj.accept()
                    connection.setblocking(False)
                    connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 << 20)
                    self.connections[-port] = connection
                    self.selector.register(connection, selectors.EVENT_READ, -port)
                    continue
                for _ in range(64):
                    try:
                        frame = key.fileobj.recv(65600)
                    except BlockingIOError:
                        break
                    except OSError:
                        frame = b""
                    if not frame and key.fileobj is not self.sockets[port]:  # the connection ended
                        self.selector.unregister(key.fileobj)
                        key.fileobj.close()
                        if self.connections.get(port) is key.fileobj:
                            del self.connections[port]
                        break
                    if len(frame) < 14:
                        continue
                    target, source = frame[:6], frame[6:12]
                    self.seen[source] = port
                    known = None if target[0] & 1 else self.seen.get(target)
                    if known is not None:
                        if known != port:
                            self.send(port, known, frame)
                        continue
                    for other in self.sockets:
                        if other != port:
                            self.send(port, other, frame)


if __name__ == "__main__":
    if len(sys.argv) < 2 or sys.argv[1].startswith("-"):
        sys.exit(__doc__)
    Lan(sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 8, sys.argv[3] if len(sys.argv) > 3 else None).serve()
