# SPDX-License-Identifier: Apache-2.0
"""The host knows its own name without DNS: sudo looks it up at every start, and waits when the network is broken."""

import socket
from pathlib import Path

from provisioning.foreign import Ledger, text_of
from provisioning.say import say

HOSTS = Path("/etc/hosts")


def ensure() -> None:
    """Name this host in /etc/hosts, as Debian's installer does, when nothing there does."""
    name = socket.gethostname()
    lines = text_of(HOSTS).splitlines() if HOSTS.exists() else []
    if any(name in line.partition("#")[0].split()[1:] for line in lines):
        return
    say(f"naming this host in {HOSTS}: 127.0.1.1 {name}")
    Ledger().line(HOSTS, f"127.0.1.1\t{name}")
