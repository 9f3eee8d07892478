# SPDX-License-Identifier: Apache-2.0
"""The door as a worker of a house: it dies, leaves and comes back, and its clients notice what they must."""

import os
import signal
import socket
import time
from collections.abc import Iterator

import pytest

from tests.support.eventually import eventually
from tests.support.house import RunningHouse
from tests.support.needs import needs_root
from tests.support.wirepeers import EngineReader, was_reset

pytestmark = needs_root()


@pytest.fixture(scope="module")
def house() -> Iterator[RunningHouse]:
    with RunningHouse.start(tls=True, table="tests.support.door_table") as house:
        yield house


def engine(house: RunningHouse) -> EngineReader:
    return EngineReader(("127.0.0.1", house.port), house.files)


def served(house: RunningHouse) -> bool:
    with engine(house) as one:
        return bool(one.call("Host.ping2").get("result"))


def test_calls_are_served_when_the_house_is_ready(house: RunningHouse) -> None:
    eventually(lambda: served(house))
    with engine(house) as one:
        # A real answer of another worker's, through the bus.
        assert one.call("Host.getVMList")["error"]["code"] == -32601


def test_an_engine_notices_the_sudden_death_of_the_door_and_comes_back(house: RunningHouse) -> None:
    eventually(lambda: served(house))
    for _ in range(3):
        old = engine(house)
        assert old.call("Host.ping2")["result"] is True
        pid = house.pid_of("clientif")
        os.kill(pid, signal.SIGKILL)
        assert was_reset(old.records.sock)
        old.close()
        # It connects while nobody accepts: the master's backlog keeps it.
        with engine(house) as again:
            eventually(lambda again=again: again.call("Host.ping2").get("result"), within_s=10)
        house.wait_other_pid("clientif", pid)


def test_who_is_on_the_way_in_notices_the_sudden_death_of_the_door(house: RunningHouse) -> None:
    eventually(lambda: served(house))
    pid = house.pid_of("clientif")
    with (
        socket.create_connection(("127.0.0.1", house.port)) as silent,
        socket.create_connection(("127.0.0.1", house.port)) as begun,
    ):
        begun.sendall(bytes.fromhex("16030100c8010000c40303"))
        eventually(lambda: house.worker("clientif")["vitals"].get("connections") == 2)
        os.kill(pid, signal.SIGKILL)
        assert was_reset(silent)
        assert was_reset(begun)
    house.wait_other_pid("clientif", pid)


def test_the_death_of_another_worker_leaves_connections_and_other_calls_alone(house: RunningHouse) -> None:
    eventually(lambda: served(house))
    with engine(house) as one:
        pid = house.pid_of("virt")
        os.kill(pid, signal.SIGKILL)
        assert one.call("Host.ping2")["result"] is True
        # Not served now, or served by the next one; never silence.
        answer = one.call("Host.getVMList")
        assert answer["error"]["code"] in (99, -32601)
        house.wait_other_pid("virt", pid)
        assert one.call("Host.getVMList")["error"]["code"] == -32601


def test_the_door_tells_its_vitals(house: RunningHouse) -> None:
    eventually(lambda: served(house))
    with engine(house):
        eventually(lambda: house.worker("clientif")["vitals"].get("engines") == 1)
        vitals = house.worker("clientif")["vitals"]
    assert vitals["tls"] is True
    assert 29 < vitals["certificate_days_left"] <= 30
    assert vitals["certificates_refused"] == ""
    assert vitals["waiting_for"] == []


def test_stopping_the_house_resets_its_clients() -> None:
    with RunningHouse.start(tls=True, table="tests.support.door_table") as house:
        eventually(lambda: served(house))
        with engine(house) as one:
            one.call("Host.ping2")
            began = time.monotonic()
            assert house.terminate() == 0
            assert was_reset(one.records.sock)
            assert time.monotonic() - began < 10
