# SPDX-License-Identifier: Apache-2.0
"""Who may come in by certificate, and certificates that change under a running door."""

import os
import re
import shutil
import socket
import ssl
import time
from pathlib import Path
from typing import Any

import pytest

from tests.support.certificates import Authority, make_authority
from tests.support.door import Door, always, open_door
from tests.support.eventually import eventually
from tests.support.wirepeers import was_closed
from vdsm_mp.api.errors import RemoteError
from vdsm_mp.wire.client import Client, ConnectionLost
from vdsm_mp.wire.tls import Files, NoCertificates, Peer, ServerTls, client_context, days_left, matches_address


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return make_authority(tmp_path_factory.mktemp("pki") / "stranger", name="Another CA")


def shown_cert(door: Door, files: Files) -> bytes:
    """The certificate that the door shows to a new client."""
    with (
        socket.create_connection(door.address) as sock,
        client_context(files).wrap_socket(sock, server_hostname="x") as tls,
    ):
        return tls.getpeercert(binary_form=True) or b""


def refused(door: Door, files: Files) -> str:
    with pytest.raises(ConnectionLost) as caught:
        door.client(files)
    return str(caught.value)


def trusting(own: Files, ca: Files, folder: Path) -> Files:
    """A client that shows its own certificate and trusts the door's CA, so that only the door can object."""
    folder.mkdir(exist_ok=True)
    return Files(own.key, own.cert, ca.ca)


def test_a_certificate_of_another_authority_is_refused(
    door: Door, files: Files, stranger: Authority, tmp_path: Path
) -> None:
    assert "refuses this one: unknown ca" in refused(
        door, trusting(stranger.issue("them", "127.0.0.1"), files, tmp_path)
    )


@pytest.mark.parametrize(("name", "start"), [("expired", "20200101000000Z"), ("future", "20480101000000Z")])
def test_a_certificate_outside_its_time_is_refused(
    door: Door, files: Files, authority: Authority, name: str, start: str
) -> None:
    theirs = authority.issue(name, "127.0.0.1", start=start)
    assert re.search("refuses this one: (bad )?certificate", refused(door, theirs))


def test_a_self_signed_certificate_is_refused(door: Door, files: Files, stranger: Authority, tmp_path: Path) -> None:
    own = Files(stranger.folder / "ca.key", stranger.ca, files.ca)
    assert "refuses this one: unknown ca" in refused(door, own)


@pytest.mark.parametrize(
    ("name", "how"),
    [
        ("server-only", {"extensions": "extendedKeyUsage=serverAuth\n"}),
        ("small key", {"rsa": 1024}),
        (
            "ten thousand names",
            {"extensions": "subjectAltName=" + ",".join(f"DNS:h{n}.example" for n in range(10_000))},
        ),
    ],
)
def test_a_certificate_for_something_else_or_of_a_strange_size_is_refused(
    door: Door, files: Files, authority: Authority, name: str, how: dict[str, Any]
) -> None:
    theirs = authority.issue(name.replace(" ", "-"), "127.0.0.1", **how)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.set_ciphers("DEFAULT:@SECLEVEL=0")  # so that only the door can object
    context.load_verify_locations(files.ca)
    context.load_cert_chain(theirs.cert, theirs.key)
    with pytest.raises(ConnectionLost):
        Client("127.0.0.1", door.port, context=context)
    with door.client(files) as client:
        assert client.call("Host.ping2") is True


def test_a_client_without_certificate_is_refused(door: Door, files: Files) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.load_verify_locations(files.ca)
    with pytest.raises(ConnectionLost, match="certificate required"):
        Client("127.0.0.1", door.port, context=context)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_both_current_versions_of_tls_are_spoken(door: Door, files: Files, version: ssl.TLSVersion) -> None:
    context = client_context(files)
    context.minimum_version = context.maximum_version = version
    with Client("127.0.0.1", door.port, context=context) as client:
        assert client.call("Host.ping2") is True


def test_old_versions_of_tls_are_refused(door: Door, files: Files) -> None:
    context = client_context(files)
    context.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.warns(DeprecationWarning):
        context.minimum_version = ssl.TLSVersion.TLSv1
        context.maximum_version = ssl.TLSVersion.TLSv1_1
    with pytest.raises(ConnectionLost):
        Client("127.0.0.1", door.port, context=context)


