# SPDX-License-Identifier: Apache-2.0
"""What a domain XML must know of the host: can KVM be used, what the guest shall read as its system's identity."""

import contextlib
import os
import platform
from collections.abc import Mapping
from pathlib import Path

import msgspec

#: Where ovirt-vmconsole looks for the consoles of VMs.
CONSOLE_FOLDER = "/run/ovirt-vmconsole-console"
#: Firmware as engines name it -> the same elsewhere: Debian 12, and later ones, which have the large flash only.
_FIRMWARE: Mapping[str, tuple[str, ...]] = {
    "/usr/share/OVMF/OVMF_CODE.secboot.fd": ("/usr/share/OVMF/OVMF_CODE_4M.secboot.fd",),
    "/usr/share/OVMF/OVMF_VARS.fd": ("/usr/share/OVMF/OVMF_VARS_4M.fd",),
    "/usr/share/OVMF/OVMF_VARS.secboot.fd": ("/usr/share/OVMF/OVMF_VARS.ms.fd", "/usr/share/OVMF/OVMF_VARS_4M.ms.fd"),
}


class HostFacts(msgspec.Struct, frozen=True):
    """kvm: hardware virtualisation is there and may be used by us, hence by QEMU. serial: the host's UUID or "".

    console_sockets: there is a place for them. firmware: {name that engines use: file of this host}, where they differ.
    """

    kvm: bool
    os_name: str = "oVirt Node"
    os_version: str = ""
    serial: str = ""
    console_sockets: bool = True
    firmware: Mapping[str, str] = msgspec.field(default_factory=dict)


def gather(vdsm_id_file: str) -> HostFacts:
    """Read them from the machine; never fails, unknown facts are empty."""
    release = {}
    with contextlib.suppress(OSError):
        release = platform.freedesktop_os_release()
    return HostFacts(
        kvm=kvm_usable(),
        os_name=release.get("NAME", "Linux"),
        os_version=release.get("VERSION_ID", ""),
        serial=_first_line(vdsm_id_file) or _first_line("/sys/class/dmi/id/product_uuid"),
        console_sockets=Path(CONSOLE_FOLDER).is_dir(),
        firmware=firmware(),
    )


def firmware(root: Path = Path("/")) -> dict[str, str]:
    """{name that engines use: file that is here instead}."""
    found = {}
    for name, others in _FIRMWARE.items():
        here = next((one for one in (name, *others) if (root / one[1:]).exists()), name)
        if here != name:
            found[name] = here
    return found


def going_down(nologin: Path = Path("/run/nologin")) -> bool:
    """Is the host shutting down? systemd says so to those who would log in, before it lets guests be shut down."""
    try:
        return "going down" in nologin.read_text(encoding="ascii", errors="replace")[:1024]
    except OSError:
        return False


def kvm_usable(device: str = "/dev/kvm", cpuinfo: str = "/proc/cpuinfo") -> bool:
    """Both are needed: libvirt offers KVM wherever the module is, even where it emulates each instruction or where
    only root may open the device.
    """
    if not os.access(device, os.R_OK | os.W_OK):
        return False
    if platform.machine() not in ("x86_64", "i686"):
        return True
    with contextlib.suppress(OSError), open(cpuinfo, encoding="ascii", errors="replace") as lines:
        for line in lines:
            name, _, value = line.partition(":")
            if name.strip() == "flags":
                return not {"vmx", "svm"}.isdisjoint(value.split())
    return False


def _first_line(path: str) -> str:
    try:
        return Path(path).read_text(encoding="ascii").strip().partition("\n")[0]
    except (OSError, UnicodeError):
        return ""
