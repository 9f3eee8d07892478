# SPDX-License-Identifier: Apache-2.0
"""OVF stores by HTTP over TLS, with the real storage room behind the door."""

import asyncio
import http.client
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.door import Answer, Door, open_door
from tests.support.eventually import eventually
from tests.support.storage_room import MIB, PREALLOCATED, RAW, StorageRoom, new_id
from tests.support.wirepeers import Records, was_closed
from vdsm_mp.api.catalogue import VERBS
from vdsm_mp.api.ports import CallContext
from vdsm_mp.common.clock import mono_s
from vdsm_mp.ipc import codec
from vdsm_mp.wire.tls import Files, client_context

TRANSFER = ("internal.open_transfer", "internal.write_piece", "internal.read_piece", "internal.close_transfer")

SIZE = 4 * MIB


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StorageRoom]:
    room = StorageRoom(tmp_path_factory.mktemp("room"))
    try:
        yield room.make()
    finally:
        room.stop()


def through(room: StorageRoom, verb: str) -> Answer:
    """A verb of the room, as the bus would carry it."""

    spec, handler = VERBS[verb], room.room.dispatch.find(verb)

    def serve(params: bytes) -> bytes:
        message = codec.decode_params(spec, params)
        context = CallContext(verb, "test", "test", mono_s() + spec.deadline_s)
        return codec.encode_reply(spec, handler.call(message, context))

    async def answer(params: bytes) -> bytes:
        return await asyncio.to_thread(serve, params)

    return answer


@pytest.fixture
def door(files: Files, room: StorageRoom) -> Iterator[Door]:
    with open_door(files, answers={verb: through(room, verb) for verb in TRANSFER}) as door:
        yield door


class Store:
    """One OVF store's volume and the way to it."""

    def __init__(self, room: StorageRoom, door: Door, files: Files) -> None:
        self.room, self.door, self.files = room, door, files
        self.image_id, self.volume_id = room.create(volFormat=RAW, preallocate=PREALLOCATED, size=str(SIZE))

    @property
    def file(self) -> Path:
        return self.room.image(self.image_id) / self.volume_id

    def headers(self, **more: str) -> dict[str, str]:
        named = {
            "Storage-Pool-Id": self.room.pool_id,
            "Storage-Domain-Id": self.room.sd_id,
            "Image-Id": self.image_id,
            "Volume-Id": self.volume_id,
            "connection": "close",
        }
        return named | {name.replace("_", "-"): value for name, value in more.items()}

    def ask(self, method: str, headers: dict[str, str], body: bytes | None = None) -> tuple[Any, bytes]:
        context = client_context(self.files)
        connection = http.client.HTTPSConnection("127.0.0.1", self.door.port, context=context, timeout=20)
        try:
            connection.request(method, "/", body, headers)
            answer = connection.getresponse()
            return answer, answer.read()
        finally:
            connection.close()

    def put(self, body: bytes, **more: str) -> tuple[Any, bytes]:
        return self.ask("PUT", self.headers(Content_Type="application/octet-stream", **more), body)

    def get(self, length: int) -> tuple[Any, bytes]:
        return self.ask("GET", self.headers(Range=f"bytes=0-{length - 1}"))


@pytest.fixture
def store(room: StorageRoom, door: Door, files: Files) -> Iterator[Store]:
    yield Store(room, door, files)
    for task_id in room.call("Host.getAllTasksInfo"):
        room.ended(task_id)
        room.call("Task.clear", taskID=task_id)


def problem(answer: tuple[Any, bytes]) -> tuple[int, int, str]:
    """(HTTP status, code, message) of a failure as the engine reads it."""
    response, body = answer
    assert response.getheader("Content-Type") == "application/json"
    status = json.loads(body)["status"]
    return response.status, status["code"], status["message"]


def test_what_is_put_is_in_the_volume_and_comes_back(store: Store, room: StorageRoom) -> None:
    body = bytes(range(256)) * 8000 + b"the end"
    response, content = store.put(body)
    assert (response.status, content) == (200, b"")
    task_id = response.getheader("Task-Id")
    assert room.ended(task_id)["taskResult"] == "success"
    assert room.call("Host.getAllTasksInfo")[task_id]["verb"] == "downloadImageFromStream"
    room.call("Task.clear", taskID=task_id)
    assert store.file.stat().st_size == SIZE
    assert store.file.read_bytes()[: len(body)] == body

    response, content = store.get(len(body))
    assert (response.status, content) == (206, body)
    assert response.getheader("Content-Range") == f"bytes 0-{len(body) - 1}"
    assert response.getheader("Content-Type") == "application/octet-stream"
    task_id = response.getheader("Task-Id")
    assert room.ended(task_id)["taskResult"] == "success"
    assert room.call("Host.getAllTasksInfo")[task_id]["verb"] == "uploadImageToStream"