def test_a_refused_client_does_not_disturb_those_inside(door: Door, files: Files, stranger: Authority) -> None:
    with door.client(files) as client:
        for _ in range(3):
            with socket.create_connection(door.address) as sock:
                sock.sendall(b"garbage" * 100)
                assert was_closed(sock)
            assert client.call("Host.ping2") is True


# Names, roles


def test_a_certificate_may_have_to_name_its_address(authority: Authority, files: Files) -> None:
    peer = Peer("host7.example", "commonName=host7.example")
    assert matches_address(peer, "10.0.0.7", ["HOST7.example"])
    assert matches_address(Peer("10.0.0.7", ""), "::ffff:10.0.0.7", [])
    assert not matches_address(peer, "10.0.0.7", ["host8.example", "10.0.0.7"])
    assert not matches_address(Peer("", ""), "10.0.0.7", [""])
    for own in ("127.0.0.1", "::1", "::ffff:127.0.0.1"):
        assert matches_address(peer, own, [])


def test_this_host_needs_no_matching_name(authority: Authority, files: Files) -> None:
    with open_door(files, verify_names=True) as door, door.client(authority.issue("other", "elsewhere")) as client:
        assert client.call("Host.ping2") is True


def test_other_hosts_may_be_kept_to_what_a_migration_needs(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    # Every peer of a test comes from this host, which is always trusted.
    monkeypatch.setattr("vdsm_mp.clientif.gate.is_loopback", lambda address: False)
    answers = {"Host.getVMList": always([]), "VM.destroy": always(True)}
    with open_door(files, engine_names=["engine.example"], answers=answers) as door, door.client(files) as client:
        assert client.call("Host.ping2") is True
        assert client.call("VM.destroy", {"vmID": "x"}) is True
        with pytest.raises(RemoteError, match=r"may not call Host\.getVMList"):
            client.call("Host.getVMList")
        assert [asked.verb for asked in door.bus.asked] == ["VM.destroy"]


def test_the_engine_may_call_everything(files: Files, authority: Authority, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vdsm_mp.clientif.gate.is_loopback", lambda address: False)
    engine = authority.issue("engine", "engine.example")
    with (
        open_door(files, engine_names=["Engine.example"], answers={"Host.getVMList": always([])}) as door,
        door.client(engine) as client,
    ):
        assert client.call("Host.getVMList") == []


# Certificates that change


@pytest.fixture
def own_files(authority: Authority, files: Files, tmp_path: Path) -> Files:
    """A copy of the set that a test may spoil."""
    mine = Files.below(tmp_path / "pki")
    for source, target in ((files.key, mine.key), (files.cert, mine.cert), (files.ca, mine.ca)):
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, target)
    return mine


def replace(target: Path, source: Path) -> None:
    """As enrolment does it: a new file under the old name."""
    fresh = target.with_suffix(".new")
    shutil.copy(source, fresh)
    fresh.replace(target)


def test_a_renewed_certificate_is_shown_to_the_next_client(
    own_files: Files, files: Files, authority: Authority
) -> None:
    renewed = authority.issue("renewed", "127.0.0.1")
    with open_door(own_files) as door, door.client(files) as old_client:
        before = shown_cert(door, files)
        replace(own_files.key, renewed.key)
        # Half way the pair does not fit; the old one stays.
        assert shown_cert(door, files) == before
        replace(own_files.cert, renewed.cert)
        after = shown_cert(door, files)
        assert after != before
        assert ssl.DER_cert_to_PEM_cert(after) == renewed.cert.read_text()
        assert old_client.call("Host.ping2") is True


@pytest.mark.parametrize("spoil", ["garbage", "empty", "gone", "expired", "foreign", "other_ca"])
def test_a_set_that_cannot_work_is_refused_and_the_old_one_kept(
    own_files: Files, files: Files, authority: Authority, stranger: Authority, spoil: str
) -> None:
    with open_door(own_files) as door:
        before = shown_cert(door, files)
        if spoil == "garbage":
            own_files.cert.write_text("-----BEGIN CERTIFICATE-----\nnonsense\n")
        elif spoil == "empty":
            own_files.key.write_bytes(b"")
        elif spoil == "gone":
            own_files.ca.unlink()
        elif spoil == "expired":
            old = authority.issue("old", "127.0.0.1", start="20200101000000Z")
            replace(own_files.cert, old.cert)
            replace(own_files.key, old.key)
        elif spoil == "foreign":
            theirs = stranger.issue("theirs", "127.0.0.1")
            replace(own_files.cert, theirs.cert)
            replace(own_files.key, theirs.key)
        else:
            replace(own_files.ca, stranger.ca)
        assert shown_cert(door, files) == before
        tls = door.server.policy.tls
        assert tls is not None and str(own_files.cert.parent.parent) in tls.refused
        # Whatever was wrong, the right files heal it.
        for source, target in ((files.key, own_files.key), (files.cert, own_files.cert), (files.ca, own_files.ca)):
            replace(target, source)
        shown_cert(door, files)
        assert tls.refused == ""


def test_without_any_certificate_nobody_comes_in_until_there_is_one(own_files: Files, files: Files) -> None:
    own_files.cert.unlink()
    with open_door(own_files) as door:
        refused(door, files)
        replace(own_files.cert, files.cert)
        with door.client(files) as client:
            assert client.call("Host.ping2") is True


def test_files_are_read_only_when_they_have_changed(own_files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    loads = []
    real = ssl.SSLContext.load_cert_chain
    monkeypatch.setattr(
        ssl.SSLContext, "load_cert_chain", lambda self, *args: (loads.append(args), real(self, *args))[1]
    )
    tls = ServerTls(own_files)
    first = tls.context()
    after_first = len(loads)
    assert all(tls.context() is first for _ in range(50))
    assert len(loads) == after_first
    # A change of the mode alone is a change: the file may have become readable.
    os.chmod(own_files.key, 0o400)
    assert tls.context() is not first


def test_no_context_ever_is_an_error_that_names_the_file(tmp_path: Path) -> None:
    with pytest.raises(NoCertificates, match=r"keys/vdsmkey\.pem: No such file"):
        ServerTls(Files.below(tmp_path)).context()


def test_the_days_left_are_known(own_files: Files, authority: Authority, tmp_path: Path) -> None:
    left = days_left(own_files.cert)
    assert left is not None and 29 < left <= 30
    assert days_left(own_files.cert, now_s=time.time() + 40 * 86400) == pytest.approx(left - 40, abs=0.01)
    late = authority.issue("late", "x", start="20500101000000Z")
    assert days_left(late.cert) > 8000  # type: ignore[operator]
    (tmp_path / "bad.pem").write_text("nonsense")
    assert days_left(tmp_path / "bad.pem") is None
    assert days_left(tmp_path / "none.pem") is None


# Revocation


def test_a_revoked_certificate_is_refused_from_the_next_connection_on(tmp_path: Path) -> None:
    authority = make_authority(tmp_path / "ca")
    host, lost = authority.issue("host", "127.0.0.1"), authority.issue("lost", "lost.example")
    crl = tmp_path / "crl.pem"
    authority.write_crl(crl)
    with open_door(Files(host.key, host.cert, host.ca, crl)) as door:
        door.client(lost).close()
        authority.revoke(lost.cert)
        authority.write_crl(crl)
        assert "certificate revoked" in refused(door, lost)
        door.client(host).close()


def test_a_revocation_list_that_is_gone_or_broken_leaves_the_old_one_in_force(tmp_path: Path) -> None:
    authority = make_authority(tmp_path / "ca")
    host, lost = authority.issue("host", "127.0.0.1"), authority.issue("lost", "lost.example")
    crl = tmp_path / "crl.pem"
    authority.revoke(lost.cert)
    authority.write_crl(crl)
    with open_door(Files(host.key, host.cert, host.ca, crl)) as door:
        assert "certificate revoked" in refused(door, lost)
        for spoil in (lambda: crl.write_text("nonsense"), crl.unlink):
            spoil()
            assert "certificate revoked" in refused(door, lost)
            door.client(host).close()


def test_an_expired_revocation_list_still_revokes_and_does_not_close_the_door(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    authority = make_authority(tmp_path / "ca")
    host, lost = authority.issue("host", "127.0.0.1"), authority.issue("lost", "lost.example")
    crl = tmp_path / "crl.pem"
    authority.revoke(lost.cert)
    authority.write_crl(crl, seconds=2)
    with open_door(Files(host.key, host.cert, host.ca, crl)) as door:
        door.client(host).close()
        tls = door.server.policy.tls
        assert tls is not None
        eventually(lambda: tls.crl_expired, within_s=5)
        door.client(host).close()
        refused(door, lost)
    assert "commonName=lost.example, is revoked" in caplog.text
