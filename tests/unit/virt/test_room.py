# SPDX-License-Identifier: Apache-2.0
"""The room fits its declarations, on libvirt's own test driver."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from tests.support import decode
from tests.support.eventually import eventually
from tests.support.virt_room import VirtRoom
from vdsm_mp.api.errors_virt import NoGuestAgent
from vdsm_mp.api.internal import GetVmCounts
from vdsm_mp.ipc.dispatch import Dispatch
from vdsm_mp.virt.agent import Agents, Turns
from vdsm_mp.virt.connection import Connection
from vdsm_mp.virt.registry import Vms


def test_every_verb_of_the_worker_that_is_not_planned_has_its_handler(tmp_path: Path) -> None:
    with VirtRoom("test:///default", tmp_path) as room:
        assert Dispatch("virt", room.room.handlers, room.room.state).find("VM.create")


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


class NotedTurns(Turns):
    """The test driver has no agents: whoever wants to talk to one is noted and sent away."""

    def __init__(self) -> None:
        super().__init__()
        self.wanted: list[int] = []

    @contextmanager
    def turn(self, connection: Connection, vm_id: str, answer_s: int, *, wait_s: float = 10.0) -> Iterator[Any]:
        self.wanted.append(answer_s)
        raise NoGuestAgent("the test driver has none")
        yield


def test_an_agent_may_take_as_long_as_is_configured(tmp_path: Path) -> None:
    with VirtRoom("test:///default", tmp_path, agent_timeout_s=3) as room:
        agents, vms = room.state(Agents), room.state(Vms)
        agents._turns = turns = NotedTurns()
        (vm,) = vms.all()
        vms.change(vm.vm_id, lambda record: replace(record, devices=replace(record.devices, agent_connected=True)))
        agents.beat()
        eventually(lambda: turns.wanted == [3])
