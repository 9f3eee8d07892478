# SPDX-License-Identifier: Apache-2.0
"""The hook of dhclient for networks whose gateway is not the host's: root's side writes it (vdsm_mp/priv/dhcp.py)."""

from pathlib import Path

HOOK = Path("/etc/dhcp/dhclient-enter-hooks.d/vdsm-mp")
_NEEDED = b"VDSM_MP_NO_ROUTE"


def forget_hook(*, hook: Path = HOOK, proc: Path = Path("/proc")) -> str | None:
    """Remove it, unless a client of such a network runs: without it, its next lease would move the host's way out.

    Returns a note when it stays.
    """
    if not hook.exists():
        return None
    if any(_needs_it(folder) for folder in proc.glob("[0-9]*")):
        return (
            f"{hook} stays: networks with DHCP that the agent set up are still there and need it; remove it with them"
        )
    hook.unlink()
    return None


def _needs_it(process: Path) -> bool:
    try:
        words = (process / "cmdline").read_bytes().split(b"\0")
    except OSError:
        return False  # gone
    return words[0].endswith(b"dhclient") and any(word.startswith(_NEEDED) for word in words)
