# SPDX-License-Identifier: Apache-2.0
"""The engine's client library, its weaknesses included, at the door: nothing confuses it or waits for its loop."""

import asyncio
import json
import socket
from collections.abc import Iterator

import pytest

from tests.support.certificates import make_authority
from tests.support.door import Door, always, open_door
from tests.support.engineclient import HOST, NETWORK_ERROR, SPM, EngineClient, frame
from tests.support.eventually import eventually
from vdsm_mp.api.events import HostConnectivityChanged, VmStatusChanged
from vdsm_mp.wire.stomp import HEARTBEAT
from vdsm_mp.wire.tls import Files

VM = "0d5f1f2e-3a4b-4c5d-8e6f-7a8b9c0d1e06"


async def hangs(_params: bytes) -> bytes:
    await asyncio.sleep(3600)
    raise AssertionError


async def sized(params: bytes) -> bytes:
    """A string of so many octets, quotes included."""
    size = int(params.partition(b":")[2].strip(b" }"))
    return b'"%b"' % (b"x" * (size - 2))


def octets_of(size: int) -> int:
    """Of a frame with such a result, without its NUL."""
    body = b'{"jsonrpc": "2.0", "id": "01234567-89ab-cdef-0123-456789abcdef", "result": %b}' % (b"x" * size)
    head = (
        b"MESSAGE\ndestination:jms.topic.vdsm_responses\ncontent-type:application/json\n"
        b"subscription:01234567-89ab-cdef-0123-456789abcdef\ncontent-length:%d\n\n" % len(body)
    )
    return len(head) + len(body)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    return make_authority(tmp_path_factory.mktemp("pki") / "ca").issue("host", "127.0.0.1")


@pytest.fixture(scope="module")
def door(files: Files) -> Iterator[Door]:
    answers = {"Host.getVMList": always([{"vmId": VM}]), "VM.destroy": hangs, "Host.getStats": sized}
    with open_door(files, answers=answers) as door:
        yield door


@pytest.fixture
def engine(door: Door, files: Files) -> Iterator[EngineClient]:
    with EngineClient(door.address, files) as engine:
        # CONNECTED overtakes its subscriptions: what is told between them reaches nobody, as with any broker.
        assert engine.call("Host.ping2").result is True
        yield engine
        assert not engine.lost


def publish(door: Door, count: int) -> None:
    for number in range(count):
        door.call(door.broker.publish, VmStatusChanged(vm_id=VM, info={"status": "Up"}, notify_time=2**31 + number))


def test_calls_one_by_one_and_many_at_once(engine: EngineClient) -> None:
    assert engine.call("Host.ping2").result is True
    calls = [engine.start("Host.getVMList") for _ in range(50)]
    assert all(engine.wait(call).result == [{"vmId": VM}] for call in calls)
    assert engine.call("Host.noSuchVerb").code == -32601


def test_both_connections_of_an_engine_get_their_own_answers(door: Door, files: Files) -> None:
    with EngineClient(door.address, files) as host, EngineClient(door.address, files, queues=SPM) as spm:
        calls = [(one, one.start("Host.ping2", call_id="the same")) for one in (host, spm)]
        assert all(one.wait(call).result is True for one, call in calls)
        publish(door, 1)
        host.event()
        assert not spm.events and not spm.unknown and not host.unknown


def test_its_limit_for_silence_does_not_shrink(door: Door, files: Files) -> None:
    with EngineClient(door.address, files) as engine:
        for _ in range(14):
            assert engine.call("Host.ping2").result is True
            assert engine.limit_ms == 22_500
            engine.drop()
        assert engine.asked_ms == [15_000] + [11_250] * 13


def test_a_batch_is_answered_part_by_part(engine: EngineClient) -> None:
    calls = engine.batch(["Host.ping2", "Host.getVMList", "Host.noSuchVerb"])
    assert [engine.wait(call).code for call in calls] == [0, 0, -32601]


@pytest.mark.parametrize("flow_id", ["3f2a91c7", "a:b:c", "back\\slash", "trailing\\", "\\d\\c", "ümläut ✓", "x" * 900])
def test_whatever_a_person_wrote_as_a_flow_id_is_no_reason_to_hang_up(engine: EngineClient, flow_id: str) -> None:
    assert engine.call("Host.ping2", flow_id=flow_id).result is True


def test_an_answer_right_after_events_does_not_wait_for_the_loop(engine: EngineClient, door: Door) -> None:
    publish(door, 6)
    assert engine.call("Host.ping2").result is True
    assert len(engine.events) == 6
    assert not engine.slept


def test_an_engine_whose_loop_is_busy_with_other_hosts_does_not_sleep_on_what_came_meanwhile(
    door: Door, files: Files
) -> None:
    with EngineClient(door.address, files, lag_s=0.03) as engine:
        engine.call("Host.ping2")
        publish(door, 5)
        for _ in range(5):
            engine.event()
        assert not engine.slept


@pytest.mark.parametrize("tail", [1, 30, 200, 280, 400])
def test_the_short_last_record_of_a_large_answer_does_not_wait_for_the_loop(engine: EngineClient, tail: int) -> None:
    """It fits into the packet buffer beside the record before it, and then nothing more comes."""
    size = 2 * 16384 + tail - (octets_of(32_768) + 1 - 32_768)
    assert len(engine.call("Host.getStats", {"size": size}).result) == size - 2
    assert not engine.slept


