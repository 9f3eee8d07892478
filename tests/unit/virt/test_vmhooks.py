# SPDX-License-Identifier: Apache-2.0
"""Hook points of VM verbs, on libvirt's own test driver."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.hookscripts import write_hook
from tests.support.virt_room import VirtRoom
from vdsm_mp.api.errors_host import HostHookFailed
from vdsm_mp.api.errors_virt import VmOperationFailed
from vdsm_mp.api.vm import GetVmStats
from vdsm_mp.api.vm_host import GetAllVmStats


@pytest.fixture
def room(tmp_path: Path) -> Iterator[VirtRoom]:
    with VirtRoom("test:///default", tmp_path) as room:
        yield room
        # libvirt's test driver is one host for all tests of a process.
        (vm,) = room.call("Host.getVMList")
        if room.status(vm["vmId"]) == "Paused":
            write_hook(tmp_path / "hooks.d", "before_vm_cont", "exit 0")
            room.call("VM.cont", vmID=vm["vmId"])


def test_a_hook_before_that_fails_refuses_and_nothing_happens(room: VirtRoom, tmp_path: Path) -> None:
    (vm,) = room.call("Host.getVMList")
    write_hook(tmp_path / "hooks.d", "before_vm_pause", "echo not on Sundays >&2; exit 2")
    with pytest.raises(VmOperationFailed, match="not on Sundays"):
        room.call("VM.pause", vmID=vm["vmId"])
    assert room.status(vm["vmId"]) == "Up"


def test_a_hook_sees_the_domain_and_the_id_before_and_after(room: VirtRoom, tmp_path: Path) -> None:
    (vm,) = room.call("Host.getVMList")
    for point in ("before_vm_pause", "after_vm_pause", "before_vm_cont", "after_vm_cont"):
        write_hook(
            tmp_path / "hooks.d", point, f'grep -q "<uuid>$vmId</uuid>" "$_hook_domxml" && touch {tmp_path}/{point}'
        )
    room.call("VM.pause", vmID=vm["vmId"])
    assert [p.name for p in sorted(tmp_path.glob("*_vm_*"))] == ["after_vm_pause", "before_vm_pause"]
    room.call("VM.cont", vmID=vm["vmId"])
    assert len(list(tmp_path.glob("*_vm_*"))) == 4


def test_a_hook_that_fails_afterwards_changes_nothing(room: VirtRoom, tmp_path: Path) -> None:
    (vm,) = room.call("Host.getVMList")
    write_hook(tmp_path / "hooks.d", "after_vm_pause", "exit 2")
    room.call("VM.pause", vmID=vm["vmId"])
    assert room.status(vm["vmId"]) == "Paused"


def test_hooks_change_statistics_or_refuse_them_and_never_on_the_loop(room: VirtRoom, tmp_path: Path) -> None:
    hooks = tmp_path / "hooks.d"
    (vm,) = room.call("Host.getVMList")
    may_block = room.room.may_block
    assert [may_block[verb]() for verb in (GetAllVmStats, GetVmStats)] == [False, False]
    odd = 's/"status": "[A-Z][a-z]*"/"status": "Odd"/'
    write_hook(hooks, "after_get_all_vm_stats", f"sed -i '{odd}' $_hook_json")
    assert [may_block[verb]() for verb in (GetAllVmStats, GetVmStats)] == [True, False]
    assert [entry["status"] for entry in room.call("Host.getAllVmStats")] == ["Odd"]
    write_hook(hooks, "after_get_all_vm_stats", 'echo "{}" > "$_hook_json"')
    assert [entry["vmId"] for entry in room.call("Host.getAllVmStats")] == [vm["vmId"]]
    write_hook(hooks, "before_get_vm_stats", f"test $vmId = {vm['vmId']} && echo not now >&2; exit 2")
    assert may_block[GetVmStats]()
    with pytest.raises(HostHookFailed, match="not now"):
        room.call("VM.getStats", vmID=vm["vmId"])
    write_hook(hooks, "before_get_vm_stats", "exit 0")
    assert room.status(vm["vmId"]) == "Up"


def test_hooks_change_the_list_of_host_devices(room: VirtRoom, tmp_path: Path) -> None:
    write_hook(tmp_path / "hooks.d", "after_hostdev_list_by_caps", 'echo "{}" > "$_hook_json"')
    assert room.call("Host.hostdevListByCaps") == {}
    write_hook(tmp_path / "hooks.d", "after_hostdev_list_by_caps", 'echo "[]" > "$_hook_json"')
    assert room.call("Host.hostdevListByCaps") != {}
