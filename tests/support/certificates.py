# SPDX-License-Identifier: Apache-2.0
"""Certificates for tests, made by openssl on the spot: a CA, and whatever a test wants signed by it."""

import subprocess
from dataclasses import dataclass
from pathlib import Path

from vdsm_mp.wire.tls import Files


def _openssl(*argv: str, cwd: Path) -> None:
    subprocess.run(("openssl", *argv), cwd=cwd, check=True, capture_output=True, timeout=30)


@dataclass(frozen=True)
class Authority:
    """A CA in a folder of its own."""

    folder: Path

    @property
    def ca(self) -> Path:
        return self.folder / "ca.pem"

    def issue(
        self, name: str, common_name: str, *, days: int = 30, start: str = "", rsa: int = 0, extensions: str = ""
    ) -> Files:
        """A key and a certificate of this CA below `folder`/`name`, laid out as below /etc/pki/vdsm.

        start: "YYYYMMDDHHMMSSZ" of notBefore; with it, `days` count from there. rsa: bits, 0 = a key on a curve.
        extensions: lines of OpenSSL's configuration.
        """
        files = Files.below(self.folder / name)
        for path in (files.key, files.cert):
            path.parent.mkdir(parents=True, exist_ok=True)
        kind = (f"rsa:{rsa}",) if rsa else ("ec", "-pkeyopt", "ec_paramgen_curve:P-256")
        request = self.folder / f"{name}.csr"
        subject = f"/O=Test/CN={common_name}"
        _openssl(
            "req", "-newkey", *kind, "-nodes", "-keyout", str(files.key), "-out", str(request), "-subj", subject,
            cwd=self.folder,
        )  # fmt: skip
        self.sign(request, files.cert, days=days, start=start, extensions=extensions)
        files.ca.write_bytes(self.ca.read_bytes())
        return files

    def sign(self, request: Path, cert: Path, *, days: int = 30, start: str = "", extensions: str = "") -> None:
        dates: tuple[str, ...] = ("-days", str(days))
        if start:
            year = int(start[:4])
            dates = ("-startdate", start, "-enddate", f"{year + max(1, days // 365)}{start[4:]}")
        more: tuple[str, ...] = ()
        if extensions:
            (self.folder / "extensions.cnf").write_text(extensions)
            more = ("-extfile", "extensions.cnf")
        _openssl(
            "ca", "-batch", "-config", "ca.cnf", "-in", str(request), "-out", str(cert), "-notext", *dates, *more,
            cwd=self.folder,
        )  # fmt: skip

    def revoke(self, cert: Path) -> None:
        _openssl("ca", "-config", "ca.cnf", "-revoke", str(cert), cwd=self.folder)

    def write_crl(self, crl: Path, *, seconds: int = 3600) -> None:
        _openssl("ca", "-config", "ca.cnf", "-gencrl", "-crlsec", str(seconds), "-out", str(crl), cwd=self.folder)


_CONFIG = """
[ca]
default_ca = here
[here]
database = index.txt
serial = serial
crlnumber = crlnumber
new_certs_dir = issued
certificate = ca.pem
private_key = ca.key
default_md = sha256
policy = any
unique_subject = no
copy_extensions = none
default_crl_days = 30
[any]
organizationName = optional
commonName = supplied
"""


def make_authority(folder: Path, *, name: str = "Test CA") -> Authority:
    """A new CA in an empty folder."""
    (folder / "issued").mkdir(parents=True)
    (folder / "ca.cnf").write_text(_CONFIG)
    (folder / "index.txt").write_text("")
    (folder / "serial").write_text("1000")
    (folder / "crlnumber").write_text("01")
    _openssl(
        "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", "ca.key",
        "-out", "ca.pem", "-days", "60", "-subj", f"/O=Test/CN={name}", cwd=folder,
    )  # fmt: skip
    return Authority(folder)
