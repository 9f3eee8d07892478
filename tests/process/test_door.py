# SPDX-License-Identifier: Apache-2.0
"""The door over real TLS, as its two real client families use it."""

import asyncio
import contextlib
import json
import select
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.certificates import Authority, make_authority
from tests.support.door import Door, always, open_door
from tests.support.eventually import eventually
from tests.support.wirepeers import EngineReader, Records, was_closed, was_reset
from vdsm_mp.api.catalogue import VERBS
from vdsm_mp.api.errors import DeadlineExceeded, PeerRestarted, RemoteError
from vdsm_mp.api.events import HostConnectivityChanged, JobChanged, VmStatusChanged
from vdsm_mp.clientif.limits import Limits
from vdsm_mp.wire import stomp
from vdsm_mp.wire.client import Client, ConnectionLost
from vdsm_mp.wire.tls import Files

VM = "0d5f1f2e-3a4b-4c5d-8e6f-7a8b9c0d1e06"


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return make_authority(tmp_path_factory.mktemp("pki") / "ca")


@pytest.fixture(scope="module")
def files(authority: Authority) -> Files:
    return authority.issue("host", "127.0.0.1")


async def fails_by_death(_params: bytes) -> bytes:
    raise PeerRestarted("virt", "VM.pause")


async def is_null(_params: bytes) -> bytes:
    return b"null"


async def breaks(_params: bytes) -> bytes:
    raise ZeroDivisionError


async def hangs(_params: bytes) -> bytes:
    await asyncio.sleep(3600)
    raise AssertionError


async def echoes(params: bytes) -> bytes:
    return params


ANSWERS = {
    "Host.getVMList": always([{"vmId": VM}]),
    "Host.getCapabilities": always({"big": "x" * 200_000}),
    "VM.pause": fails_by_death,
    "VM.cont": is_null,
    "VM.shutdown": breaks,
    "VM.destroy": hangs,
    "Host.getStats": echoes,
}


@pytest.fixture(scope="module")
def door(files: Files) -> Iterator[Door]:
    with open_door(files, answers=ANSWERS) as door:
        yield door


@pytest.fixture
def client(door: Door, files: Files) -> Iterator[Client]:
    with door.client(files) as client:
        yield client


@pytest.fixture
def engine(door: Door, files: Files) -> Iterator[EngineReader]:
    with EngineReader(door.address, files) as engine:
        yield engine


def connected(door: Door) -> int:
    return int(door.call(door.server.vitals)["connections"])


# What is said, octet by octet


def test_a_ping_of_the_engine_is_answered_as_vdsm_answers(engine: EngineReader) -> None:
    engine.send(
        "SEND",
        {"destination": "jms.topic.vdsm_requests", "reply-to": engine.RESPONSES},
        b'{"jsonrpc":"2.0","method":"Host.ping2","params":{},"id":"7b1b6a56-52a5-4f0c-8f43-1d1c0e6a9d10"}',
    )
    record = engine.records.next()
    assert record.octets == (
        b"MESSAGE\ndestination:jms.topic.vdsm_responses\ncontent-type:application/json\n"
        b"subscription:sub-responses\ncontent-length:80\n\n"
        b'{"jsonrpc": "2.0", "id": "7b1b6a56-52a5-4f0c-8f43-1d1c0e6a9d10", "result": true}\0'
    )


def test_the_heart_beat_is_never_promised_to_an_engine_faster_than_every_15_seconds(door: Door, files: Files) -> None:
    for asked, promised in {
        "0,15000": "15000,0",
        "0,11250": "15000,0",
        "0,1000": "15000,0",
        "0,24000": "24000,0",
        "0,0": "0,0",
        "500,0": "0,1000",
        "x,y": "0,0",
        "-5,-7": "0,0",
        "5000": "0,5000",
    }.items():
        with EngineReader(door.address, files, heart_beat=asked) as engine:
            assert engine.connected.headers == {"version": "1.2", "heart-beat": promised}, asked


