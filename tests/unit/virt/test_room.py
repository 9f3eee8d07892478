# SPDX-License-Identifier: Apache-2.0
"""The room fits its declarations, on libvirt's own test driver."""

from pathlib import Path

from tests.support import decode
from tests.support.virt_room import VirtRoom
from vdsm_mp.api.internal import GetVmCounts
from vdsm_mp.ipc.dispatch import Dispatch


def test_every_verb_of_the_worker_that_is_not_planned_has_its_handler(tmp_path: Path) -> None:
    with VirtRoom("test:///default", tmp_path) as room:
        assert Dispatch("virt", room.room.handlers, room.room.state).handlers


def test_the_test_driver_serves_as_a_host_with_one_foreign_vm(tmp_path: Path) -> None:
    with VirtRoom("test:///default", tmp_path) as room:
        (vm,) = decode.check_vm_list(room.call("Host.getVMList"))
        decode.check_all_vm_stats(room.call("Host.getAllVmStats"))
        room.call("VM.pause", vmID=vm["vmId"])
        assert room.status(vm["vmId"]) == "Paused"
        assert room.ask(GetVmCounts())["count"] == 1
        decode.check_hostdevs(room.call("Host.hostdevListByCaps"))
        room.call("VM.cont", vmID=vm["vmId"])
        room.call("VM.cont", vmID=vm["vmId"])  # it runs already, as after an answer that was lost
        assert room.background.failures == []
