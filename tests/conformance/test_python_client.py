# SPDX-License-Identifier: Apache-2.0
"""The Python client library of hosts at the door, over good roads and bad ones."""

import asyncio
import json
import ssl
import threading
import time
from collections.abc import Iterator

import pytest

from tests.support.certificates import make_authority
from tests.support.door import Door, always, open_door
from tests.support.door_answers import VM, echoes, hangs
from tests.support.eventually import eventually
from tests.support.vdsmclient import ServerError, VdsmClient, cut, encode
from vdsm_mp.api.events import VmStatusChanged
from vdsm_mp.wire.tls import Files


async def slow(_params: bytes) -> bytes:
    await asyncio.sleep(0.3)
    return b'"slow"'


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    return make_authority(tmp_path_factory.mktemp("pki") / "ca").issue("host", "127.0.0.1")


@pytest.fixture(scope="module")
def door(files: Files) -> Iterator[Door]:
    answers = {"Host.getVMList": always([{"vmId": VM}]), "Host.getStats": echoes, "VM.cont": slow, "VM.destroy": hangs}
    with open_door(files, answers=answers) as door:
        yield door


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_calls_are_answered_and_errors_told_by_their_code(door: Door, files: Files, version: ssl.TLSVersion) -> None:
    with VdsmClient(door.address, files, version=version) as client:
        assert client.call("Host.ping2") is True
        assert client.call("Host.getVMList", flow_id="a:b\\c\n") == [{"vmId": VM}]
        assert door.bus.asked[-1].flow_id == "a:b\\c?"
        with pytest.raises(ServerError) as caught:
            client.call("Host.noSuchVerb")
        assert caught.value.code == -32601


@pytest.mark.parametrize(("piece", "reads"), [(1, 4096), (7, 13), (0, 1), (3, 4096)])
def test_frames_in_the_smallest_pieces(door: Door, files: Files, piece: int, reads: int) -> None:
    with VdsmClient(door.address, files, piece=piece, reads=reads) as client:
        assert client.call("Host.ping2") is True
        assert client.call("Host.getStats", {"text": "ü✓\0\n:" * 20}) == {"text": "ü✓\0\n:" * 20}


def test_frames_of_many_megabytes_both_ways(door: Door, files: Files) -> None:
    with VdsmClient(door.address, files, reads=65536) as client:
        text = "x" * (12 << 20)
        assert client.call("Host.getStats", {"text": text}) == {"text": text}
        assert client.call("Host.ping2") is True


def test_answers_come_in_the_order_in_which_they_are_ready(door: Door, files: Files) -> None:
    with VdsmClient(door.address, files) as client:
        first, second = client.start("VM.cont"), client.start("Host.getVMList")
        assert client.wait(second) == [{"vmId": VM}]
        assert client._answers[first] is None
        assert client.wait(first) == "slow"


def test_a_call_that_went_out_twice_is_answered_twice(door: Door, files: Files) -> None:
    """The client drops the second answer."""
    with VdsmClient(door.address, files) as client:
        before = len(door.bus.asked)
        call = client.start("Host.getVMList", twice=True)
        assert client.wait(call) == [{"vmId": VM}]
        client.call("Host.ping2")
        assert [answer["id"] for answer in client.unknown] == [call]
        assert len(door.bus.asked) - before == 2


def test_its_queue_is_its_own_whatever_the_ids(door: Door, files: Files) -> None:
    with VdsmClient(door.address, files) as one, VdsmClient(door.address, files) as other:
        calls = [(client, client.start(verb, call_id="7")) for client, verb in
                 ((one, "VM.cont"), (other, "Host.getVMList"))]  # fmt: skip
        assert [client.wait(call) for client, call in calls] == ["slow", [{"vmId": VM}]]
        assert not one.unknown and not other.unknown


def test_it_leaves_in_the_middle_and_comes_back_with_the_same_queue(door: Door, files: Files) -> None:
    with VdsmClient(door.address, files) as client:
        eventually(lambda: door.call(door.server.vitals)["calls_in_flight"] == 0)
        late = client.start("VM.cont", call_id="late")
        eventually(lambda: door.call(door.server.vitals)["calls_in_flight"] == 1)
        client.reconnect()
        assert client.call("Host.ping2") is True
        # Nobody tells the answer of the old connection to the new one.
        assert client.call("VM.cont") == "slow"
        assert client._answers[late] is None
        assert late not in [answer["id"] for answer in client.unknown]


@pytest.mark.parametrize("silence_ms", [1600, 5000])
def test_who_bears_little_silence_hears_enough_beats(door: Door, files: Files, silence_ms: int) -> None:
    """Older ones bear 5 s. They take no notice of an offer of less."""
    with VdsmClient(door.address, files, silence_ms=silence_ms) as client:
        with pytest.raises(TimeoutError):
            client.wait(client.start("VM.destroy", {"vmID": VM}), within_s=silence_ms / 1000 + 1.5)
        assert client.connections == 1


def test_after_a_silence_it_comes_back_and_its_call_is_made_once(files: Files) -> None:
    answers = {"VM.cont": slow}
    with open_door(files, answers=answers) as door, VdsmClient(door.address, files, silence_ms=1600) as client:
        lost = client.start("VM.cont")
        eventually(lambda: len(door.bus.asked) == 1)
        frozen = threading.Thread(target=door.call, args=(time.sleep, 2.5))
        frozen.start()
        with pytest.raises(TimeoutError):
            client.wait(lost, within_s=3)
        frozen.join()
        assert client.connections == 2
        assert client.call("VM.cont") == "slow"
        assert len(door.bus.asked) == 2 and not client.unknown


def test_events_come_with_the_id_of_its_own_subscription(door: Door, files: Files) -> None:
    with VdsmClient(door.address, files, events="jms.queue.events") as client:
        client.call("Host.ping2")
        for number in range(5):
            door.call(door.broker.publish, VmStatusChanged(vm_id=VM, info={"status": "Up"}, notify_time=number))
        eventually(lambda: client.call("Host.ping2") and len(client.events) == 5)
        assert [event["params"]["notify_time"] for event in client.events] == list(range(5))


def test_a_queue_name_that_needs_escapes_is_written_so_that_it_reads_it(door: Door, files: Files) -> None:
    with VdsmClient(door.address, files) as client:
        assert client._sock is not None
        client._sock.sendall(encode("SUBSCRIBE", {"destination": "a:b\\c", "id": "1:2", "ack": "auto"}))
        body = b'[{"jsonrpc":"2.0","method":"Host.ping2","id":1}]'
        client._sock.sendall(encode("SEND", {"destination": "jms.topic.vdsm_requests", "reply-to": "a:b\\c"}, body))
        buffer = bytearray()
        while (frame := cut(buffer)) is None:
            buffer += client._sock.recv(4096)
        _, headers, answer = frame
        assert (headers["destination"], headers["subscription"]) == ("a:b\\c", "1:2")
        assert json.loads(answer)["result"] is True


def test_two_subscriptions_to_one_queue_give_one_answer(door: Door, files: Files) -> None:
    with VdsmClient(door.address, files) as client:
        assert client._sock is not None
        again = {"destination": client._destinations[0], "id": "again", "ack": "auto"}
        client._sock.sendall(encode("SUBSCRIBE", again))
        assert client.call("Host.getVMList") == [{"vmId": VM}]
        assert client.call("Host.ping2") is True
        assert not client.unknown