def test_subscriptions_may_come_before_connect(door: Door, files: Files) -> None:
    with Records(door.address, files) as raw:
        raw.send(b"SUBSCRIBE\ndestination:jms.topic.vdsm_responses\nid:1\n\n\0")
        raw.send(b"CONNECT\naccept-version:1.2\nhost:null\nheart-beat:0,15000\n\n\0")
        assert raw.next().octets.startswith(b"CONNECTED\n")


def test_a_call_without_any_connect_is_served(door: Door, files: Files) -> None:
    with Records(door.address, files) as raw:
        raw.send(b"SUBSCRIBE\ndestination:me\nid:1\n\n\0")
        raw.send(stomp.encode("SEND", (("destination", "jms.topic.vdsm_requests"), ("reply-to", "me")), PING))
        assert b'"result": true' in raw.next().octets


PING = b'{"jsonrpc":"2.0","method":"Host.ping2","params":{},"id":1}'


def error_text(raw: Records) -> str:
    parser = stomp.Parser()
    parser.feed(raw.next().octets)
    frame = parser.next()
    assert frame is not None and frame.command == "ERROR"
    return frame.body.decode()


@pytest.mark.parametrize(
    ("sent", "said"),
    [
        (b"CONNECT\naccept-version:1.1,1.2\n\n\0", "Version unsupported"),
        (b"CONNECT\n\n\0", "Version unsupported"),
        (b"SUBSCRIBE\nid:1\n\n\0", "Missing destination or subscription id header"),
        (b"SUBSCRIBE\ndestination:\nid:1\n\n\0", "Missing destination or subscription id header"),
        (b"SUBSCRIBE\ndestination:a\n\n\0", "Missing destination or subscription id header"),
        (b"SUBSCRIBE\ndestination:a\nid:1\n\n\0SUBSCRIBE\ndestination:b\nid:1\n\n\0", "Subscription id already exists"),
        (b"UNSUBSCRIBE\na:b\n\n\0", "Missing id header"),
        (b"SEND\ndestination:nobody\n\nx\0", "Subscription not available"),
        (b"SEND\na:b\n\nx\0", "Subscription not available"),
        (b"SUBSCRIBE\nid:1\ndestination:" + b"x" * 2000 + b"\n\n\0", "Destination and subscription id are too long"),
    ],
)
def test_a_mistake_is_named_and_the_connection_goes_on(door: Door, files: Files, sent: bytes, said: str) -> None:
    with Records(door.address, files) as raw:
        raw.send(sent)
        assert error_text(raw) == said
        raw.send(b"CONNECT\naccept-version:1.2\n\n\0")
        assert raw.next().octets == b"CONNECTED\nversion:1.2\nheart-beat:0,0\n\n\0"


@pytest.mark.parametrize(
    "sent",
    [
        b"SEND\ncontent-length:10000000000\n\n",
        b"SEND\ncontent-length:-1\n\n\0",
        b"SEND\ncontent-length:NaN\n\n\0",
        b"SEND\nno colon\n\n\0",
        b"SEND\ncontent-length:1\n\nabc\0",
        b"SEND\na:" + b"x" * 70_000,
        b"CONNECT\nheart-beat:\xff\n\n\0",
        b"SEND\na:b\n\n\0ACK\nid:1\n\n\0",
        b"SEND\na:b\n\n\0STOMP\naccept-version:1.2\n\n\0",
    ],
)
def test_what_cannot_be_understood_is_answered_with_an_error_and_then_closed(
    door: Door, files: Files, sent: bytes
) -> None:
    with Records(door.address, files) as raw:
        raw.send(sent)
        received = b""
        with pytest.raises((EOFError, ConnectionResetError)):
            while True:
                received += raw.next().octets
        assert b"ERROR\n" in received


def test_unknown_internal_and_unbuilt_verbs_are_told_apart(client: Client) -> None:
    for method, text in {
        "Host.noSuchVerb": "unknown verb: Host.noSuchVerb",
        "internal.sample_vms": "unknown verb: internal.sample_vms",
        "GlusterVolume.list": "GlusterVolume.list is not supported by this host yet",
        "x" * 60_000: "unknown verb: " + "x" * 256 + "…",
        "a\nb": "unknown verb: a?b",
    }.items():
        with pytest.raises(RemoteError) as caught:
            client.call(method)
        assert (caught.value.code, str(caught.value)) == (-32601, text)


