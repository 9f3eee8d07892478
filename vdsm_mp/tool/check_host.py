# SPDX-License-Identifier: Apache-2.0
"""`vdsm-mp check-host`: would this host work, and why not. Looks only; changes nothing; needs no running agent.

Run as root it judges for the agent's user. Exit code: 0 it would, 1 it would not.
"""

import argparse
import grp
import json
import os
import pwd
import shutil
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path

import msgspec
from msgspec.structs import asdict

from vdsm_mp.common import config
from vdsm_mp.common.options import Config
from vdsm_mp.wire.tls import Files, days_left, server_context, untimely

SAYS_NO = (config.ConfigError,)
SHARED_ID = 36
PROGRAMS = ("qemu-img", "qemu-system-x86_64", "sudo", "sanlock", "mount", "umount")
#: Where Enterprise Linux has what Debian has on the path.
ELSEWHERE = {"qemu-system-x86_64": "/usr/libexec/qemu-kvm"}
#: libvirtd's, or that of its modular successor.
LIBVIRT_SOCKETS = ("/run/libvirt/virtqemud-sock", "/run/libvirt/libvirt-sock")


class Finding(msgspec.Struct, frozen=True):
    """level: "ok", "note" (works, with a consequence) or "bad" (the agent or its work would fail)."""

    level: str
    about: str
    says: str


def arguments(parser: argparse.ArgumentParser, _name: str) -> None:
    parser.add_argument("--all", action="store_true", help="also what is well")
    parser.add_argument("--json", action="store_true", help="everything, as JSON")


def run(asked: argparse.Namespace) -> int:
    findings = list(check(config.load().config))
    bad = sum(finding.level == "bad" for finding in findings)
    if asked.json:
        print(json.dumps({"well": not bad, "findings": [asdict(finding) for finding in findings]}, indent=2))
        return 1 if bad else 0
    for finding in findings:
        if asked.all or finding.level != "ok":
            print(f"{finding.level:<5} {finding.about:<14} {finding.says}")
    print(
        f"{len(findings)} things looked at: {bad} would not work" if bad else f"{len(findings)} things looked at: well"
    )
    return 1 if bad else 0


def check(cfg: Config) -> Iterator[Finding]:
    """Everything that is looked at."""
    yield from _accounts(cfg)
    yield from _directories(cfg)
    yield from _programs()
    yield from _certificates(cfg)
    yield from _daemons(cfg)
    yield from _helpers(cfg)
    yield from _own_name()
    yield from _kvm()
    yield from _processes(cfg)


def _accounts(cfg: Config) -> Iterator[Finding]:
    house = cfg.vdsm_mp
    try:
        user, group = pwd.getpwnam(house.user), grp.getgrnam(house.group)
    except KeyError as error:
        yield Finding("bad", "accounts", f"{error.args[0]}: create it (scripts/provision does)")
        return
    for what, number in ((f"user {house.user}", user.pw_uid), (f"group {house.group}", group.gr_gid)):
        fine = number == SHARED_ID
        says = f"{what} has the number {number}"
        yield Finding(
            "ok" if fine else "note", "accounts", says + ("" if fine else f": shared storage expects {SHARED_ID}")
        )
    member = user.pw_gid == group.gr_gid or house.user in group.gr_mem
    yield Finding("ok" if member else "bad", "accounts", f"{house.user} is {'' if member else 'not '}in {house.group}")


def _directories(cfg: Config) -> Iterator[Finding]:
    house = cfg.vdsm_mp
    for name in (house.run_dir, house.vdsm_run_dir, house.state_dir, house.log_dir, cfg.irs.repository):
        path = Path(name)
        if not path.is_dir():
            yield Finding("bad", "directories", f"{name} does not exist")
            continue
        owner = _name(path.stat().st_uid)
        yield Finding("ok" if owner == house.user else "bad", "directories", f"{name} belongs to {owner}")
    free = shutil.disk_usage(house.log_dir if Path(house.log_dir).is_dir() else "/").free >> 20
    yield Finding("ok" if free > 500 else "note", "directories", f"{free} MiB are free for logs")


