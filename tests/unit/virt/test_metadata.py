# SPDX-License-Identifier: Apache-2.0
"""Our corner of the domain XML."""

from vdsm_mp.common import xml
from vdsm_mp.virt.metadata import Metadata

TEXT = """<domain xmlns:ovirt-vm="http://ovirt.org/vm/1.0"><metadata><ovirt-vm:vm>
<ovirt-vm:minGuaranteedMemoryMb type="int">8</ovirt-vm:minGuaranteedMemoryMb>
<ovirt-vm:launchPaused>false</ovirt-vm:launchPaused><ovirt-vm:clusterVersion>4.7</ovirt-vm:clusterVersion>
<ovirt-vm:startTime type="float">1.5</ovirt-vm:startTime><ovirt-vm:odd type="int">x</ovirt-vm:odd>
<ovirt-vm:custom><ovirt-vm:hugepages>2048</ovirt-vm:hugepages></ovirt-vm:custom>
<ovirt-vm:future keep="me"><ovirt-vm:deep/></ovirt-vm:future>
<ovirt-vm:device devtype="disk" name="sda"><ovirt-vm:imageID>i</ovirt-vm:imageID>
<ovirt-vm:specParams><ovirt-vm:pinToIoThread>1</ovirt-vm:pinToIoThread></ovirt-vm:specParams>
<ovirt-vm:volumeChain><ovirt-vm:volumeChainNode><ovirt-vm:path>/a</ovirt-vm:path></ovirt-vm:volumeChainNode>
</ovirt-vm:volumeChain></ovirt-vm:device>
<ovirt-vm:device alias="net0" mac_address="aa:bb"><ovirt-vm:network>red</ovirt-vm:network></ovirt-vm:device>
</ovirt-vm:vm></metadata></domain>"""


def metadata() -> Metadata:
    found = Metadata.of_domain(xml.parse(TEXT))
    assert found is not None
    return found


def test_values_have_the_type_of_their_hint_and_a_wrong_one_counts_as_absent() -> None:
    m = metadata()
    assert (m.get("minGuaranteedMemoryMb"), m.get("startTime"), m.get("clusterVersion")) == (8, 1.5, "4.7")
    assert m.get("odd") is None
    assert m.get("missing", 3) == 3


def test_a_flag_is_read_with_and_without_its_hint() -> None:
    assert metadata().flag("launchPaused") is False
    assert metadata().with_values(launchPaused=True).flag("launchPaused") is True
    assert metadata().flag("missing", default=True) is True


def test_devices_are_found_by_some_of_their_attributes() -> None:
    assert metadata().device(mac_address="aa:bb") == {"network": "red"}
    assert metadata().device(devtype="disk", name="sda") == {
        "imageID": "i",
        "specParams": {"pinToIoThread": "1"},
        "volumeChain": [{"path": "/a"}],
    }
    assert metadata().device(devtype="disk", name="sdb") == {}


def test_custom_properties_are_a_mapping() -> None:
    assert metadata().custom() == {"hugepages": "2048"}


def test_what_we_do_not_know_is_written_back_unchanged() -> None:
    written = xml.parse(metadata().with_values(exitCode=1).dump())
    future = written.find("{http://ovirt.org/vm/1.0}future")
    assert future is not None
    assert future.get("keep") == "me"
    assert len(future) == 1


def test_a_change_gives_a_new_one_and_leaves_the_old() -> None:
    old = metadata()
    new = old.with_device({"devtype": "disk", "name": "sda"}, {"imageID": "j", "change": {"state": "loading"}})
    assert old.device(name="sda")["imageID"] == "i"
    assert new.device(name="sda") == {"imageID": "j", "change": {"state": "loading"}}


def test_replacing_a_device_keeps_the_attributes_it_came_with() -> None:
    new = metadata().with_device({"mac_address": "aa:bb"}, {"network": "blue"})
    assert new.device(alias="net0") == {"network": "blue"}


def test_a_device_can_be_forgotten() -> None:
    assert metadata().with_device({"name": "sda"}, None).device(name="sda") == {}


def test_values_survive_being_written_and_read() -> None:
    text = Metadata().with_values(a=True, b=1, c=2.5, d="x", e=None).dump()
    domain = xml.parse(f"<domain><metadata>{text}</metadata></domain>")
    again = Metadata.of_domain(domain)
    assert again is not None
    assert [again.get(key) for key in "abcde"] == [True, 1, 2.5, "x", None]


def test_a_domain_of_somebody_else_has_none() -> None:
    assert Metadata.of_domain(xml.parse("<domain><metadata/></domain>")) is None