def test_null_is_never_a_result(engine: EngineReader) -> None:
    assert engine.call("VM.cont") == {"jsonrpc": "2.0", "id": "call-1", "result": True}


def test_an_error_has_no_result_and_a_result_no_error(engine: EngineReader) -> None:
    failed = engine.call("VM.pause", {"vmID": VM})
    assert failed == {
        "jsonrpc": "2.0",
        "id": "call-1",
        "error": {
            "code": -32603,
            "message": "The virt worker died while it served VM.pause; the operation may have run",
        },
    }
    assert engine.call("Host.getVMList") == {"jsonrpc": "2.0", "id": "call-2", "result": [{"vmId": VM}]}


def test_a_bug_behind_the_door_is_one_sentence_to_the_client(client: Client) -> None:
    with pytest.raises(RemoteError, match=r"^Internal error$") as caught:
        client.call("VM.shutdown")
    assert caught.value.code == -32603


def test_params_reach_their_owner_unopened(client: Client, door: Door) -> None:
    params = b'{ "a" : [1.50, "\\u00e9"],"b":null }'
    assert client.call_raw("Host.getStats", params, flow_id="3f2a\n91:c7") == params
    asked = door.bus.asked[-1]
    assert (asked.params, asked.flow_id) == (params, "3f2a?91:c7")
    assert asked.peer.startswith("127.0.0.1:")
    allowed_s = VERBS["Host.getStats"].deadline_s
    assert allowed_s - 1 < asked.deadline_s <= allowed_s


def test_a_flow_id_with_raw_colons_is_no_reason_to_hang_up(engine: EngineReader) -> None:
    engine.ask("Host.ping2", flow_id="a:b:c")
    assert engine.message()["result"] is True


# Answers go to whom they belong


def test_two_clients_with_the_same_ids_and_queue_get_their_own_answers(door: Door, files: Files) -> None:
    with EngineReader(door.address, files) as one, EngineReader(door.address, files) as other:
        one.ask("Host.getVMList")
        other.ask("Host.ping2")
        assert one.message()["result"] == [{"vmId": VM}]
        assert other.message()["result"] is True


def test_ids_of_every_kind_come_back_as_they_were(door: Door, files: Files) -> None:
    with Records(door.address, files) as raw:
        raw.send(b"SUBSCRIBE\ndestination:me\nid:1\n\n\0")
        for request_id in (b"1", b"-1.50", b'""', b'"\\u0041"', b"12345678901234567890123"):
            body = b'{"jsonrpc":"2.0","method":"Host.ping2","id":%b}' % request_id
            raw.send(stomp.encode("SEND", (("destination", "jms.topic.vdsm_requests"), ("reply-to", "me")), body))
            assert b'"id": %b, "result": true}' % request_id in raw.next().octets


def send_body(raw: Records, body: bytes) -> Any:
    raw.send(stomp.encode("SEND", (("destination", "jms.topic.vdsm_requests"), ("reply-to", "me")), body))
    parser = stomp.Parser()
    while (frame := parser.next()) is None:
        parser.feed(raw.next().octets)
    return json.loads(frame.body)


@pytest.fixture
def raw(door: Door, files: Files) -> Iterator[Records]:
    with Records(door.address, files) as raw:
        raw.send(b"SUBSCRIBE\ndestination:me\nid:1\n\n\0")
        yield raw
        # Whatever was sent, the connection is usable afterwards.
        assert send_body(raw, PING) == {"jsonrpc": "2.0", "id": 1, "result": True}


def test_a_batch_of_one_is_answered_with_a_plain_object(raw: Records) -> None:
    assert send_body(raw, b"[%b]" % PING) == {"jsonrpc": "2.0", "id": 1, "result": True}


