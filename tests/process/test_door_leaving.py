# SPDX-License-Identifier: Apache-2.0
"""How clients and the door leave, and who hears of it."""

import asyncio
import contextlib
import socket
import threading
import time

import pytest

from tests.support.door import Door, open_door
from tests.support.door_answers import ANSWERS, VM
from tests.support.eventually import eventually
from tests.support.wirepeers import EngineReader, Records, was_closed, was_reset
from vdsm_mp.api.errors import DeadlineExceeded
from vdsm_mp.clientif.limits import Limits
from vdsm_mp.wire.client import Client, ConnectionLost
from vdsm_mp.wire.tls import Files


def connected(door: Door) -> int:
    return int(door.call(door.server.vitals)["connections"])


def test_leaving_with_a_receipt_is_confirmed(engine: EngineReader) -> None:
    engine.send("UNSUBSCRIBE", {"id": "sub-responses"})
    engine.send("DISCONNECT", {"receipt": "9a8b7c6d"})
    assert engine.records.next().octets == b"RECEIPT\nreceipt-id:9a8b7c6d\n\n\0"


def test_leaving_without_a_receipt_closes(engine: EngineReader, door: Door) -> None:
    engine.send("DISCONNECT", {})
    assert was_closed(engine.records.sock)


def test_a_client_that_leaves_takes_everything_with_it(door: Door, files: Files) -> None:
    before = connected(door)
    with EngineReader(door.address, files) as engine:
        engine.ask("VM.destroy", {"vmID": VM})
        eventually(lambda: door.call(door.server.vitals)["calls_in_flight"] == 1)
    eventually(lambda: connected(door) == before)
    assert door.call(door.server.vitals)["calls_in_flight"] == 0


def test_a_leaving_door_serves_until_no_call_is_in_flight_and_closes_with_a_reset(files: Files) -> None:
    gate = threading.Event()

    async def waits(_params: bytes) -> bytes:
        while not gate.is_set():
            await asyncio.sleep(0.01)
        return b'"done"'

    with open_door(files, answers={"Host.getStats": waits}) as door:
        engine = EngineReader(door.address, files)
        first = engine.ask("Host.getStats")
        eventually(lambda: len(door.bus.asked) == 1)
        leaving = threading.Thread(target=door.server.drain)
        leaving.start()
        eventually(lambda: not door.server._accepting.on)
        with pytest.raises(TimeoutError):
            # It is kept for the next door.
            Records(door.address, files, timeout_s=0.2)
        second = engine.ask("Host.ping2")
        assert engine.message() == {"jsonrpc": "2.0", "id": second, "result": True}
        gate.set()
        assert engine.message() == {"jsonrpc": "2.0", "id": first, "result": "done"}
        assert was_reset(engine.records.sock)
        leaving.join()
        engine.close()


def test_a_leaving_door_that_always_has_calls_takes_no_more_at_the_last(files: Files) -> None:
    async def slow(_params: bytes) -> bytes:
        await asyncio.sleep(0.1)
        return b'"done"'

    limits = Limits(drain_s=1.5, last_calls_s=1.0)
    with open_door(files, answers={"Host.getStats": slow}, limits=limits) as door:
        engine = EngineReader(door.address, files)
        stop = threading.Event()

        def always_asks() -> None:
            with contextlib.suppress(OSError):
                while not stop.wait(0.02):
                    engine.ask("Host.getStats")

        asks = threading.Thread(target=always_asks)
        asks.start()
        eventually(lambda: len(door.bus.asked) > 10)
        began = time.monotonic()
        door.server.drain()
        assert 0.5 < time.monotonic() - began < 1.3
        stop.set()
        asks.join()
        # Whatever was taken was answered.
        answered = set()
        with contextlib.suppress(OSError, EOFError):
            while True:
                answer = engine.message(within_s=5)
                assert answer["result"] == "done"
                answered.add(answer["id"])
        assert len(answered) == len(door.bus.asked)
        engine.close()


def test_everything_is_99_until_every_worker_has_been_ready(files: Files) -> None:
    with open_door(files, ready=False, answers=ANSWERS) as door, EngineReader(door.address, files) as engine:
        for verb in ("Host.ping2", "Host.getCapabilities", "Host.noSuchVerb"):
            assert engine.call(verb)["error"] == {"code": 99, "message": "Recovering from crash or Initializing"}
        for worker in ("storage", "network", "scheduler"):
            door.call(door.gate.peer_changed, worker, True)
        assert engine.call("Host.ping2")["error"]["code"] == 99
        door.call(door.gate.peer_changed, "virt", True)
        assert engine.call("Host.ping2")["result"] is True


def test_a_worker_that_is_down_keeps_out_only_its_own_calls(files: Files) -> None:
    limits = Limits(worker_back_s=0.2)
    with open_door(files, answers=ANSWERS, limits=limits) as door, EngineReader(door.address, files) as engine:
        door.call(door.gate.peer_changed, "virt", False)
        assert engine.call("VM.cont")["error"]["code"] == 99
        assert engine.call("Host.getCapabilities")["result"]


def test_a_call_waits_for_a_worker_that_is_just_being_restarted(files: Files) -> None:
    limits = Limits(worker_back_s=10)
    with open_door(files, answers=ANSWERS, limits=limits) as door, EngineReader(door.address, files) as engine:
        door.call(door.gate.peer_changed, "virt", False)
        engine.ask("VM.cont")
        engine.ask("Host.ping2")
        assert engine.message()["id"] == "call-2"
        door.call(door.gate.peer_changed, "virt", True)
        assert engine.message()["id"] == "call-1"


def test_a_client_library_gives_up_by_its_own_deadline(client: Client) -> None:
    with pytest.raises(DeadlineExceeded):
        client.call("VM.destroy", {"vmID": VM}, timeout_s=0.1)
    assert client.call("Host.ping2") is True


def test_clear_text_speaks_the_same() -> None:
    with open_door(None, answers=ANSWERS) as door:
        with EngineReader(door.address, None) as engine:
            engine.ask("Host.ping2")
            assert b'"result": true' in engine.records.next().octets
        with door.client(None) as client:
            assert client.call("Host.getVMList") == [{"vmId": VM}]


def test_tls_to_a_clear_text_door_is_closed(files: Files) -> None:
    with open_door(None) as door, pytest.raises((ConnectionError, OSError)):
        Records(door.address, files)


def test_a_lost_server_is_told_to_the_client(files: Files) -> None:
    with open_door(files, answers=ANSWERS) as door:
        client = door.client(files)
        door.server.drain()
        with pytest.raises(ConnectionLost):
            client.call("Host.ping2")
        client.close()


def test_nothing_of_a_client_reaches_a_parser_before_tls(door: Door) -> None:
    with socket.create_connection(door.address) as sock:
        sock.sendall(b"CONNECT\naccept-version:1.2\n\n\0")
        sock.settimeout(5)
        try:
            assert not sock.recv(1024).startswith(b"CONNECTED")
        except ConnectionResetError:
            pass
