# SPDX-License-Identifier: Apache-2.0
"""Consoles that listen on a network of the host: `<listen type="network" network="vdsm-NAME">`.

libvirt finds the address by a libvirt network of that name, which is made here when a VM wants it. It is only a name
for a bridge or a NIC, so it is left in place when the VM ends: the next one wants the same.
"""

import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import libvirt

from vdsm_mp.api.errors_virt import CannotCreateVm
from vdsm_mp.common import log, xml
from vdsm_mp.virt.connection import translated

logger = log.named(__name__)

_PREFIX = "vdsm-"


def wanted(domain: ET.Element) -> list[str]:
    """Names of our libvirt networks that consoles listen on."""
    listens = domain.iterfind("devices/graphics/listen[@type='network']")
    return sorted({name for listen in listens if (name := listen.get("network", "")).startswith(_PREFIX)})


def ensure(conn: Any, domain: ET.Element, sysfs: Path = Path("/sys/class/net")) -> None:
    """Make and start the networks that are not there. Raises: CannotCreateVm (the host has no such network)."""
    for name in wanted(domain):
        with translated(failed=CannotCreateVm):
            try:
                network = conn.networkLookupByName(name)
            except libvirt.libvirtError as error:
                if error.get_error_code() != libvirt.VIR_ERR_NO_NETWORK:
                    raise
                network = conn.networkDefineXML(xml.dump(describe(name, sysfs)))
                logger.info("display network %s is defined", name)
            if not network.isActive():
                network.create()


def describe(name: str, sysfs: Path) -> ET.Element:
    """A libvirt network for the host network behind a name: its bridge, or its NIC when it has none."""
    device = name.removeprefix(_PREFIX)
    if "/" in device or not (sysfs / device).exists():
        raise CannotCreateVm(f"this host has no display network {device}")
    network = ET.Element("network")
    xml.add(network, "name", name)
    forward = xml.add(network, "forward", mode="bridge")
    if (sysfs / device / "bridge").exists():
        xml.add(network, "bridge", name=device)
    else:
        xml.add(forward, "interface", dev=device)
    return network
