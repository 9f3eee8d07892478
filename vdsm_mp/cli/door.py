# SPDX-License-Identifier: Apache-2.0
"""A connection from the command line to the public door, here or on another host, with this host's certificate."""

import argparse
from pathlib import Path

from vdsm_mp.common import config
from vdsm_mp.wire.client import Client
from vdsm_mp.wire.tls import Files, client_context

#: What `main` turns into one line on stderr.
SAYS_NO = ()


def arguments(parser: argparse.ArgumentParser) -> None:
    """--host, --port, --pki, --plain, --timeout."""
    parser.add_argument("--host", default="localhost", help="another host (this one)")
    parser.add_argument("--port", type=int, help="its port (that of this host's configuration)")
    parser.add_argument(
        "--pki", type=Path, help="directory with keys/vdsmkey.pem and certs/ (that of the configuration)"
    )
    parser.add_argument("--plain", action="store_true", help="without TLS")
    parser.add_argument("--timeout", type=float, default=60.0, metavar="SECONDS", help="for each call (60)")


def connect(asked: argparse.Namespace) -> Client:
    """Raises ConnectionLost, OSError (the key cannot be read: only root and the agent's user may)."""
    loaded, _ = config.load_usable()
    tls = loaded.vars.ssl and not asked.plain
    context = client_context(Files.below(asked.pki or loaded.vdsm_mp.pki_dir)) if tls else None
    port = asked.port or loaded.addresses.management_port
    return Client(asked.host, port, context=context, timeout_s=min(15.0, asked.timeout))
