# SPDX-License-Identifier: Apache-2.0
"""The door at the end of a road that loses packets, with the kernel's own TCP on both ends, by IPv4 and IPv6."""

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.door import Door, always, open_door
from tests.support.engineclient import NETWORK_ERROR, EngineClient
from tests.support.eventually import eventually
from tests.support.lossyroad import LossyRoad
from tests.support.needs import needs_root
from tests.support.vdsmclient import VdsmClient
from vdsm_mp.api.events import VmStatusChanged
from vdsm_mp.clientif.limits import Limits
from vdsm_mp.wire.tls import Files

pytestmark = [
    needs_root(),
    pytest.mark.skipif(not Path("/dev/net/tun").exists(), reason="the kernel has no TUN devices"),
]

VM = "0d5f1f2e-3a4b-4c5d-8e6f-7a8b9c0d1e06"
BIG = {"x": "y" * 100_000}


async def hangs(_params: bytes) -> bytes:
    await asyncio.sleep(3600)
    raise AssertionError


@pytest.fixture
def road() -> Iterator[LossyRoad]:
    with LossyRoad(lose=0.02, delay_s=0.01) as road:
        yield road


@pytest.fixture
def door(files: Files, road: LossyRoad) -> Iterator[Door]:
    answers = {"Host.getCapabilities": always(BIG), "VM.destroy": hangs}
    with open_door(files, listener=road.listener(), answers=answers, limits=Limits(vanished_s=3)) as door:
        yield door


@pytest.mark.parametrize("ipv6", [False, True])
def test_an_engine_loses_nothing_and_seldom_waits(door: Door, files: Files, road: LossyRoad, ipv6: bool) -> None:
    with EngineClient(door.address, files, dial=lambda: road.dial(door.port, ipv6=ipv6)) as engine:
        engine.call("Host.ping2")
        took = []
        for number in range(40):
            began = time.monotonic()
            large = engine.start("Host.getCapabilities")
            for part in range(2):
                event = VmStatusChanged(vm_id=VM, info={"status": "Up"}, notify_time=number * 2 + part)
                door.call(door.broker.publish, event)
            assert engine.call("Host.ping2").result is True
            assert engine.wait(large).result == BIG
            took.append(time.monotonic() - began)
        eventually(lambda: len(engine.events) == 80)
        assert [event["params"]["notify_time"] for event in engine.events] == list(range(80))
        assert not engine.lost
        # Its own loop would make it a second each time that records came together.
        assert sorted(took)[len(took) // 2] < 0.5
    assert road.lost > 10


def test_a_host_s_client_gets_what_is_large_over_a_bad_road(door: Door, files: Files, road: LossyRoad) -> None:
    road.lose = 0.05
    with VdsmClient(door.address, files, piece=1000, dial=lambda: road.dial(door.port, ipv6=True)) as client:
        for _ in range(5):
            assert client.call("Host.getCapabilities", {"padding": "x" * 5000}) == BIG
    assert door.bus.asked[-1].peer.startswith("[2001:db8::2]:")


def test_a_client_whose_road_ends_is_forgotten_and_comes_back_with_the_same_ids(
    door: Door, files: Files, road: LossyRoad
) -> None:
    with EngineClient(door.address, files, dial=lambda: road.dial(door.port)) as engine:
        gone = engine.start("VM.destroy", {"vmID": VM}, call_id="the same")
        eventually(lambda: door.call(door.server.vitals)["calls_in_flight"] == 1)
        road.lose = 1.0
        for number in range(50):
            door.call(door.broker.publish, VmStatusChanged(vm_id=VM, info={"status": "Up"}, notify_time=number))
        # The kernel at the door gives up what nobody acknowledges.
        eventually(lambda: door.server.connections == 0, within_s=20)
        assert door.call(door.server.vitals)["calls_in_flight"] == 0
        road.lose = 0.0
        engine.drop()
        assert engine.wait(gone).code == NETWORK_ERROR
        assert engine.wait(engine.start("Host.ping2", call_id="the same")).result is True
        assert not engine.events


def test_a_leaving_door_closes_when_its_answers_have_arrived(door: Door, files: Files, road: LossyRoad) -> None:
    road.lose, road.delay_s = 0.0, 0.1
    with EngineClient(door.address, files, dial=lambda: road.dial(door.port)) as engine:
        engine.call("Host.ping2")
        before = len(door.bus.asked)
        calls = [engine.start("Host.getCapabilities") for _ in range(5)]
        eventually(lambda: len(door.bus.asked) == before + 5, every_s=0.001)
        door.server.drain()
        assert [engine.wait(call).result == BIG for call in calls] == [True] * 5
        eventually(lambda: engine.lost)
