# SPDX-License-Identifier: Apache-2.0
"""TLS for both ends: contexts from the files below /etc/pki/vdsm, who the peer is, how long certificates last.

A renewed certificate is in force for the next connection, without a restart and without reading files that have not
changed: `ServerTls.context()` looks at their inodes, sizes and times only. A new set that cannot work (a key that
does not fit, a certificate that its own CA refuses, expired, unreadable) is refused and named in the log, and the
old one stays. Only the CA of the set is trusted; client certificates are required.

A revocation list that has expired goes on revoking whom it names, and the door stays open: a forgotten renewal must
not make a host vanish. The log says so.
"""

import base64
import contextlib
import ssl
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
from msgspec.structs import replace

from vdsm_mp.common import log
from vdsm_mp.common.errors import Unavailable
from vdsm_mp.wire import der

logger = log.named(__name__)


class NoCertificates(Unavailable):
    """There is no set of files that works, so nobody can be let in."""

    code = -32603
    msg = "TLS cannot be used: {self.why}"

    def __init__(self, why: str) -> None:
        super().__init__(why)
        self.why = why


class Files(msgspec.Struct, frozen=True):
    """One set. crl: certificate revocation list in PEM, None = not used."""

    key: Path
    cert: Path
    ca: Path
    crl: Path | None = None

    @classmethod
    def below(cls, pki_dir: str | Path, crl: str | Path | None = None) -> "Files":
        """The set where VDSM and host deploy keep it."""
        pki = Path(pki_dir)
        return cls(
            pki / "keys/vdsmkey.pem", pki / "certs/vdsmcert.pem", pki / "certs/cacert.pem", Path(crl) if crl else None
        )


def server_context(files: Files) -> ssl.SSLContext:
    """A new server context from the files. Raises: OSError (ssl.SSLError is one of them).

    With a revocation list, OpenSSL refuses whom it names, and everybody once the list has expired.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.verify_mode = ssl.CERT_REQUIRED
    # Nobody resumes TLS 1.3 sessions here, and their tickets would only delay the first answer.
    context.num_tickets = 0
    _load(context, files)
    return context


def client_context(files: Files) -> ssl.SSLContext:
    """A new client context from the files: the server must show a certificate of the CA, by whatever name."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    # Hosts are called by addresses that their certificates need not name.
    context.check_hostname = False
    _load(context, files)
    return context


def _load(context: ssl.SSLContext, files: Files) -> None:
    # The engine speaks 1.2.
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
    context.load_cert_chain(files.cert, files.key)
    context.load_verify_locations(files.ca)
    if files.crl is not None:
        context.load_verify_locations(files.crl)
        context.verify_flags |= ssl.VERIFY_CRL_CHECK_LEAF


