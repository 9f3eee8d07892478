# SPDX-License-Identifier: Apache-2.0
"""Images made of files: named alike on both hosts of a migration, and with nothing of the host in them."""

import uuid
from pathlib import Path

import pytest

from tests.support.needs import needs_program
from vdsm_mp.api.errors_virt import CannotCreateVm
from vdsm_mp.common import xml
from vdsm_mp.virt.metadata import Metadata
from vdsm_mp.virt.payload import Payloads

pytestmark = needs_program("genisoimage")

VM = str(uuid.uuid4())
DISK = '<disk device="cdrom"><source file="{}"/><target dev="sdd"/></disk>'


def metadata(files: dict[str, str], label: str = "config-2") -> Metadata:
    payload = {"volId": label, "file": files}
    return Metadata().with_device({"devtype": "disk", "name": "sdd"}, {"payload": payload})


def filled(folder: Path, data: Metadata, source: str = "PAYLOAD:") -> Path:
    domain = xml.parse(f"<domain><devices>{DISK.format(source)}</devices></domain>")
    Payloads(folder).fill(domain, data, VM)
    element = domain.find("devices/disk/source")
    assert element is not None
    return Path(element.get("file", ""))


def test_both_hosts_of_a_migration_make_the_same_file(tmp_path: Path) -> None:
    data = metadata({"a/b": "eA=="})
    here, there = (filled(tmp_path / name, data) for name in ("here", "there"))
    assert here.name == there.name
    assert here.is_file()
    assert there.is_file()
    assert filled(tmp_path / "here", metadata({"a/b": "eQ=="})).name != here.name
    # Agents of another make have another way to name it; the VM's memory may hold that.
    theirs = f"{VM}.{'0' * 32}.img"
    assert filled(tmp_path / "there", data, f"/run/vdsm/payload/{theirs}").name == theirs


def test_a_vm_takes_its_own_images_along_when_it_ends(tmp_path: Path) -> None:
    image = filled(tmp_path, metadata({"a": "eA=="}))
    other = tmp_path / f"{uuid.uuid4()}.{'0' * 32}.img"
    other.touch()
    Payloads(tmp_path).remove(VM)
    Payloads(tmp_path).remove(VM)
    assert not image.exists()
    assert list(tmp_path.iterdir()) == [other]


@pytest.mark.parametrize(
    ("files", "label"),
    [
        ({"/etc/x": "eA=="}, "x"),
        ({"../x": "eA=="}, "x"),
        ({"": "eA=="}, "x"),
        ({"a": "e"}, "x"),
        ({"a": "\u00e9A=="}, "x"),
        ({"a": "eA=="}, "-o x"),
    ],
    ids=["absolute", "upwards", "no name", "no base64", "no ASCII", "an option"],
)
def test_what_is_no_payload_is_refused_and_leaves_nothing(tmp_path: Path, files: dict[str, str], label: str) -> None:
    with pytest.raises(CannotCreateVm):
        filled(tmp_path, metadata(files, label))
    assert list(tmp_path.iterdir()) == []


def test_what_is_something_else_than_files_is_refused(tmp_path: Path) -> None:
    data = Metadata().with_device({"devtype": "disk", "name": "sdd"}, {"payload": {"file": "text"}})
    with pytest.raises(CannotCreateVm):
        filled(tmp_path, data)
    assert list(tmp_path.iterdir()) == []


def test_files_of_a_guest_do_not_outlive_a_death_over_its_image(tmp_path: Path) -> None:
    image = filled(tmp_path, metadata({"a": "eA=="}))
    left = tmp_path / "vdsm-mp-w-12345678" / "tree"
    left.mkdir(parents=True)
    (left / "password").touch()
    Payloads(tmp_path).sweep()
    assert list(tmp_path.iterdir()) == [image]
