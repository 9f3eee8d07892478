# SPDX-License-Identifier: Apache-2.0
"""What is told of a foreign hypervisor's VMs: from XML as others write it, and from libvirt's locked test driver."""

import socket
from pathlib import Path
from typing import Any

import pytest

from vdsm_mp.api.errors_virt import BadConversion, ForeignHypervisorFailed
from vdsm_mp.common import xml
from vdsm_mp.virt import v2v_domain, v2v_foreign
from vdsm_mp.virt.v2v_domain import NotForUs
from vdsm_mp.virt.v2v_talk import talk

#: As libvirt's driver for vCenters has it.
VMWARE = """<domain type="vmware"><name>Fedora</name><uuid>564d4c2d-0000-4000-8000-000000000001</uuid>
<memory unit="KiB">2097152</memory><currentMemory unit="KiB">2097152</currentMemory><vcpu placement="static">2</vcpu>
<os><type arch="x86_64">hvm</type></os><devices>
<disk type="file" device="disk"><source file="[datastore1] Fedora/Fedora.vmdk"/><target dev="sda" bus="scsi"/></disk>
<disk type="file" device="cdrom"><source file="[datastore1] x.iso"/><target dev="hda" bus="ide"/></disk>
<interface type="bridge"><mac address="00:50:56:81:00:01"/><source bridge="VM Network"/><model type="vmxnet3"/>
</interface><video><model type="vmvga" vram="8192"/></video><graphics type="vnc" port="-1"/></devices></domain>"""

TEST = """<node>
<auth><user password="let me in">root</user></auth>
<domain type="test"><name>one</name><uuid>11111111-1111-4111-8111-111111111111</uuid><memory>524288</memory>
<currentMemory>262144</currentMemory><vcpu>2</vcpu><os><type arch="x86_64">hvm</type></os><devices/></domain>
<domain type="test"><name>two</name><uuid>22222222-2222-4222-8222-222222222222</uuid><memory>524288</memory>
<vcpu>1</vcpu><os><type>hvm</type></os><devices><disk type="network" device="disk">
<source protocol="rbd" name="a/b"><host name="h" port="1"/></source><target dev="vda"/></disk></devices></domain>
</node>"""


def test_a_vm_of_a_vcenter_as_an_engine_reads_it() -> None:
    domain = xml.parse(VMWARE)
    assert v2v_domain.general(domain) == {
        "vmId": "564d4c2d-0000-4000-8000-000000000001",
        "memSize": 2048,
        "smp": 2,
        "arch": "x86_64",
        "graphics": "vnc",
        "video": "vmvga",
        "networks": [
            {"type": "bridge", "macAddr": "00:50:56:81:00:01", "bridge": "VM Network", "model": "vmxnet3"},
        ],
    }
    assert v2v_domain.disks(domain) == [
        {"type": "disk", "disktype": "file", "dev": "sda", "alias": "[datastore1] Fedora/Fedora.vmdk"}
    ]


@pytest.mark.parametrize(
    ("disk", "told"),
    [
        (
            '<disk type="block" device="disk"><driver type="raw"/><source dev="/dev/sdb"/><target dev="vda"/></disk>',
            {"type": "disk", "disktype": "block", "dev": "vda", "alias": "/dev/sdb", "format": "RAW"},
        ),
        (
            '<disk type="volume"><driver type="qcow2"/><source pool="p" volume="v"/><target dev="vda"/></disk>',
            {"type": "disk", "disktype": "volume", "dev": "vda", "alias": "p/v", "pool": "p", "volume": "v",
             "format": "COW"},
        ),
        (
            '<disk type="file" device="lun"><driver type="vdi"/><source file="/x"/><target dev="vda"/></disk>',
            {"type": "lun", "disktype": "file", "dev": "vda", "alias": "/x"},
        ),
    ],
)  # fmt: skip
def test_disks_of_all_kinds(disk: str, told: dict[str, str]) -> None:
    assert v2v_domain.disks(xml.parse(f"<domain><devices>{disk}</devices></domain>")) == [told]


@pytest.mark.parametrize("disk", ['<disk type="network"/>', '<disk type="file"><target dev="a"/></disk>', "<disk/>"])
def test_a_vm_with_a_disk_that_cannot_be_read_is_none_for_us(disk: str) -> None:
    """Told without its sizes it would cost an engine the whole list."""
    with pytest.raises(NotForUs):
        v2v_domain.disks(xml.parse(f"<domain><devices>{disk}</devices></domain>"))


@pytest.mark.parametrize(
    ("old", "new"),
    [("2097152", "many"), ('unit="KiB"', 'unit="stones"'), ('"static">2<', '"static">two<'), ("<vcpu", "<other")],
)
def test_a_vm_whose_size_cannot_be_read_is_none_for_us(old: str, new: str) -> None:
    text = VMWARE.replace("</vcpu>", "</other>") if new == "<other" else VMWARE
    with pytest.raises(NotForUs):
        v2v_domain.general(xml.parse(text.replace(old, new)))


@pytest.fixture
def uri(tmp_path: Path) -> str:
    (tmp_path / "node.xml").write_text(TEST)
    return f"test://{tmp_path}/node.xml"


def test_the_password_is_given_when_it_is_asked_for(uri: str) -> None:
    skipped: list[tuple[str, str]] = []
    with v2v_foreign.connected(uri, "root", "let me in") as conn:
        assert sorted(v2v_foreign.names(conn)) == ["one", "two"]
        (one,) = v2v_foreign.vms(conn, None, lambda name, why: skipped.append((name, why)))
        assert v2v_foreign.vms(conn, ["nobody"], lambda name, why: skipped.append((name, why))) == []
    assert [name for name, _ in skipped] == ["two"]
    assert one == {
        "vmName": "one", "status": "Up", "vmId": "11111111-1111-4111-8111-111111111111", "memSize": 256, "smp": 2,
        "arch": "x86_64", "has_snapshots": False, "disks": [], "networks": [],
    }  # fmt: skip


@pytest.mark.parametrize(("user", "password"), [("root", "wrong"), ("nobody", "let me in"), ("", "")])
def test_a_wrong_password_is_told_and_not_repeated(uri: str, user: str, password: str) -> None:
    ask: dict[str, Any] = {"do": "names", "uri": uri, "username": user, "password": password}
    with pytest.raises(ForeignHypervisorFailed) as error:
        talk(ask, deadline_s=30)
    assert "let me in" not in str(error.value)
    assert "wrong" not in str(error.value)


def test_a_hypervisor_that_is_silent_is_given_up() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        uri = f"qemu+tcp://127.0.0.1:{server.getsockname()[1]}/system"
        ask = {"do": "names", "uri": uri, "username": "", "password": ""}
        with pytest.raises(ForeignHypervisorFailed, match="within 2 s"):
            talk(ask, deadline_s=2)


def test_a_running_vm_is_not_copied(uri: str, tmp_path: Path) -> None:
    with v2v_foreign.connected(uri, "root", "let me in") as conn, pytest.raises(BadConversion, match="runs"):
        v2v_foreign.copy(conn, "one", [], sparse=True, at=lambda disk, of, pct: None)
