# SPDX-License-Identifier: Apache-2.0
"""What an engine's XML takes for granted of every host, and what stands in for it on this one. Pure.

<qemu:capabilities>        engines switch on what backups need; libvirt has had both by itself since 7.2
sockets of agent channels  in a folder that only VDSM's package makes; without a path libvirt has its own place
sockets of consoles        in a folder that only ovirt-vmconsole makes; without it a console is a pty
UEFI firmware              by the names of one distribution; others have the same under other names
"""

import xml.etree.ElementTree as ET

from vdsm_mp.virt.hostfacts import CONSOLE_FOLDER, HostFacts

QEMU_URI = "http://libvirt.org/schemas/domain/qemu/1.0"
#: The bridge of cards that belong to no network.
DUMMY_BRIDGE = ";vdsmdummy;"
_HARMLESS = {"blockdev", "incremental-backup"}
_CHANNELS = "/var/lib/libvirt/qemu/channels/"
_CONSOLES = (f"{CONSOLE_FOLDER}/", f"/var{CONSOLE_FOLDER}/")


def foreign_elements(domain: ET.Element) -> list[str]:
    """Names of `<qemu:…>` elements that could hand QEMU anything; what every engine writes is not among them."""
    ours = f"{{{QEMU_URI}}}"
    return [child.tag.removeprefix(ours) for child in domain if child.tag.startswith(ours) and not _harmless(child)]


def _harmless(element: ET.Element) -> bool:
    if element.tag != f"{{{QEMU_URI}}}capabilities":
        return False
    return all(one.tag == f"{{{QEMU_URI}}}add" and one.get("capability") in _HARMLESS for one in element)


def adapt(domain: ET.Element, facts: HostFacts) -> None:
    """Change `domain` itself."""
    for element in [child for child in domain if _harmless(child)]:
        domain.remove(element)
    for source in domain.iterfind("devices/channel[@type='unix']/source"):
        if source.get("mode") == "bind" and source.get("path", "").startswith(_CHANNELS):
            del source.attrib["path"]
    if not facts.console_sockets:
        for tag in ("console", "serial"):
            for device in domain.iterfind(f"devices/{tag}[@type='unix']"):
                _to_pty(device)
    for element in domain.iterfind("os/loader"):
        element.text = facts.firmware.get((element.text or "").strip(), element.text)
    for element in domain.iterfind("os/nvram"):
        if (here := facts.firmware.get(element.get("template", ""))) is not None:
            element.set("template", here)


def _to_pty(device: ET.Element) -> None:
    source = device.find("source")
    if source is not None and source.get("path", "").startswith(_CONSOLES):
        device.set("type", "pty")
        device.remove(source)
