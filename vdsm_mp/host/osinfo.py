# SPDX-License-Identifier: Apache-2.0
"""Release, kernel, packages, identity. One query of the package database, made in the background."""

import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from vdsm_mp import VDSM_VERSION
from vdsm_mp.common import command
from vdsm_mp.common.errors import Error
from vdsm_mp.host.machine import Machine

#: {engine's name: Debian's packages, the first that is installed counts}. On RPM systems the names are the engine's.
_DEBIAN: Mapping[str, tuple[str, ...]] = {
    "glusterfs-cli": ("glusterfs-cli",),
    "libvirt": ("libvirt-daemon",),
    "librbd1": ("librbd1",),
    "openvswitch": ("openvswitch-switch",),
    "qemu-img": ("qemu-utils",),
    "qemu-kvm": ("qemu-system-x86", "qemu-system-arm", "qemu-system-ppc"),
    "sanlock": ("sanlock",),
    "spice-server": ("libspice-server1",),
}
_RPM = ("glusterfs-cli", "libvirt", "librbd1", "nmstate", "openvswitch", "qemu-img", "qemu-kvm", "spice-server")
_QUERY_S = 10.0


def packages(machine: Machine) -> dict[str, dict[str, str]]:
    """{name: {"version", "release"}}; `vdsm` and `kernel` always. What cannot be asked is absent."""
    kernel = os.uname().release
    version, _, release = kernel.partition("-")
    found = {
        "vdsm": {"version": VDSM_VERSION, "release": "1"},
        "kernel": {"version": version, "release": release},
    }
    try:
        if shutil.which("dpkg-query") and machine.exists("/var/lib/dpkg/status"):
            found |= _dpkg()
        elif shutil.which("rpm"):
            found |= _rpm()
    except Error:
        return found
    return found


def _dpkg() -> dict[str, dict[str, str]]:
    wanted = [name for names in _DEBIAN.values() for name in names]
    argv = ["dpkg-query", "-W", "-f", "${Package} ${db:Status-Status} ${Version}\n", *wanted]
    out = command.run(argv, deadline_s=_QUERY_S, accept=(0, 1)).out.decode()
    installed = {words[0]: words[2] for line in out.splitlines() if (words := line.split())[1:2] == ["installed"]}
    return {
        ours: _split(installed[name])
        for ours, names in _DEBIAN.items()
        for name in reversed(names)
        if name in installed
    }


def _rpm() -> dict[str, dict[str, str]]:
    argv = ["rpm", "-q", "--qf", "%{NAME} %{VERSION} %{RELEASE}\n", *_RPM]
    out = command.run(argv, deadline_s=_QUERY_S, accept=tuple(range(256))).out.decode()
    rows = [words for line in out.splitlines() if len(words := line.split()) == 3]
    return {name: {"version": version, "release": release} for name, version, release in rows}


def _split(version: str) -> dict[str, str]:
    """ "1:7.2+dfsg-7+deb12u18" -> version 7.2+dfsg, release 7+deb12u18."""
    upstream, _, release = version.partition(":")[2 if ":" in version else 0].rpartition("-")
    return {"version": upstream or release, "release": release if upstream else ""}


def operating_system(machine: Machine) -> dict[str, str]:
    """{name, version, release, pretty_name}."""
    release = os_release(machine)
    version, _, minor = release.get("VERSION_ID", "").partition(".")
    return {
        "name": release.get("NAME", "Linux").removesuffix(" GNU/Linux"),
        "version": version,
        "release": minor,
        "pretty_name": release.get("PRETTY_NAME", ""),
    }


def os_release(machine: Machine) -> dict[str, str]:
    found: dict[str, str] = {}
    for line in machine.text("/etc/os-release").splitlines():
        name, equals, value = line.partition("=")
        if equals:
            found[name] = value.strip("\"'")
    return found


def host_uuid(machine: Machine, vdsm_id_file: str, hardware: Mapping[str, str]) -> str | None:
    """The administrator's file first, then the firmware's."""
    own = [line for line in machine.text(vdsm_id_file).splitlines() if line and not line.startswith("#")]
    return (own[-1].strip() if own else "") or hardware.get("systemUUID") or None


def nameservers(machine: Machine) -> list[str]:
    lines = [line.split() for line in machine.text("/etc/resolv.conf").splitlines()]
    return [words[1] for words in lines if len(words) > 1 and words[0] == "nameserver"]


def iscsi_initiator(machine: Machine) -> str:
    for line in machine.text("/etc/iscsi/initiatorname.iscsi").splitlines():
        name, equals, value = line.partition("=")
        if equals and name.strip() == "InitiatorName":
            return value.strip()
    return ""


def fc_adapters(machine: Machine) -> list[dict[str, str]]:
    """[{"wwpn", "wwnn", "model"}]"""
    found: list[dict[str, str]] = []
    for host in machine.names("/sys/class/fc_host"):
        folder = f"/sys/class/fc_host/{host}"
        found.append(
            {
                "wwpn": machine.text(f"{folder}/port_name").removeprefix("0x"),
                "wwnn": machine.text(f"{folder}/node_name").removeprefix("0x"),
                "model": machine.text(f"{folder}/symbolic_name") or "unknown",
            }
        )
    return found


def selinux_mode(machine: Machine) -> str:
    """ "1" enforcing, "0" permissive, "-1" disabled."""
    return machine.text("/sys/fs/selinux/enforce") or "-1"


def kdump_status(machine: Machine) -> int:
    """1: a crash kernel is loaded, and tells fence agents of its work; 0: not both; -1: nobody knows."""
    loaded = machine.number("/sys/kernel/kexec_crash_loaded", -1)
    if loaded != 1:
        return loaded
    if not machine.exists("/etc/kdump.conf"):
        return -1
    return int(any(line.startswith("fence_kdump_nodes") for line in machine.text("/etc/kdump.conf").splitlines()))


def boot_uuid(machine: Machine) -> str:
    """Of the file system that /boot is on; "" when it has none, or nobody knows."""
    devices: dict[str, tuple[str, str]] = {}
    for line in machine.text("/proc/self/mountinfo").splitlines():
        words, _, source = (half.split() for half in line.partition(" - "))
        if len(words) > 4 and len(source) > 1:  # what is mounted later hides what was there
            devices[words[4]] = words[2], Path(source[1]).name
    number, name = devices.get("/boot") or devices.get("/") or ("", "")
    names = {name, _link(machine, f"/sys/dev/block/{number}")} - {""}
    folder = "/dev/disk/by-uuid"
    return next((uuid for uuid in machine.names(folder) if _link(machine, f"{folder}/{uuid}") in names), "")


def _link(machine: Machine, name: str) -> str:
    """The last part of what a link names; "" where none is."""
    try:
        return machine.path(name).readlink().name
    except OSError:
        return ""


def kernel_features(machine: Machine) -> dict[str, int]:
    """{"PTI", "IBRS", "RETP": 1 on, 0 off, -1 unknown} from what the kernel says of its mitigations."""
    folder = "/sys/devices/system/cpu/vulnerabilities"
    if not Path(machine.path(folder)).is_dir():
        return {"PTI": -1, "IBRS": -1, "RETP": -1}
    spectre, meltdown = machine.text(f"{folder}/spectre_v2"), machine.text(f"{folder}/meltdown")
    return {"PTI": int("PTI" in meltdown), "IBRS": int("IBRS" in spectre), "RETP": int("etpoline" in spectre)}
