# SPDX-License-Identifier: Apache-2.0
"""The door over real TLS, as its two real client families use it."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.door import Door
from tests.support.door_answers import VM
from tests.support.eventually import eventually
from tests.support.wirepeers import EngineReader, Records
from vdsm_mp.api.catalogue import VERBS
from vdsm_mp.api.errors import RemoteError
from vdsm_mp.wire import stomp
from vdsm_mp.wire.client import Client
from vdsm_mp.wire.tls import Files


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
    # The answer to what the fixture asks at the end comes alone.
    unheard = PING.replace(b'"id":1', b'"id":2')
    assert unheard != PING
    raw.send(stomp.encode("SEND", (*headers, ("reply-to", "elsewhere")), unheard))
    raw.send(stomp.encode("SEND", headers, unheard))


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