def handshake_with_itself(server: ssl.SSLContext, client: ssl.SSLContext) -> None:
    """Prove in memory that a peer with the same files can come in. Raises: ssl.SSLError."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = (
        client.wrap_bio(to_client, to_server, server_side=False),
        server.wrap_bio(to_server, to_client, server_side=True),
    )
    for _ in range(8):
        waiting = 0
        for end in ends:
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                waiting += 1
        if not waiting:
            return
    raise ssl.SSLError(1, "the handshake does not end")


#: A refused set is tried again after so long, though its files are the same.
_AGAIN_S = 5.0
#: What tells one version of a file from another without reading it.
_Stamp = tuple[int, int, int, int]


class ServerTls:
    """The server's context, always of the newest set of files that works.

    Not for threads: the door asks from its loop. `context()` costs a few stat calls when nothing changed and a few
    milliseconds when something did.
    """

    def __init__(self, files: Files) -> None:
        self.files = files
        self._context: ssl.SSLContext | None = None
        self._stamps: Sequence[_Stamp | None] | None = None
        self._refused = ""
        self._again_mono = 0.0
        self._revocations: der.Revocations | None = None
        self._crl_expired = False

    @property
    def crl_expired(self) -> bool:
        """Is the revocation list in use older than it may be?"""
        until_s = None if self._revocations is None else self._revocations.until_s
        return until_s is not None and time.time() >= until_s

    def revokes(self, peer: "Peer") -> bool:
        """For the time after the list has expired, when OpenSSL looks at it no more."""
        return self._revocations is not None and peer.serial in self._revocations.serials

    @property
    def refused(self) -> str:
        """Why the files on disk are not the ones in use; empty when they are."""
        return self._refused

    def context(self) -> ssl.SSLContext:
        """The context for the next connection. Raises: NoCertificates (none has ever worked)."""
        stamps = self._look()
        if stamps != self._stamps or self.crl_expired != self._crl_expired or self._try_again():
            self._stamps = stamps
            self._reload()
            self._crl_expired = self.crl_expired
        if self._context is None:
            raise NoCertificates(self._refused)
        return self._context

    def _try_again(self) -> bool:
        """What cannot be used now may become valid by time alone."""
        return bool(self._refused) and time.monotonic() >= self._again_mono

    def forget(self) -> None:
        """Read the files again at the next connection, whatever their times say."""
        self._stamps = None

    def days_left(self, *, now_s: float | None = None) -> float | None:
        """Days until the certificate on disk expires; negative when it has. None when it cannot be read."""
        return days_left(self.files.cert, now_s=now_s)

    def _reload(self) -> None:
        try:
            files, revocations = self.files, None
            if files.crl is not None:
                revocations = der.revocations(_der(files.crl.read_text("ascii"), "X509 CRL"))
                if revocations.until_s is not None and time.time() >= revocations.until_s:
                    logger.warning("revocation list %s has expired; whom it names stays out", files.crl)
                    files = replace(files, crl=None)
            context = server_context(files)
            handshake_with_itself(context, client_context(files))
        except (OSError, ValueError) as error:
            before, self._refused = self._refused, _named(error, self.files)
            self._again_mono = time.monotonic() + _AGAIN_S
            if self._refused != before:
                kept = "the set in use stays" if self._context else "no client can come in"
                logger.error("certificates refused: %s; %s", self._refused, kept)
            return
        again = self._context is not None
        self._context, self._refused, self._revocations = context, "", revocations
        left = self.days_left()
        logger.info("certificates %s, valid for %.0f days", "renewed" if again else "loaded", left or 0.0)

    def _look(self) -> Sequence[_Stamp | None]:
        paths = (self.files.key, self.files.cert, self.files.ca, self.files.crl)
        return tuple(_stamp(path) for path in paths if path is not None)


def _stamp(path: Path) -> _Stamp | None:
    try:
        status = path.stat()
    except OSError:
        return None
    # Owner and mode are part of it: a file that becomes readable is a new file.
    return (status.st_mtime_ns, status.st_ino, status.st_size, status.st_ctime_ns)


def _named(error: Exception, files: Files) -> str:
    """The error with the file that it is about, which OpenSSL does not say."""
    for path in (files.key, files.cert, files.ca, files.crl):
        if path is None:
            continue
        try:
            with open(path, "rb"):
                pass
        except OSError as unreadable:
            return f"{path}: {unreadable.strerror}"
    if (left := days_left(files.cert)) is not None and left < 0:
        return f"{files.cert}: expired {-left:.1f} days ago"
    reason = getattr(error, "verify_message", None) or getattr(error, "reason", None) or error
    return f"{files.cert} with {files.key} and {files.ca}: {reason}"


def days_left(cert: Path, *, now_s: float | None = None) -> float | None:
    """Days until the first certificate of a PEM file expires; negative when it has, None when it cannot be read."""
    with contextlib.suppress(OSError, ValueError):
        return (_validity(cert).not_after_s - (time.time() if now_s is None else now_s)) / 86400
    return None


def untimely(cert: Path, *, now_s: float | None = None) -> str:
    """Why nobody trusts the first certificate of a PEM file now: "ended 3 days ago"; "" while its time is right."""
    now = time.time() if now_s is None else now_s
    try:
        validity = _validity(cert)
    except (OSError, ValueError):
        return "cannot be read"
    if now < validity.not_before_s:
        return f"is not good for another {_span(validity.not_before_s - now)}; is this host's clock right?"
    return f"ended {_span(now - validity.not_after_s)} ago" if now >= validity.not_after_s else ""


def _span(seconds: float) -> str:
    return f"{seconds / 86400:.0f} days" if seconds >= 2 * 86400 else f"{seconds / 3600:.1f} hours"


def _validity(cert: Path) -> der.Validity:
    return der.validity(_der(cert.read_text("ascii"), "CERTIFICATE"))


def _der(pem: str, what: str) -> bytes:
    """DER of the first thing of a kind in a PEM text. Raises: ValueError."""
    _, begin, rest = pem.partition(f"-----BEGIN {what}-----")
    text, end, _ = rest.partition(f"-----END {what}-----")
    if not begin or not end:
        raise ValueError(f"no {what} in the file")
    return base64.b64decode(text)


class Peer(msgspec.Struct, frozen=True):
    """Whose certificate the other side showed. common_name: "" when it has none, or without TLS."""

    common_name: str
    subject: str
    serial: int = -1


NOBODY = Peer("", "")


def peer_of(connection: ssl.SSLSocket | ssl.SSLObject) -> Peer:
    """The identity of a verified peer."""
    certificate: Any = connection.getpeercert() or {}
    names = [(str(pair[0]), str(pair[1])) for rdn in certificate.get("subject", ()) for pair in rdn]
    common_names = [value for key, value in names if key == "commonName"]
    return Peer(
        common_names[-1] if common_names else "",
        ",".join(f"{key}={value}" for key, value in names),
        int(certificate.get("serialNumber", "-1"), 16),
    )


def plain_address(address: str) -> str:
    """An address without its IPv4-mapped form and without a scope."""
    return address.partition("%")[0].removeprefix("::ffff:")


def is_loopback(address: str) -> bool:
    """Is it this machine itself?"""
    address = plain_address(address)
    return address == "::1" or address.startswith("127.")


def matches_address(peer: Peer, address: str, names: Sequence[str]) -> bool:
    """`verify_client_cert`: is the common name the peer's address, or a name or address its reverse lookup gave?

    names: what the lookup gave. This machine itself needs no proof.
    """
    if is_loopback(address):
        return True
    wanted = peer.common_name.lower()
    return bool(wanted) and wanted in {plain_address(address).lower(), *(name.lower() for name in names)}
