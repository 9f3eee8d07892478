# SPDX-License-Identifier: Apache-2.0
"""What a domain XML must know of the host: can KVM be used, what the guest shall read as its system's identity."""

import contextlib
import os
import platform
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class HostFacts:
    """kvm: hardware virtualisation is there and may be used by us, hence by QEMU. serial: the host's UUID or ""."""

    kvm: bool
    os_name: str = "oVirt Node"
    os_version: str = ""
    serial: str = ""


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
    )


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
