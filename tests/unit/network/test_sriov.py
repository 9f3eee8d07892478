# SPDX-License-Identifier: Apache-2.0
"""Numbers of virtual functions: what is refused, what root is asked for, what outlives a reboot."""

from pathlib import Path
from typing import Any, cast

import pytest

from vdsm_mp.api.errors import PrivilegedFailed
from vdsm_mp.api.errors_network import BadNetworkParameters, NetworkStepFailed, UsedNic
from vdsm_mp.network.sriov import VirtualFunctions

NAME, CARD = "pci_0000_02_00_0", "0000:02:00.0"


class Host:
    """Root, which does what it is told to a folder that looks like sysfs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.fails = False
        self.driver = "igbvf"
        self.in_use: set[str] = set()
        self.card = folder / "sys/bus/pci/devices" / CARD
        (self.card / "net/enp2s0").mkdir(parents=True)
        (self.card / "sriov_totalvfs").write_text("7\n")
        (self.card / "sriov_numvfs").write_text("0\n")
        (self.card.parent / "0000:03:00.0").mkdir()
        for driver in ("igbvf", "vfio-pci"):
            (folder / "sys/bus/pci/drivers" / driver).mkdir(parents=True)

    def functions(self, boot: int = 1) -> VirtualFunctions:
        return VirtualFunctions(
            cast(Any, self),
            str(self.folder / f"run{boot}"),
            str(self.folder / "state"),
            lambda: self.in_use,
            self.folder / "sys",
        )

    def do(self, operation: str, /, *, deadline_s: float = 30.0, **params: Any) -> None:
        self.asked.append((operation, params))
        if self.fails:
            raise PrivilegedFailed(operation, "the kernel refused")
        if operation == "vfs-set":
            self.make(params["number"])

    def make(self, number: int) -> None:
        (self.card / "sriov_numvfs").write_text(f"{number}\n")
        for old in self.card.glob("virtfn*"):
            old.unlink()
        for n in range(number):
            one = self.card.parent / f"0000:02:10.{n}"
            (one / "net/vf").mkdir(parents=True, exist_ok=True)
            (one / "driver").unlink(missing_ok=True)
            (one / "driver").symlink_to(f"../../drivers/{self.driver}")
            (self.card / f"virtfn{n}").symlink_to(f"../{one.name}")


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


def test_a_number_is_set_and_the_card_is_up(host: Host) -> None:
    host.functions().set(NAME, 2)
    assert host.asked == [("vfs-set", {"card": CARD, "number": 2}), ("link-up", {"name": "enp2s0"})]
    host.functions().set(NAME, 2)
    assert [name for name, _ in host.asked].count("vfs-set") == 1


@pytest.mark.parametrize(
    ("name", "number"),
    [
        (NAME, -1),
        (NAME, 8),
        ("pci_0000_03_00_0", 1),
        ("pci_0000_09_00_0", 1),
        ("enp2s0", 1),
        ("pci_0000_02_00_0/../0000:02:00.0", 1),
        (NAME.upper(), 1),
        ("", 0),
    ],
)
def test_what_is_no_card_or_no_number_for_it_is_refused(host: Host, name: str, number: int) -> None:
    with pytest.raises(BadNetworkParameters):
        host.functions().set(name, number)
    assert host.asked == []


def test_functions_that_guests_have_are_not_taken_from_them(host: Host) -> None:
    host.driver = "vfio-pci"
    host.make(2)
    with pytest.raises(UsedNic, match=r"0000:02:10\.0, 0000:02:10\.1"):
        host.functions().set(NAME, 3)
    host.functions().set(NAME, 2)  # as they are
    assert [name for name, _ in host.asked] == ["link-up"]


def test_functions_under_networks_of_the_host_are_not_taken_from_it(host: Host) -> None:
    host.functions().set(NAME, 2)
    host.in_use = {"eth0", "vf"}
    with pytest.raises(UsedNic, match="networks of this host are on its functions vf"):
        host.functions().set(NAME, 0)
    assert len(list(host.card.glob("virtfn*"))) == 2


def test_what_root_cannot_do_is_told_and_not_kept(host: Host) -> None:
    host.fails = True
    functions = host.functions()
    with pytest.raises(NetworkStepFailed, match="the kernel refused"):
        functions.set(NAME, 2)
    functions.keep_safe()
    host.fails = False
    host.functions(2).start()
    assert [name for name, _ in host.asked] == ["vfs-set"]


def test_only_what_was_kept_outlives_a_reboot(host: Host) -> None:
    functions = host.functions()
    functions.set(NAME, 2)
    functions.keep_safe()
    functions.set(NAME, 5)
    functions.start()  # a restart of the worker
    assert len(list(host.card.glob("virtfn*"))) == 5
    host.make(0)
    host.functions(2).start()
    assert len(list(host.card.glob("virtfn*"))) == 2


def test_a_card_that_is_gone_after_a_boot_costs_only_itself(host: Host) -> None:
    functions = host.functions()
    functions.set(NAME, 2)
    functions.keep_safe()
    host.make(0)
    host.fails = True
    host.functions(2).start()
    assert len(list(host.card.glob("virtfn*"))) == 0


def test_a_file_that_cannot_be_read_is_as_if_nothing_was_kept(host: Host) -> None:
    (host.folder / "state/network").mkdir(parents=True)
    (host.folder / "state/network/virtual-functions.json").write_text("{not")
    host.functions().start()
    assert host.asked == []
