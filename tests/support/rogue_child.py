# SPDX-License-Identifier: Apache-2.0
"""A child kind for tests: echoes packets, or hangs in the kernel on a file of a FUSE that never answers."""

import socket
from pathlib import Path


def main(sock: socket.socket) -> int:
    """Until the other end closes."""
    sock.setblocking(True)
    while packet := sock.recv(4096):
        if packet.startswith(b"read "):
            sock.send(b"hanging")
            Path(packet[5:].decode()).read_bytes()
        sock.send(packet)
    return 0