@pytest.mark.parametrize("size", [2, 700, 1024, 5000, 16_300, 200_000, 4_000_000])
def test_answers_of_every_size_arrive(engine: EngineClient, size: int) -> None:
    assert len(engine.call("Host.getStats", {"size": size}).result) == size - 2


@pytest.mark.parametrize("beats", [0, 1, 3])
def test_answers_at_the_edge_of_its_header_buffer_arrive(engine: EngineClient, door: Door, beats: int) -> None:
    """beats: LFs after each, which lie in that buffer before the next one."""

    def beat() -> None:
        for session in door.server._stomp_sessions():
            session.stream.beat(HEARTBEAT)

    for size in (size for size in range(600, 1000) if abs(octets_of(size) - 1024) < 12):
        assert len(engine.call("Host.getStats", {"size": size}).result) == size - 2
        for _ in range(beats):
            door.call(beat)


def test_it_may_write_large_requests_while_large_answers_wait(files: Files) -> None:
    """It does not read while it writes: who waited with reading for that would wait forever, and all hosts with it."""
    text = "x" * 300_000
    listener = socket.create_server(("127.0.0.1", 0))
    for buffer in (socket.SO_RCVBUF, socket.SO_SNDBUF):
        # As of a connection that has never carried much.
        listener.setsockopt(socket.SOL_SOCKET, buffer, 1 << 17)

    async def echoes(params: bytes) -> bytes:
        return params

    with (
        open_door(files, answers={"Host.getStats": echoes}, listener=listener) as door,
        EngineClient(door.address, files) as engine,
    ):
        calls = [engine.start("Host.getStats", {"text": text}) for _ in range(40)]
        answers = [engine.wait(call).result for call in calls]
        assert not engine.lost
        assert answers == [{"text": text}] * len(calls)


def test_in_clear_text_an_event_before_connected_does_not_hold_it_back(files: Files) -> None:
    """Its subscriptions overtake CONNECT there."""
    with open_door(None) as door, EngineClient(door.address, None) as engine:
        assert engine.call("Host.ping2").result is True


def test_calls_of_a_lost_connection_fail_and_late_answers_go_nowhere(door: Door, files: Files) -> None:
    with EngineClient(door.address, files) as engine:
        hanging = engine.start("VM.destroy", {"vmID": VM}, call_id="again")
        eventually(lambda: door.call(door.server.vitals)["calls_in_flight"] == 1)
        engine.drop()
        assert engine.wait(hanging).code == NETWORK_ERROR
        # It comes back with the same id.
        assert engine.wait(engine.start("Host.ping2", call_id="again")).result is True
        assert not engine.unknown
    eventually(lambda: door.call(door.server.vitals)["calls_in_flight"] == 0)


def test_it_says_goodbye_and_nothing_is_left(door: Door, files: Files) -> None:
    before = door.server.connections
    with EngineClient(door.address, files) as engine:
        engine.call("Host.ping2")
        engine.leave()
    eventually(lambda: door.server.connections == before)


@pytest.mark.parametrize("rest", [b'"}\0', b'x"},"id":"x"}\0', b"x" * 16_384 + b"\0", b"x" * 100_000 + b'"}\0'])
def test_the_rest_of_a_request_that_a_connection_begins_with_costs_nothing(
    door: Door, files: Files, rest: bytes
) -> None:
    """What was half sent when a connection ended is sent on in the next one, before CONNECT."""
    with EngineClient(door.address, files) as engine:
        engine.call("Host.ping2")
        engine.drop()
        engine._outbox.append(rest)
        assert engine.call("Host.ping2").result is True
        assert not engine.lost


def test_a_request_before_connect_is_answered(door: Door, files: Files) -> None:
    with EngineClient(door.address, files) as engine:
        engine.call("Host.ping2")
        engine.drop()
        body = {"jsonrpc": "2.0", "method": "Host.getVMList", "params": {}, "id": "early"}
        headers = {"destination": HOST.requests, "reply-to": HOST.responses}
        engine._calls["early"] = None
        engine._outbox.append(frame("SEND", headers, json.dumps(body).encode()))
        engine.connect()
        assert engine.wait("early").result == [{"vmId": VM}]
        assert not engine.lost


def test_half_a_request_amid_others_costs_that_connection_only(door: Door, files: Files) -> None:
    with EngineClient(door.address, files) as engine:
        engine.call("Host.ping2")
        engine.drop()
        engine._outbox.extend((b'gin"},"id":"x"}\0', b"\n"))
        engine.connect()
        eventually(lambda: engine.lost)
        assert engine.call("Host.ping2").result is True


def test_events_reach_it_in_order_and_once(engine: EngineClient, door: Door) -> None:
    publish(door, 40)
    door.call(door.broker.publish, HostConnectivityChanged(notify_time=1))
    found = [engine.event() for _ in range(41)]
    assert [event["params"]["notify_time"] - 2**31 for event in found[:40]] == list(range(40))
    assert found[40]["method"] == "|net|host_conn|no_id"
    assert not engine.events


def test_the_queue_names_are_those_of_the_house(engine: EngineClient) -> None:
    assert HOST.events == "jms.queue.events"
    assert engine.call("Host.ping2").result is True