def test_an_empty_put_and_an_absent_volume_id_are_fine(store: Store, room: StorageRoom) -> None:
    headers = store.headers(Content_Length="0")
    del headers["Volume-Id"]
    response, _ = store.ask("PUT", headers)
    assert response.status == 200
    assert room.ended(response.getheader("Task-Id"))["taskResult"] == "success"


def test_a_client_may_wait_for_permission_to_send(store: Store) -> None:
    lines = [f"{name}: {value}" for name, value in store.headers(Content_Length="5", Expect="100-continue").items()]
    with Records(store.door.address, store.files) as raw:
        raw.send(("PUT / HTTP/1.1\r\n" + "\r\n".join(lines) + "\r\n\r\n").encode())
        assert raw.next().octets == b"HTTP/1.1 100 Continue\r\n\r\n"
        raw.send(b"hello")
        assert raw.next().octets.startswith(b"HTTP/1.1 200 OK\r\n")


def test_what_storage_refuses_is_told_in_the_engines_form(store: Store, room: StorageRoom) -> None:
    assert problem(store.put(b"x" * (SIZE + 1)))[:2] == (500, 1000)
    assert problem(store.get(SIZE + 1))[:2] == (500, 1000)
    assert problem(store.put(b"x", Image_Id=new_id()))[:2] == (500, 268)
    assert problem(store.put(b"x", Storage_Pool_Id=new_id()))[:2] == (500, 309)
    for bad in ("../../etc/passwd", f"{store.image_id}/..", "", "x" * 5000):
        assert problem(store.put(b"x", Image_Id=bad))[:2] == (400, -32602)
    assert problem(store.ask("GET", store.headers(Range="bytes=5-9")))[:2] == (400, -32600)
    assert problem(store.ask("PUT", store.headers(Transfer_Encoding="chunked"), b""))[:2] == (411, -32600)
    assert room.call("Host.getAllTasksInfo") == {}


def test_a_qcow2_volume_is_not_overwritten_by_what_comes(store: Store, room: StorageRoom) -> None:
    image_id, volume_id = room.create()
    before = (room.image(image_id) / volume_id).read_bytes()
    assert problem(store.put(b"x" * 512, Image_Id=image_id, Volume_Id=volume_id))[:2] == (500, 202)
    assert (room.image(image_id) / volume_id).read_bytes() == before


def test_a_client_that_leaves_in_the_middle_leaves_a_failed_task(store: Store, room: StorageRoom) -> None:
    lines = [f"{name}: {value}" for name, value in store.headers(Content_Length=str(SIZE)).items()]
    with Records(store.door.address, store.files) as raw:
        raw.send(("PUT / HTTP/1.1\r\n" + "\r\n".join(lines) + "\r\n\r\n").encode() + b"x" * 1000)
        (task_id,) = eventually(lambda: room.call("Host.getAllTasksInfo"))
    status = room.ended(task_id)
    assert status["taskResult"] != "success" and status["code"] == 100
    # The claims are free again.
    assert store.put(b"hello")[0].status == 200


def test_a_door_that_dies_in_the_middle_leaves_no_image_claimed(store: Store, room: StorageRoom) -> None:
    lines = [f"{name}: {value}" for name, value in store.headers(Content_Length=str(SIZE)).items()]
    tell = room.room.room.peer_changed
    assert tell is not None
    with Records(store.door.address, store.files) as raw:
        raw.send(("PUT / HTTP/1.1\r\n" + "\r\n".join(lines) + "\r\n\r\n").encode() + b"x" * 1000)
        (task_id,) = eventually(lambda: room.call("Host.getAllTasksInfo"))
        # The connection stays open here, so that nothing but the master's note can end it.
        tell("network", False)
        tell("clientif", False)
        status = room.ended(task_id)
    assert status["taskResult"] != "success" and "nothing happened for 3 s" in status["message"]
    assert store.put(b"hello")[0].status == 200


def test_a_house_that_starts_says_so(store: Store) -> None:
    store.door.call(store.door.gate._missing.add, "virt")
    assert problem(store.put(b"x"))[:2] == (500, 99)


def test_garbage_after_the_method_is_a_bad_request(store: Store) -> None:
    with Records(store.door.address, store.files) as raw:
        raw.send(b"GET /\xff\xff HTTP/9\r\n\r\n")
        assert raw.next().octets.startswith(b"HTTP/1.1 400 ")
        assert was_closed(raw.sock)
    with Records(store.door.address, store.files) as raw:
        raw.send(b"GET / " + b"x" * 70_000)
        assert raw.next().octets.startswith(b"HTTP/1.1 400 ")
