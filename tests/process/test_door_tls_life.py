# SPDX-License-Identifier: Apache-2.0
"""TLS after the first handshake: sessions taken up again, renegotiation, new keys, half-closed connections."""

import contextlib
import os
import socket
import ssl
import subprocess
import time
from pathlib import Path
from typing import IO

import pytest

from tests.support.certificates import Authority, make_authority
from tests.support.door import Door, open_door
from tests.support.eventually import eventually
from tests.support.wirepeers import was_closed
from vdsm_mp.wire.tls import Files, client_context


def tls_1_2(files: Files) -> ssl.SSLContext:
    context = client_context(files)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    return context


def connect(door: Door, context: ssl.SSLContext, session: ssl.SSLSession | None = None) -> ssl.SSLSocket:
    """A connection that has been greeted."""
    sock = context.wrap_socket(socket.create_connection(door.address, timeout=10), session=session)
    sock.sendall(b"CONNECT\naccept-version:1.2\n\n\0")
    assert sock.recv(4096).startswith(b"CONNECTED")
    return sock


def test_a_session_of_tls_1_2_is_taken_up_again_with_its_owner(
    files: Files, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vdsm_mp.clientif.gate.is_loopback", lambda address: False)
    engine = authority.issue("resuming-engine", "engine.example")
    with open_door(files, engine_names=["engine.example"]) as door:
        context = tls_1_2(engine)
        with connect(door, context) as first:
            session = first.session
        with connect(door, context, session) as again:
            assert again.session_reused
            eventually(lambda: door.call(lambda: [s.caller.trusted for s in door.server._stomp_sessions()]) == [True])


def test_who_was_revoked_meanwhile_cannot_take_up_a_session(tmp_path: Path) -> None:
    authority = make_authority(tmp_path / "ca")
    host, lost = authority.issue("host", "127.0.0.1"), authority.issue("lost", "lost.example")
    crl = tmp_path / "crl.pem"
    authority.write_crl(crl)
    with open_door(Files(host.key, host.cert, host.ca, crl)) as door:
        context = tls_1_2(lost)
        with connect(door, context) as first:
            session = first.session
        connect(door, context, session).close()
        authority.revoke(lost.cert)
        authority.write_crl(crl)
        with pytest.raises(OSError):
            connect(door, context, session)


@pytest.mark.parametrize(("version", "key", "goes_on"), [("-tls1_2", "R", False), ("-tls1_3", "K", True)])
def test_renegotiation_is_refused_and_new_keys_are_taken(
    door: Door, files: Files, version: str, key: str, goes_on: bool
) -> None:
    argv = ["openssl", "s_client", "-connect", f"127.0.0.1:{door.port}", version, "-cert", str(files.cert), "-key",
            str(files.key), "-CAfile", str(files.ca)]  # fmt: skip
    pipe = subprocess.PIPE
    with subprocess.Popen(argv, stdin=pipe, stdout=pipe, stderr=subprocess.STDOUT, bufsize=0) as other:
        assert other.stdin is not None and other.stdout is not None
        try:
            _until(other.stdout, b"Verify return code", 10)
            other.stdin.write(b"CONNECT\naccept-version:1.2\n\n\0\n")
            _until(other.stdout, b"CONNECTED\nversion", 10)
            for word in (key + "\n", "UNSUBSCRIBE\nx:y\n\n\0\n"):
                with contextlib.suppress(BrokenPipeError):
                    other.stdin.write(word.encode())
                time.sleep(0.3)
            if goes_on:
                _until(other.stdout, b"Missing id header", 10)
            else:
                assert other.wait(10) != 0
        finally:
            other.kill()
    with door.client(files) as client:
        assert client.call("Host.ping2") is True


def _until(stream: IO[bytes], words: bytes, within_s: float) -> None:
    os.set_blocking(stream.fileno(), False)
    found = b""

    def heard() -> bool:
        nonlocal found
        found += stream.read() or b""
        return words in found

    eventually(heard, within_s=within_s)


@pytest.mark.parametrize("said", [b"", b"CONN", b"CONNECT\naccept-version:1.2\n\n\0", b"PUT / HTTP/1.1\r\nHost: x\r\n"])
def test_a_connection_that_is_half_closed_is_over(door: Door, files: Files, said: bytes) -> None:
    eventually(lambda: door.server.connections == 0)
    with client_context(files).wrap_socket(socket.create_connection(door.address, timeout=10)) as sock:
        if said:
            sock.sendall(said)
        eventually(lambda: door.server.connections == 1)
        socket.socket.shutdown(sock, socket.SHUT_WR)
        eventually(lambda: door.server.connections == 0)
        assert was_closed(sock)
