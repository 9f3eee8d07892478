# SPDX-License-Identifier: Apache-2.0
"""Events on their whole way: libvirt's callback, the virt room, the bus, the door, a client. Counted, not timed."""

import json
import os
import threading
from collections.abc import Iterator

import pytest

from tests.support.eventually import eventually
from tests.support.house import RunningHouse
from vdsm_mp.wire.client import Client

pytestmark = pytest.mark.skipif(os.getuid() != 0, reason="a house needs root to become its user")

VMS, EVENTS = 20, 2000


@pytest.fixture(scope="module")
def house() -> Iterator[RunningHouse]:
    with RunningHouse.start(table="tests.support.storm_table") as house:
        yield house


def test_as_many_events_as_libvirt_can_make_reach_a_client_each_once_and_in_order(house: RunningHouse) -> None:
    listener, other = house.client(), house.client()
    ids = other.call("Storm.prepare", {"vms": VMS})
    eventually(lambda: set(ids) <= {entry["vmId"] for entry in other.call("Host.getVMList")})
    listener.subscribe()
    listener.call("Host.ping2")
    done: list[list[object]] = []
    params = json.dumps({"events": EVENTS}).encode()
    storm = threading.Thread(target=lambda: done.extend(json.loads(other.call_raw("Storm.raise", params))))
    storm.start()
    told = heard(listener, EVENTS, set(ids))
    storm.join()
    assert told == [(vm_id, status) for vm_id, status, _ in done]
    # And nothing comes after them.
    assert heard(listener, 1, set(ids), within_s=0.5) == []


def test_events_and_polls_tell_by_the_same_clock_and_of_the_same_devices(house: RunningHouse) -> None:
    listener, other = house.client(), house.client()
    ids = other.call("Storm.prepare", {"vms": 1})
    vm_id = ids[-1]
    eventually(lambda: vm_id in {entry["vmId"] for entry in other.call("Host.getVMList")})
    listener.subscribe()
    listener.call("Host.ping2")
    before = stats(other, vm_id)
    other.call("Storm.raise", {"events": 2 * len(ids)})  # each is paused and resumed
    seen = [event for event in listener.events(timeout_s=2) if vm_id in event.params]
    after = stats(other, vm_id)
    stamps = [int(before["statusTime"]), *(event.params["notify_time"] for event in seen), int(after["statusTime"])]
    assert len(seen) == 2
    assert stamps == sorted(stamps)
    (resumed,) = [event.params[vm_id] for event in seen if event.params[vm_id]["status"] == "Up"]
    assert resumed["hash"] == before["hash"] == after["hash"]


def stats(client: Client, vm_id: str) -> dict[str, str]:
    (entry,) = client.call("VM.getStats", {"vmID": vm_id})
    assert isinstance(entry, dict)
    return entry


def heard(client: Client, count: int, ids: set[str], within_s: float = 60) -> list[tuple[str, str]]:
    """(vm id, status) of so many events, or of as many as came in time."""
    told: list[tuple[str, str]] = []
    for event in client.events(timeout_s=within_s):
        told += [(vm_id, info["status"]) for vm_id, info in event.params.items() if vm_id in ids]
        if len(told) >= count:
            break
    return told
