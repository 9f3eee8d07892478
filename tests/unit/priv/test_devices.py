# SPDX-License-Identifier: Apache-2.0
"""What root writes to sysfs for virtual functions and mediated devices, in a folder that looks like it."""

from pathlib import Path
from typing import Any

import pytest

from vdsm_mp.priv import devices
from vdsm_mp.priv.child import OperationFailed, Refused

CARD = "0000:02:00.0"
UUID = "77777777-2222-3333-4444-555555555555"


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """What is written where, in its order; a file would show only the last."""
    found: list[tuple[str, str]] = []
    plain = devices._write

    def write(path: Path, text: str) -> None:
        plain(path, text)
        found.append((path.name, text))

    monkeypatch.setattr(devices, "_write", write)
    return found


def card(sysfs: Path, functions: int = 0, driver: str = "igbvf") -> Path:
    folder = sysfs / "bus/pci/devices" / CARD
    folder.mkdir(parents=True)
    (folder / "sriov_numvfs").write_text(f"{functions}\n")
    (sysfs / "bus/pci/drivers" / driver).mkdir(parents=True)
    for number in range(functions):
        one = sysfs / "bus/pci/devices" / f"0000:02:10.{number}"
        one.mkdir()
        (one / "driver").symlink_to(f"../../drivers/{driver}")
        (folder / f"virtfn{number}").symlink_to(f"../{one.name}")
    return folder


def test_a_number_of_functions_is_set_by_way_of_none(tmp_path: Path, written: list[tuple[str, str]]) -> None:
    card(tmp_path, 2)
    devices.vfs_set(tmp_path, {"card": CARD, "number": 2})
    assert written == []
    devices.vfs_set(tmp_path, {"card": CARD, "number": 4})
    assert written == [("sriov_numvfs", "0"), ("sriov_numvfs", "4")]


def test_no_functions_are_set_at_once(tmp_path: Path, written: list[tuple[str, str]]) -> None:
    card(tmp_path, 2)
    devices.vfs_set(tmp_path, {"card": CARD, "number": 0})
    assert written == [("sriov_numvfs", "0")]


def test_functions_that_a_guest_may_have_stay(tmp_path: Path, written: list[tuple[str, str]]) -> None:
    card(tmp_path, 2, driver="vfio-pci")
    with pytest.raises(Refused, match=r"0000:02:10\."):
        devices.vfs_set(tmp_path, {"card": CARD, "number": 0})
    assert written == []


def test_a_card_without_functions_is_refused(tmp_path: Path) -> None:
    card(tmp_path).joinpath("sriov_numvfs").unlink()
    with pytest.raises(Refused, match="no virtual functions"):
        devices.vfs_set(tmp_path, {"card": CARD, "number": 1})


@pytest.fixture
def vgpu(tmp_path: Path) -> dict[str, Any]:
    kind = tmp_path / "class/mdev_bus" / CARD / "mdev_supported_types/nvidia-11"
    kind.mkdir(parents=True)
    (kind / "create").touch()
    (tmp_path / "bus/mdev/devices").mkdir(parents=True)
    return {"card": CARD, "type": "nvidia-11", "uuid": UUID}


def device(sysfs: Path, kind: str = "nvidia-11") -> Path:
    """As the kernel would have made it."""
    place = sysfs / "class/mdev_bus" / CARD / UUID
    place.mkdir()
    (place / "mdev_type").symlink_to(f"../mdev_supported_types/{kind}")
    (place / "remove").touch()
    (sysfs / "bus/mdev/devices" / UUID).symlink_to(place)
    return place


def test_a_mediated_device_is_made_once(tmp_path: Path, vgpu: dict[str, Any], written: list[tuple[str, str]]) -> None:
    devices.mdev_create(tmp_path, vgpu)
    assert written == [("create", UUID)]
    device(tmp_path)
    devices.mdev_create(tmp_path, vgpu)
    assert written == [("create", UUID)]
    devices.mdev_remove(tmp_path, {"uuid": UUID})
    assert written[1:] == [("remove", "1")]


def test_another_mediated_device_of_that_id_is_refused(tmp_path: Path, vgpu: dict[str, Any]) -> None:
    device(tmp_path, "nvidia-12")
    with pytest.raises(Refused, match="another"):
        devices.mdev_create(tmp_path, vgpu)


def test_a_type_that_the_card_does_not_make_is_refused(tmp_path: Path, vgpu: dict[str, Any]) -> None:
    with pytest.raises(Refused, match="nvidia-12"):
        devices.mdev_create(tmp_path, {**vgpu, "type": "nvidia-12"})


def test_a_mediated_device_whose_parameters_are_refused_does_not_stay(
    tmp_path: Path, vgpu: dict[str, Any], written: list[tuple[str, str]]
) -> None:
    device(tmp_path)
    with pytest.raises(OperationFailed, match="vgpu_params"):
        devices.mdev_create(tmp_path, {**vgpu, "parameters": "enable_uvm=1"})
    assert written == [("remove", "1")]


def test_removing_what_is_not_there_is_fine(
    tmp_path: Path, vgpu: dict[str, Any], written: list[tuple[str, str]]
) -> None:
    device(tmp_path)
    devices.mdev_remove(tmp_path, {"uuid": UUID.replace("7", "8")})
    assert written == []
