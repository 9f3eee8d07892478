# SPDX-License-Identifier: Apache-2.0
"""Clients that keep addresses from DHCP servers: dhclient, one for each device and family. Root side, standard library.

They leave our session and outlive us on purpose: an address has to be renewed whoever restarts.
"""

import os
import re
import signal
import syslog
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from vdsm_mp.priv.child import OperationFailed, OutOfTime, Refused
from vdsm_mp.priv.context import Context
from vdsm_mp.priv.systemlog import SystemLog

_DHCLIENT = "/usr/sbin/dhclient"
#: dhclient's script reads what lies here before it applies an answer. Routers of a network without the default route
#: are asked for, because its answers by source need them, and must not become the host's way out.
_HOOK = Path("/etc/dhcp/dhclient-enter-hooks.d/vdsm-mp")
_NO_ROUTE = "VDSM_MP_NO_ROUTE"
_HOOK_TEXT = f"""# Written by vdsm-mp: the gateway of this network is not the host's.
if [ -n "${{{_NO_ROUTE}:-}}" ]; then
    new_routers=""
    old_routers=""
fi
"""
_IPV6_ADDRESSES = Path("/proc/self/net/if_inet6")
#: IFA_F_TENTATIVE: the kernel still looks whether somebody else has the address.
_TENTATIVE = 0x40
#: Longest wait for a link-local address, without which DHCPv6 cannot be spoken.
_LINK_LOCAL_S = 8.0
_ENDS_S = 5.0
#: Until the client that stays has written its number.
_SETTLES_S = 2.0


class _Client:
    """Files lie where Debian's AppArmor profile lets dhclient write."""

    def __init__(self, p: Mapping[str, Any]) -> None:
        if p["name"] == "lo":
            raise Refused("lo is not ours")
        self.name = str(p["name"])
        self.six = bool(p.get("six"))
        self.own = _own(self.name, six=self.six)

    def argv(self, *words: str) -> list[str]:
        if not Path(_DHCLIENT).exists():
            raise OperationFailed("dhclient (package isc-dhcp-client) is not installed")
        family = "-6" if self.six else "-4"
        files = ["-pf", f"/run/{self.own}.pid", "-lf", f"/var/lib/dhcp/{self.own}.leases"]
        return [_DHCLIENT, family, *words, *files, self.name]

    def pid(self) -> int | None:
        return client_pid(self.name, six=self.six)


def client_pid(name: str, *, six: bool) -> int | None:
    """None when there is no client, or the number in its file belongs to another program by now. Anybody may look."""
    try:
        pid = int(Path(f"/run/{_own(name, six=six)}.pid").read_text(encoding="ascii"))
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except (OSError, ValueError):
        return None
    return pid if words[0].endswith(b"dhclient") and name.encode() in words else None


def router_of(name: str, ip: str) -> str:
    """The first router of the last lease of this IPv4 address; "" when the server told none. Anybody may look."""
    try:
        text = Path(f"/var/lib/dhcp/{_own(name, six=False)}.leases").read_text(encoding="ascii", errors="replace")
    except OSError:
        return ""
    return lease_router(text, ip)


def lease_router(leases: str, ip: str) -> str:
    """From dhclient's file, the last lease last: "lease { … fixed-address 192.0.2.9; option routers 192.0.2.1; … }"."""
    found = ""
    for lease in re.findall(r"^lease \{(.*?)^\}", leases, re.MULTILINE | re.DOTALL):
        if re.search(rf"^\s*fixed-address {re.escape(ip)};", lease, re.MULTILINE):
            told = re.search(r"^\s*option routers ([0-9.]+)", lease, re.MULTILINE)
            found = told[1] if told is not None else ""
    return found


def _own(name: str, *, six: bool) -> str:
    return f"dhclient{'6' if six else ''}-vdsm-{name}"


def _start(context: Context, p: Mapping[str, Any]) -> None:
    client = _Client(p)
    if client.pid() is not None:
        return
    if client.six and not _link_local_comes(context, client.name):
        if p.get("wait"):
            raise OperationFailed(f"{client.name} has no link-local IPv6 address, without which DHCPv6 is mute")
        return  # nobody at the other end of the wire: the caller looks again
    config = Path(f"/var/lib/dhcp/{client.own}.conf")
    kept_out = not client.six and not p.get("routes") and _hook()
    config.write_text(_asks(p, routers=bool(p.get("routes")) or kept_out), encoding="ascii")
    words = ["-1"] if p.get("wait") else ["-nw"]
    if kept_out:
        words += ["-e", f"{_NO_ROUTE}=yes"]
    context.children.run(client.argv(*words, "-cf", str(config)), context.deadline_mono)
    until = time.monotonic() + _SETTLES_S
    while client.pid() is None and time.monotonic() < until:
        time.sleep(0.05)


def _hook() -> bool:
    """False where dhclient's script reads no hooks, or nobody may write them."""
    if not _HOOK.parent.is_dir():
        return False
    try:
        if not _HOOK.exists() or _HOOK.read_text(encoding="ascii", errors="replace") != _HOOK_TEXT:
            new = _HOOK.parent / ".vdsm-mp.new"
            new.write_text(_HOOK_TEXT, encoding="ascii")
            new.chmod(0o644)
            new.replace(_HOOK)
    except OSError as error:
        # An address matters more than its answers by source.
        log = SystemLog("vdsm-helper-network", syslog.LOG_AUTH)
        log.say(syslog.LOG_WARNING, f"{_HOOK} cannot be written: {error}")
        log.close()
        return False
    return True


def _asks(p: Mapping[str, Any], *, routers: bool) -> str:
    """What is asked of the server; Debian's script applies whatever the answer has."""
    if p.get("six"):
        # Of routes routers tell, not servers. An empty list would be the standard one.
        return f"request {'dhcp6.name-servers, dhcp6.domain-search' if p.get('dns') else 'dhcp6.fqdn'};\n"
    asked = ["subnet-mask", "broadcast-address", "interface-mtu"]
    if routers:
        asked += ["routers"]
    if p.get("routes"):
        asked += ["rfc3442-classless-static-routes"]
    if p.get("dns"):
        asked += ["domain-name-servers", "domain-name", "domain-search"]
    option = "option rfc3442-classless-static-routes code 121 = array of unsigned integer 8;\n"
    return f"{option}request {', '.join(asked)};\n"


def _link_local_comes(context: Context, name: str) -> bool:
    until = min(context.deadline_mono, time.monotonic() + _LINK_LOCAL_S)
    while not _has_link_local(name):
        if time.monotonic() > until:
            return False
        time.sleep(0.1)
    return True


def _has_link_local(name: str) -> bool:
    for line in _IPV6_ADDRESSES.read_text(encoding="ascii").splitlines():
        address, _, _, _, flags, device = line.split()
        if device == name and address.startswith("fe8") and not int(flags, 16) & _TENTATIVE:
            return True
    return False


def _stop(context: Context, p: Mapping[str, Any]) -> None:
    client = _Client(p)
    pid = client.pid()
    if pid is None:
        return
    try:
        context.children.run(client.argv("-r"), context.deadline_mono)
    except (OperationFailed, OutOfTime):
        # The server or the device is gone; without its client the address ends by itself.
        os.kill(pid, signal.SIGTERM)
    until = time.monotonic() + _ENDS_S
    while client.pid() is not None and time.monotonic() < until:
        time.sleep(0.05)
    if (left := client.pid()) is not None:
        os.kill(left, signal.SIGKILL)


HANDLERS: Mapping[str, Callable[[Context, Mapping[str, Any]], None]] = {"dhcp-start": _start, "dhcp-stop": _stop}
