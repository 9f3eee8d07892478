# SPDX-License-Identifier: Apache-2.0
"""What libvirt and QEMU can run on this host, for the host's capabilities. Asked rarely: libvirt starts QEMU for it."""

import contextlib
import platform
import xml.etree.ElementTree as ET
from typing import Any

import libvirt

from vdsm_mp.api.internal import GetHypervisorFacts, HypervisorFacts
from vdsm_mp.api.verb import handles
from vdsm_mp.common import xml
from vdsm_mp.virt.connection import Connection, translated
from vdsm_mp.virt.hostfacts import HostFacts


@handles(GetHypervisorFacts)
def get_hypervisor_facts(connection: Connection, facts: HostFacts) -> HypervisorFacts:
    conn = connection.get()
    with translated():
        host = xml.parse(conn.getCapabilities())
    machines = _machines(host, platform.machine())
    counter = host.find("host/cpu/counter[@name='tsc']")
    frequency = xml.attributes(counter).get("frequency", "")
    return HypervisorFacts(
        machines=machines,
        models=_models(conn, platform.machine(), kvm=facts.kvm),
        tsc_hz=int(frequency) if frequency.isdigit() else None,
        tsc_scaling=xml.attributes(counter).get("scaling") == "yes",
        vnc_encrypted=False,
        backup=hasattr(libvirt.virDomain, "backupBegin"),
    )


def _machines(host: ET.Element, arch: str) -> list[str]:
    """Names and aliases, each once, in libvirt's order."""
    found: dict[str, None] = {}
    for guest in host.iterfind("guest/arch"):
        if guest.get("name") == arch:
            for machine in guest.iter("machine"):
                found[(machine.text or "").strip()] = None
                if machine.get("canonical"):
                    found[machine.get("canonical", "")] = None
    return [name for name in found if name]


def _models(conn: Any, arch: str, *, kvm: bool) -> list[str]:
    """CPU models whose every feature is there; drivers that cannot tell give none."""
    with contextlib.suppress(libvirt.libvirtError):
        answer = conn.getDomainCapabilities(None, arch, None, "kvm" if kvm else "qemu", 0)
        models = xml.parse(answer).iterfind("cpu/mode[@name='custom']/model")
        return sorted({(model.text or "").strip() for model in models if model.get("usable") == "yes"})
    return []
