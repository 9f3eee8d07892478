# SPDX-License-Identifier: Apache-2.0
"""Who is told of mirrored networks, and when: by records of VMs and recorded calls."""

from collections.abc import Callable
from typing import Any

import pytest
from msgspec.structs import replace

from vdsm_mp.api.errors import PeerRestarted, StillStarting
from vdsm_mp.api.errors_virt import HotplugNicFailed
from vdsm_mp.api.internal import MirrorNetworks
from vdsm_mp.api.verb import Message
from vdsm_mp.virt import moving
from vdsm_mp.virt.machine import Life, VmStatus
from vdsm_mp.virt.mirrors import Mirrors
from vdsm_mp.virt.records import Devices, Nic, VmRecord
from vdsm_mp.virt.registry import Vms

VM = "11111111-1111-1111-1111-111111111111"


class Ports:
    """Caller, background (jobs wait until they are run) and publisher."""

    def __init__(self) -> None:
        self.told: list[dict[str, list[str]]] = []
        self.fails: Exception | None = None
        #: How often the network worker is not there yet.
        self.away = 0
        self.jobs: list[Callable[[], None]] = []
        self.draining = False

    def ask(self, message: Message, *, deadline_s: float | None = None) -> Any:
        assert isinstance(message, MirrorNetworks)
        if self.away:
            self.away -= 1
            raise StillStarting
        self.told.append(message.cards)
        if self.fails is not None:
            raise self.fails
        return {}

    def start(self, name: str, job: Callable[[], None], *, key: str | None = None) -> None:
        self.jobs.append(job)

    def later(self, delay_s: float, name: str, job: Callable[[], None], *, key: str | None = None) -> Any:
        self.jobs.append(job)

    def publish(self, event: Message) -> None:
        return

    def run(self) -> None:
        jobs, self.jobs = self.jobs, []
        for job in jobs:
            job()


@pytest.fixture
def ports() -> Ports:
    return Ports()


def room(ports: Ports, status: VmStatus, *nics: Nic) -> tuple[Vms, Mirrors]:
    vms = Vms(ports)
    mirrors = Mirrors(ports, vms, ports)
    vms.perform = mirrors.performed
    vms.add(VmRecord(vm_id=VM, name="a", life=Life(status=status), devices=Devices(nics=nics)))
    return vms, mirrors


SEES = Nic(mac="m", name="vnet7", mirrors=("red", "blue"))


def test_a_vm_on_its_way_counts_when_it_has_arrived_under_the_names_it_has_here(ports: Ports) -> None:
    vms, mirrors = room(ports, VmStatus.MIGRATION_DESTINATION, SEES)
    mirrors.changed()
    ports.run()
    assert ports.told == [{}]
    here = Devices(nics=(replace(SEES, name="vnet2"),))
    vms.change(VM, lambda record: replace(record, devices=here))
    vms.move(VM, lambda life: moving.arrive(life, runs=False))
    ports.run()
    assert ports.told[-1] == {"red": ["vnet2"], "blue": ["vnet2"]}


def test_the_network_worker_is_told_again_after_its_restart_and_as_long_as_it_does_not_answer(ports: Ports) -> None:
    _, mirrors = room(ports, VmStatus.UP, SEES)
    mirrors.changed()
    ports.run()
    mirrors.changed()
    assert (len(ports.told), ports.jobs) == (1, [])
    ports.fails = PeerRestarted("network", "internal.mirror_networks")
    mirrors.network_is_back()
    ports.run()
    ports.fails = None
    ports.run()
    assert ports.told == [{"red": ["vnet7"], "blue": ["vnet7"]}] * 3
    assert ports.jobs == []


def test_a_card_without_a_tap_is_refused_and_one_without_mirrors_costs_no_call(ports: Ports) -> None:
    vms, mirrors = room(ports, VmStatus.UP, Nic(mac="m", name="vnet7"))
    mirrors.changed()
    ports.run()
    mirrors.ensure(VM, HotplugNicFailed)
    assert len(ports.told) == 1
    vms.change(VM, lambda record: replace(record, devices=Devices(nics=(replace(SEES, name=""),))))
    with pytest.raises(HotplugNicFailed, match="is none that"):
        mirrors.ensure(VM, HotplugNicFailed)


def test_a_vm_that_starts_counts_while_others_come_and_go(ports: Ports) -> None:
    _, mirrors = room(ports, VmStatus.WAIT_FOR_LAUNCH, SEES)
    mirrors.changed()
    ports.run()
    assert ports.told == [{}]
    mirrors.ensure(VM, HotplugNicFailed)
    assert ports.told[-1] == {"red": ["vnet7"], "blue": ["vnet7"]}
    mirrors.changed()
    assert ports.jobs == []


def test_a_start_waits_for_a_network_worker_that_is_being_replaced(ports: Ports) -> None:
    _, mirrors = room(ports, VmStatus.WAIT_FOR_LAUNCH, SEES)
    ports.away = 2
    mirrors.ensure(VM, HotplugNicFailed)
    assert ports.told == [{"red": ["vnet7"], "blue": ["vnet7"]}]
    ports.away, ports.draining = 1, True
    with pytest.raises(HotplugNicFailed, match="Initializing"):
        mirrors.ensure(VM, HotplugNicFailed)