def _name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _programs() -> Iterator[Finding]:
    for name in PROGRAMS:
        where = shutil.which(name, path="/usr/bin:/usr/sbin:/bin:/sbin") or shutil.which(ELSEWHERE.get(name, name))
        yield Finding("ok" if where else "bad", "programs", where or f"{name} is not installed")


def _certificates(cfg: Config) -> Iterator[Finding]:
    if not cfg.vars.ssl:
        yield Finding("note", "certificates", "TLS is off: the door is open to this host only")
        return
    files = Files.below(cfg.vdsm_mp.pki_dir)
    try:
        server_context(files)
    except (OSError, ssl.SSLError) as error:
        yield Finding("bad", "certificates", f"{files.cert.parent.parent}: {error.strerror or error}")
        return
    for path in (files.cert, files.ca):
        if fault := untimely(path):
            yield Finding("bad", "certificates", f"{path} {fault}")
        elif (days := days_left(path)) is not None:
            yield Finding("ok" if days > 14 else "note", "certificates", f"{path} ends in {days:.0f} days")


def _daemons(cfg: Config) -> Iterator[Finding]:
    libvirt = next((path for path in LIBVIRT_SOCKETS if Path(path).exists()), LIBVIRT_SOCKETS[-1])
    for name, path in (("libvirtd", libvirt), ("sanlock", "/run/sanlock/sanlock.sock")):
        if name == "libvirtd" and not cfg.vdsm_mp.libvirt_uri.startswith("qemu:///system"):
            continue
        with socket.socket(socket.AF_UNIX) as probe:
            probe.settimeout(3)
            try:
                probe.connect(path)
            except OSError as error:
                needed = "bad" if name == "libvirtd" else "note"
                yield Finding(needed, "daemons", f"{name} does not answer: {path}: {error.strerror or error}")
                continue
        yield Finding("ok", "daemons", f"{name} answers")


def _helpers(cfg: Config) -> Iterator[Finding]:
    for role in ("storage", "network", "virt"):
        path = Path(cfg.vdsm_mp.libexec_dir) / f"helper-{role}"
        if not path.exists():
            yield Finding("bad", "root", f"{path} is not installed")
        elif path.stat().st_uid or path.stat().st_mode & 0o022:
            yield Finding("bad", "root", f"{path} can be changed by others than root")
        else:
            yield Finding("ok", "root", f"{path}")


def _own_name() -> Iterator[Finding]:
    """sudo looks it up at every start: without an entry it waits for DNS, most of all when the network is broken."""
    name = socket.gethostname()
    hosts = Path("/etc/hosts").read_text().splitlines() if Path("/etc/hosts").exists() else []
    known = any(name in line.partition("#")[0].split()[1:] for line in hosts)
    says = f"{name} is {'' if known else 'not '}in /etc/hosts" + (
        "" if known else ": sudo waits for DNS at every start"
    )
    yield Finding("ok" if known else "note", "name", says)


def _kvm() -> Iterator[Finding]:
    there = Path("/dev/kvm").exists()
    says = "/dev/kvm is there" if there else "there is no /dev/kvm: guests run emulated, slowly"
    yield Finding("ok" if there else "note", "virtualization", says)


def _processes(cfg: Config) -> Iterator[Finding]:
    """Root sees all; the agent's user does unless /proc hides those of others, and not from a group of its."""
    user, options = cfg.vdsm_mp.user, dict(option.partition("=")[::2] for option in _options_of_proc())
    how = options.get("hidepid", "0")
    if how in ("0", "off") or options.get("gid", "0") in map(str, _groups(user)):
        yield Finding("ok", "processes", f"{user} sees the processes of others")
        return
    says = (
        f"/proc hides those of others from {user} (hidepid={how}): a VM that libvirt forgets while it runs is told as"
    )
    yield Finding(
        "note", "processes", f"{says} Down, and may be started once more; mount it with gid= of a group of {user}"
    )


def _options_of_proc() -> list[str]:
    mounts = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
    return [words[3] for words in mounts if words[1] == "/proc"][-1].split(",")


def _groups(user: str) -> list[int]:
    try:
        return os.getgrouplist(user, pwd.getpwnam(user).pw_gid)
    except KeyError:
        return []
