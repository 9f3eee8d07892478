# SPDX-License-Identifier: Apache-2.0
"""What engines take for granted of a host: what stands in for it here, and what is left alone."""

from pathlib import Path

import pytest

from vdsm_mp.common import xml
from vdsm_mp.virt import domxml_host, hostfacts
from vdsm_mp.virt.hostfacts import HostFacts

QEMU = 'xmlns:qemu="http://libvirt.org/schemas/domain/qemu/1.0"'
CAPABILITIES = '<qemu:capabilities><qemu:add capability="blockdev"/><qemu:add capability="{}"/></qemu:capabilities>'
SOCKET = '<source mode="bind" path="{}"/>'


def adapted(inside: str, facts: HostFacts) -> str:
    domain = xml.parse(f"<domain {QEMU}>{inside}</domain>")
    domxml_host.adapt(domain, facts)
    return xml.dump(domain)


@pytest.mark.parametrize(
    ("inside", "foreign"),
    [
        (CAPABILITIES.format("incremental-backup"), []),
        (CAPABILITIES.format("usb-host.hostdevice"), ["capabilities"]),
        ('<qemu:capabilities><qemu:del capability="blockdev"/></qemu:capabilities>', ["capabilities"]),
        ('<qemu:commandline><qemu:arg value="-S"/></qemu:commandline>', ["commandline"]),
        ("<qemu:override/>" + CAPABILITIES.format("incremental-backup"), ["override"]),
    ],
)
def test_only_what_backups_need_may_be_switched_on(inside: str, foreign: list[str]) -> None:
    assert domxml_host.foreign_elements(xml.parse(f"<domain {QEMU}>{inside}</domain>")) == foreign


def test_what_libvirt_has_by_itself_is_taken_out_and_nothing_else() -> None:
    facts = HostFacts(kvm=False)
    assert "capabilities" not in adapted(CAPABILITIES.format("incremental-backup"), facts)
    assert "usb-host" in adapted(CAPABILITIES.format("usb-host.hostdevice"), facts)


def test_channels_go_where_libvirt_puts_them_unless_somebody_chose_a_place() -> None:
    channel = "<devices><channel type='unix'>" + SOCKET + "</channel></devices>"
    facts = HostFacts(kvm=False)
    assert "path" not in adapted(channel.format("/var/lib/libvirt/qemu/channels/x.org.qemu.guest_agent.0"), facts)
    assert 'path="/run/other.sock"' in adapted(channel.format("/run/other.sock"), facts)


@pytest.mark.parametrize("tag", ["console", "serial"])
def test_consoles_are_sockets_only_where_somebody_looks_for_them(tag: str) -> None:
    path = "/var/run/ovirt-vmconsole-console/x.sock"
    device = f"<devices><{tag} type='unix'>{SOCKET.format(path)}</{tag}></devices>"
    assert path in adapted(device, HostFacts(kvm=False, console_sockets=True))
    assert f'<{tag} type="pty"' in adapted(device, HostFacts(kvm=False, console_sockets=False))
    other = device.replace(path, "/run/mine.sock")
    assert "/run/mine.sock" in adapted(other, HostFacts(kvm=False, console_sockets=False))


@pytest.mark.parametrize(
    ("there", "code", "variables"),
    [
        (["OVMF_CODE.secboot.fd", "OVMF_VARS.ms.fd"], "OVMF_CODE.secboot.fd", "OVMF_VARS.ms.fd"),
        (["OVMF_CODE_4M.secboot.fd", "OVMF_VARS_4M.ms.fd"], "OVMF_CODE_4M.secboot.fd", "OVMF_VARS_4M.ms.fd"),
        (["OVMF_CODE.secboot.fd", "OVMF_VARS.secboot.fd"], "OVMF_CODE.secboot.fd", "OVMF_VARS.secboot.fd"),
        ([], "OVMF_CODE.secboot.fd", "OVMF_VARS.secboot.fd"),
    ],
    ids=["Debian 12", "large flash only", "as engines have it", "none"],
)
def test_firmware_is_found_by_the_name_it_has_here(tmp_path: Path, there: list[str], code: str, variables: str) -> None:
    folder = tmp_path / "usr/share/OVMF"
    folder.mkdir(parents=True)
    for name in there:
        (folder / name).touch()
    facts = HostFacts(kvm=False, firmware=hostfacts.firmware(tmp_path))
    place = "/usr/share/OVMF/"
    boot = (
        f'<os><loader readonly="yes">{place}OVMF_CODE.secboot.fd</loader>'
        f'<nvram template="{place}OVMF_VARS.secboot.fd">/x.fd</nvram></os>'
    )
    text = adapted(boot, facts)
    assert f">{place}{code}<" in text
    assert f'template="{place}{variables}">/x.fd<' in text
