# SPDX-License-Identifier: Apache-2.0
"""TLS 1.2 of a client over memory, as the engine speaks it, so that each record can be looked at by itself."""

import contextlib
import socket
import ssl

from vdsm_mp.wire.tls import Files, client_context


class MemoryTls:
    """On a socket that blocks. Whoever uses it reads the socket and cuts records."""

    def __init__(self, sock: socket.socket, files: Files) -> None:
        context = client_context(files)
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        self._sock = sock
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._in, self._out)

    def handshake(self) -> None:
        """Raises: ssl.SSLError, OSError."""
        while True:
            try:
                self._tls.do_handshake()
                return
            except ssl.SSLWantReadError:
                self._flush()
                octets = self._sock.recv(65536)
                if not octets:
                    raise ConnectionResetError("closed during the handshake") from None
                self._in.write(octets)
            finally:
                self._flush()

    def _flush(self) -> None:
        if octets := self._out.read():
            self._sock.sendall(octets)

    def send(self, octets: bytes) -> None:
        """Write all of it, however long that takes."""
        self._tls.write(octets)
        self._flush()

    def unwrap(self, record: bytes) -> bytes:
        """The plain text of one whole record; empty for those that carry none."""
        self._in.write(record)
        with contextlib.suppress(ssl.SSLWantReadError, ssl.SSLZeroReturnError):
            return self._tls.read(32 * 1024)
        return b""


def cut_record(buffer: bytearray) -> bytes | None:
    """The first whole record, header included, taken out of the buffer."""
    if len(buffer) < 5 or len(buffer) < (size := 5 + int.from_bytes(buffer[3:5])):
        return None
    record = bytes(buffer[:size])
    del buffer[:size]
    return record