def test_a_batch_is_answered_with_one_array_without_its_notifications(raw: Records) -> None:
    batch = b'[%b,{"jsonrpc":"2.0","method":"Host.ping2"},{"id":7},{"jsonrpc":"2.0","method":"Host.getVMList","id":2}]'
    answers = send_body(raw, batch % PING)
    assert [answer["id"] for answer in answers] == [1, 7, 2]
    assert answers[1]["error"]["code"] == -32600
    assert answers[2]["result"] == [{"vmId": VM}]


def test_notifications_are_executed_and_never_answered(raw: Records, door: Door) -> None:
    before = len(door.bus.asked)
    notification = b'{"jsonrpc":"2.0","method":"Host.getVMList"}'
    for body in (notification, b"[%b]" % notification, b"[%b,%b]" % (notification, notification)):
        raw.send(stomp.encode("SEND", (("destination", "jms.topic.vdsm_requests"), ("reply-to", "me")), body))
    eventually(lambda: len(door.bus.asked) == before + 4)


@pytest.mark.parametrize(
    ("body", "code", "request_id"),
    [
        (b"hello", -32700, None),
        (b'{"jsonrpc":"2.0","method":"Host.ping2","params":{"a":NaN},"id":"u"}', -32700, "u"),
        (
            b'{"jsonrpc":"2.0","method":"a","params":' + b"[" * 100_000 + b"]" * 100_000 + b',"id":"u"}',
            -32700,
            "u",
        ),
        (b'{"jsonrpc":"2.0","method":"\\ud800","id":"u"}', -32700, "u"),
        (b'{"jsonrpc":"2.0","method":"Host.ping2","id":"' + b"x" * 10_000_000 + b'"}', -32600, None),
        (b'{"jsonrpc":"2.0","params":{},"id":3}', -32600, 3),
        (b"[]", -32600, None),
    ],
)
def test_bad_json_is_answered_once_and_the_connection_goes_on(
    raw: Records, body: bytes, code: int, request_id: object
) -> None:
    answer = send_body(raw, body)
    assert (answer["error"]["code"], answer["id"]) == (code, request_id)


def test_a_reply_that_nobody_listens_for_is_dropped(raw: Records) -> None:
    headers = (("destination", "jms.topic.vdsm_requests"),)
    raw.send(stomp.encode("SEND", (*headers, ("reply-to", "elsewhere")), PING))
    raw.send(stomp.encode("SEND", headers, PING))


def test_an_engine_whose_subscribe_was_lost_still_gets_its_answers(door: Door, files: Files) -> None:
    with Records(door.address, files) as raw:
        raw.send(b"CONNECT\naccept-version:1.2\nhost:null\nheart-beat:0,15000\n\n\0")
        raw.next()
        headers = (("destination", "jms.topic.vdsm_irs_requests"), ("reply-to", "jms.topic.vdsm_irs_responses"))
        raw.send(stomp.encode("SEND", headers, PING))
        assert b"destination:jms.topic.vdsm_irs_responses\n" in raw.next().octets


def test_a_queue_below_a_request_queue_is_served_too(door: Door, files: Files) -> None:
    with Records(door.address, files) as raw:
        raw.send(b"SUBSCRIBE\ndestination:me\nid:1\n\n\0")
        headers = (("destination", "jms.topic.vdsm_requests.x"), ("reply-to", "me"))
        raw.send(stomp.encode("SEND", headers, PING))
        assert b'"result": true' in raw.next().octets


# The engine's reader


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
        last = time.monotonic()
        for _ in range(3):
            record = engine.records.next(within_s=2)
            assert record.octets == b"\n"
            assert record.at - last < 0.6
            last = record.at


def test_a_client_that_promised_beats_and_is_silent_is_dropped(door: Door, files: Files) -> None:
    with EngineReader(door.address, files, heart_beat="1000,0") as engine:
        assert was_reset(engine.records.sock, within_s=5)


def test_what_came_while_nobody_read_is_a_sign_of_life(client: Client) -> None:
    asked = client.start("Host.ping2", b"{}")
    assert select.select([client._sock], [], [], 5)[0]
    client._heard_mono -= 60  # as after a minute in which the client's program did something else
    assert client.wait(asked, timeout_s=5) == b"true"


# Events


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


# Coming and going


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
