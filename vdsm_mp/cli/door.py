# SPDX-License-Identifier: Apache-2.0
"""A connection from the command line to the public door, here or on another host, with this host's certificate."""

import argparse
import math
import os
from pathlib import Path

from vdsm_mp.common import config
from vdsm_mp.wire.client import Client
from vdsm_mp.wire.tls import Files, client_context


class NoCertificate(Exception):
    """This host's key or certificates cannot be read; the sentence names the file."""


#: What `main` turns into one line on stderr.
SAYS_NO = (NoCertificate,)


def arguments(parser: argparse.ArgumentParser) -> None:
    """--host, --port, --pki, --plain, --timeout."""
    parser.add_argument("--host", default="localhost", help="another host (this one)")
    parser.add_argument("--port", type=_port, help="its port (that of this host's configuration)")
    parser.add_argument(
        "--pki", type=Path, help="directory with keys/vdsmkey.pem and certs/ (that of the configuration)"
    )
    parser.add_argument("--plain", action="store_true", help="without TLS")
    parser.add_argument("--timeout", type=seconds, default=60.0, metavar="SECONDS", help="for each call (60)")


def seconds(word: str) -> float:
    """A time that can pass."""
    value = float(word)
    if not math.isfinite(value) or value <= 0:
        raise argparse.ArgumentTypeError(f"{word} is no time")
    return value


def _port(word: str) -> int:
    value = int(word)
    if not 0 < value < 65536:
        raise argparse.ArgumentTypeError(f"{word} is no port")
    return value


def connect(asked: argparse.Namespace) -> Client:
    """Raises ConnectionLost, NoCertificate. A fault in the files must not keep anybody from an agent that runs."""
    loaded, _ = config.load_usable()
    tls = loaded.vars.ssl and not asked.plain
    context = None
    if tls:
        files = Files.below(asked.pki or loaded.vdsm_mp.pki_dir)
        for path in (files.key, files.cert, files.ca):
            _require_readable(path)
        context = client_context(files)
    port = asked.port or loaded.addresses.management_port
    return Client(asked.host, port, context=context, timeout_s=min(15.0, asked.timeout))


def _require_readable(path: Path) -> None:
    """The TLS library does not say which of its files it could not read."""
    try:
        with path.open("rb"):
            return
    except OSError as error:
        who = "; run it as root or as the agent's user" if isinstance(error, PermissionError) and os.geteuid() else ""
        raise NoCertificate(f"{path}: {error.strerror}{who}") from error
