# SPDX-License-Identifier: Apache-2.0
"""A connection from the command line to the public door, here or on another host, with this host's certificate."""

import argparse
import os
import ssl
from pathlib import Path

from vdsm_mp.cli import numbers
from vdsm_mp.common import config
from vdsm_mp.wire.client import Client
from vdsm_mp.wire.tls import Files, client_context


class NoCertificate(Exception):
    """This host's key or certificates cannot be read or used; the sentence names the file."""


#: What `main` turns into one line on stderr.
SAYS_NO = (NoCertificate,)


def arguments(parser: argparse.ArgumentParser) -> None:
    """--host, --port, --pki, --plain, --timeout."""
    parser.add_argument("--host", default="localhost", help="another host (this one)")
    parser.add_argument("--port", type=numbers.port, help="its port (that of this host's configuration)")
    parser.add_argument(
        "--pki", type=Path, help="directory with keys/vdsmkey.pem and certs/ (that of the configuration)"
    )
    parser.add_argument("--plain", action="store_true", help="without TLS")
    parser.add_argument("--timeout", type=numbers.seconds, default=60.0, metavar="SECONDS", help="for each call (60)")


def connect(asked: argparse.Namespace) -> Client:
    """Raises ConnectionLost, NoCertificate. A fault in the files must not keep anybody from an agent that runs."""
    loaded, _ = config.load_usable()
    tls = loaded.vars.ssl and not asked.plain
    context = None
    if tls:
        files = Files.below(asked.pki or loaded.vdsm_mp.pki_dir)
        for path in (files.key, files.cert, files.ca):
            _require_readable(path)
        try:
            context = client_context(files)
        except ssl.SSLError as error:
            raise NoCertificate(_why_unusable(files, error)) from error
    port = asked.port or loaded.addresses.management_port
    host = asked.host.removeprefix("[").removesuffix("]")  # as IPv6 addresses are written beside ports
    return Client(host, port, context=context, timeout_s=min(15.0, asked.timeout))


def _why_unusable(files: Files, error: ssl.SSLError) -> str:
    """The TLS library names no file: which of them is no PEM at all, or else that they do not fit each other."""
    for path, begin in (
        (files.key, "PRIVATE KEY-----"),
        (files.cert, "CERTIFICATE-----"),
        (files.ca, "CERTIFICATE-----"),
    ):
        if begin not in path.read_text(errors="replace"):
            return f"{path}: there is no {begin.rstrip('-').lower()} in it"
    return f"{files.key}, {files.cert} and {files.ca} cannot be used together: {error.reason or error}"


def _require_readable(path: Path) -> None:
    """The TLS library does not say which of its files it could not read."""
    try:
        with path.open("rb"):
            return
    except OSError as error:
        who = "; run it as root or as the agent's user" if isinstance(error, PermissionError) and os.geteuid() else ""
        raise NoCertificate(f"{path}: {error.strerror}{who}") from error
