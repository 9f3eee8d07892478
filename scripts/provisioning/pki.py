# SPDX-License-Identifier: Apache-2.0
"""Certificates of a demo CA, where the agent expects an engine's. Never replaces anybody else's.

The host's certificate serves as server and as client (no extendedKeyUsage): a migration source calls the destination
with it. A second certificate plays the engine.
"""

import os
import shutil
import socket
from dataclasses import dataclass
from pathlib import Path

from provisioning.say import run, say

#: Who issues them.
_DEMO = "vdsm-mp demo"
DAYS = "825"
LAST_S = str(7 * 86400)  # a certificate that ends within a week is made anew


@dataclass(frozen=True)
class Pki:
    """Where the files are. `directory` is what option [vdsm_mp] pki_dir names."""

    directory: Path
    authority: Path

    @property
    def key(self) -> Path:
        return self.directory / "keys/vdsmkey.pem"

    @property
    def certificate(self) -> Path:
        return self.directory / "certs/vdsmcert.pem"

    @property
    def ca(self) -> Path:
        return self.directory / "certs/cacert.pem"

    @property
    def engine_key(self) -> Path:
        return self.authority / "engine-key.pem"

    @property
    def engine_certificate(self) -> Path:
        return self.authority / "engine-cert.pem"


HOST = Pki(Path("/etc/pki/vdsm"), Path("/etc/pki/vdsm-demo-ca"))


def ensure(pki: Pki, *, owner: tuple[str, str] | None = ("vdsm", "kvm")) -> bool:
    """Make what is missing or about to end. owner: of the host's key, (user, group).

    Returns False when the host's own are used. Raises Failure when openssl says no.
    """
    # An engine lays its own where the demo's were; the demo CA stays beside them.
    there = [path for path in (pki.certificate, pki.ca) if path.exists()]
    if there and not ((pki.authority / "ca-cert.pem").exists() and all(map(_demos, there))):
        say(f"using the certificates in {pki.directory}: they are not of the demo CA")
        return False
    for folder, mode in ((pki.authority, 0o700), (pki.key.parent, 0o750), (pki.certificate.parent, 0o755)):
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(mode)
    pki.directory.chmod(0o755)
    if owner is not None:
        _take_folder(pki.key, owner[1])
    ca_key, ca = pki.authority / "ca-key.pem", pki.authority / "ca-cert.pem"
    if not _good(ca):
        say(f"making a demo CA in {pki.authority}")
        _openssl(
            "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", ca_key, "-out", ca, "-days", DAYS,
            "-subj", f"/O={_DEMO}/CN=demo CA of {socket.gethostname()}",
            "-addext", "basicConstraints=critical,CA:TRUE", "-addext", "keyUsage=critical,keyCertSign,cRLSign",
        )  # fmt: skip
        for stale in (pki.certificate, pki.engine_certificate):
            stale.unlink(missing_ok=True)
    name = socket.gethostname()
    issue(pki, pki.key, pki.certificate, name, f"DNS:{name},DNS:localhost,IP:127.0.0.1,IP:::1")
    issue(pki, pki.engine_key, pki.engine_certificate, "demo engine", "DNS:engine.localdomain")
    new = pki.ca.with_suffix(".new")
    shutil.copyfile(ca, new)
    new.replace(pki.ca)
    for path in (pki.ca, pki.certificate):
        path.chmod(0o644)
    pki.key.chmod(0o440)
    if owner is not None:
        shutil.chown(pki.key, *owner)
    return True


def _take_folder(key: Path, group: str) -> None:
    """Root's own, who reads the key may only pass: a link in the place of the key would be written through, and what
    it leads to be given away. The folder was the agent's once, so what is no plain file goes.
    """
    shutil.chown(key.parent, "root", group)
    if key.is_symlink() or (key.exists() and key.stat().st_nlink > 1):
        key.unlink()


def issue(pki: Pki, key: Path, certificate: Path, name: str, alternatives: str, *, days: str = DAYS) -> None:
    """A key and a certificate of the demo CA, unless a good one is there."""
    if key.exists() and _good(certificate):
        return
    request, extensions = pki.authority / "request.pem", pki.authority / "extensions.cnf"
    _openssl("req", "-newkey", "rsa:2048", "-nodes", "-keyout", key, "-out", request, "-subj", f"/O={_DEMO}/CN={name}")
    extensions.write_text(
        f"basicConstraints=CA:FALSE\nkeyUsage=digitalSignature,keyEncipherment\nsubjectAltName={alternatives}\n"
    )
    new = certificate.with_suffix(".new")  # replaced in one step: the door reads the files for each connection
    _openssl(
        "x509", "-req", "-in", request, "-CA", pki.authority / "ca-cert.pem", "-CAkey", pki.authority / "ca-key.pem",
        "-set_serial", str(int.from_bytes(os.urandom(15), "big")), "-days", days, "-extfile", extensions, "-out", new,
    )  # fmt: skip
    new.replace(certificate)


def _demos(certificate: Path) -> bool:
    """Is it of a demo CA?"""
    asked = ["openssl", "x509", "-in", certificate, "-noout", "-issuer"]
    return _DEMO in run(asked, why="reading who issued a certificate", check=False)


def _good(certificate: Path) -> bool:
    if not certificate.exists():
        return False
    said = run(
        ["openssl", "x509", "-in", certificate, "-noout", "-checkend", LAST_S, "-ext", "basicConstraints"],
        why="reading a certificate's end", check=False,
    )  # fmt: skip
    return "will not expire" in said


def _openssl(*words: str | Path) -> None:
    run(["openssl", *words], why="making certificates")
