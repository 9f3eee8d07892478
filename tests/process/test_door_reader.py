# SPDX-License-Identifier: Apache-2.0
"""What the engine's reader can take, and events as it reads them."""

import select
import time

import pytest

from tests.support.door import Door, open_door
from tests.support.door_answers import VM
from tests.support.wirepeers import EngineReader, Records, was_reset
from vdsm_mp.api.events import HostConnectivityChanged, JobChanged, VmStatusChanged
from vdsm_mp.wire import stomp
from vdsm_mp.wire.client import Client
from vdsm_mp.wire.tls import Files


def test_a_large_reply_begins_with_its_headers_and_is_one_frame(engine: EngineReader) -> None:
    assert len(engine.call("Host.getCapabilities")["result"]["big"]) == 200_000


def test_frames_to_an_engine_are_kept_apart_and_never_put_together(engine: EngineReader, door: Door) -> None:
    for number in range(6):
        door.call(door.broker.publish, HostConnectivityChanged(notify_time=2**31 + number))
    request_id = engine.ask("Host.ping2")
    *events, reply = engine.messages(7)
    assert [event["params"]["notify_time"] - 2**31 for event in events] == list(range(6))
    assert reply["id"] == request_id
    # Six gaps of 5 ms; the first frame may have been read late.
    assert engine.arrivals[-1] - engine.arrivals[1] > 0.015


def test_a_python_client_is_not_slowed_down(client: Client) -> None:
    ids = [client.start("Host.ping2", b"{}") for _ in range(300)]
    began = time.monotonic()
    for request_id in ids:
        client.wait(request_id, timeout_s=10)
    # 300 frames 5 ms apart would take 1.5 s.
    assert time.monotonic() - began < 1.4


def test_an_idle_connection_hears_a_beat_before_it_is_due(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vdsm_mp.clientif.heartbeats.ENGINE_BEAT_FLOOR_MS", 600)
    with open_door(files) as door, EngineReader(door.address, files, heart_beat="0,600") as engine:
        last, gaps = time.monotonic(), []
        for _ in range(3):
            record = engine.records.next(within_s=5)
            assert record.octets == b"\n"
            gaps.append(record.at - last)
            last = record.at
    # A busy machine may hold one up, and the next is early then: never all of them.
    assert sorted(gaps)[1] < 0.6


def test_a_client_that_promised_beats_and_is_silent_is_dropped(door: Door, files: Files) -> None:
    with EngineReader(door.address, files, heart_beat="1000,0") as engine:
        assert was_reset(engine.records.sock, within_s=5)


def test_what_came_while_nobody_read_is_a_sign_of_life(client: Client) -> None:
    asked = client.start("Host.ping2", b"{}")
    assert select.select([client._sock], [], [], 5)[0]
    client._heard_mono -= 60  # as after a minute in which the client's program did something else
    assert client.wait(asked, timeout_s=5) == b"true"


def test_events_reach_every_subscriber_as_the_engine_reads_them(
    door: Door, files: Files, engine: EngineReader, client: Client
) -> None:
    client.subscribe()
    client.call("Host.ping2")
    door.call(door.broker.publish, VmStatusChanged(vm_id=VM, info={"status": "Up", "hash": "-27"}, notify_time=21520))
    assert engine.message() == {
        "jsonrpc": "2.0",
        "method": f"|virt|VM_status|{VM}",
        "params": {VM: {"status": "Up", "hash": "-27"}, "notify_time": 21520},
    }
    event = next(client.events(timeout_s=5))
    assert event.method == f"|virt|VM_status|{VM}"
    job = JobChanged(job_id="f00d", info={"id": "f00d", "status": "done"}, notify_time=7)
    door.call(door.broker.publish, job)
    assert engine.message()["params"] == {"id": "f00d", "status": "done", "notify_time": 7}


def test_who_unsubscribed_hears_no_more(engine: EngineReader, door: Door) -> None:
    engine.send("UNSUBSCRIBE", {"id": "sub-events"})
    engine.call("Host.ping2")
    door.call(door.broker.publish, HostConnectivityChanged(notify_time=1))
    assert engine.call("Host.ping2")["result"] is True


def test_what_one_client_sends_reaches_those_who_listen_to_a_prefix(door: Door, files: Files) -> None:
    with Records(door.address, files) as listener, Records(door.address, files) as talker:
        listener.send(b"SUBSCRIBE\ndestination:house.agent\nid:7\n\n\0")
        listener.send(b"CONNECT\naccept-version:1.2\n\n\0")
        listener.next()
        talker.send(b"SEND\ndestination:house.agent.state\nx:y\n\nhello\0")
        parser = stomp.Parser()
        parser.feed(listener.next().octets)
        frame = parser.next()
        assert frame is not None and frame.command == "MESSAGE" and frame.body == b"hello"
        assert frame.headers["destination"] == "house.agent.state"
        assert (frame.headers["subscription"], frame.headers["x"]) == ("7", "y")


def test_requests_are_not_shown_to_other_clients(door: Door, files: Files, client: Client) -> None:
    with Records(door.address, files) as spy:
        spy.send(b"SUBSCRIBE\ndestination:jms.topic.vdsm_requests\nid:1\n\n\0")
        spy.send(b"SUBSCRIBE\ndestination:jms.topic\nid:2\n\n\0")
        client.call("Host.ping2")
        with pytest.raises(TimeoutError):
            spy.next(within_s=0.3)
