# SPDX-License-Identifier: Apache-2.0
"""Image.download and Image.upload against a real HTTP server that may misbehave."""

import os
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from tests.support.eventually import eventually
from tests.support.needs import needs_program
from tests.support.storage_room import COW, MIB, RAW, StorageRoom, new_id, qemu_info, write_pattern
from vdsm_mp.common.errors import Error
from vdsm_mp.storage import image_sharing

pytestmark = needs_program("qemu-img", "qemu-io")


class Server(ThreadingHTTPServer):
    """files: what is served, and what was put. Paths that begin with /slow never end, /cut ends early."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {}
        self.headers: list[dict[str, str]] = []
        self.go_on = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def log_message(self, *args: Any) -> None:
        """Quiet."""

    def do_GET(self) -> None:
        self.server.headers.append(dict(self.headers))
        if self.path == "/moved":
            self.send_response(302)
            self.send_header("Location", "/image")
            self.end_headers()
            return
        data = self.server.files.get(self.path)
        if data is None:
            self.send_error(404)
            return
        self.send_response(200)
        if "unknown" not in self.path:
            self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        half = len(data) // 2 if self.path in ("/slow", "/cut") else len(data)
        self.wfile.write(data[:half])
        self.wfile.flush()
        if self.path == "/slow":
            self.server.go_on.wait(30)

    def do_PUT(self) -> None:
        self.server.headers.append(dict(self.headers))
        data = self.rfile.read(int(self.headers["Content-Length"]))
        if self.path == "/full":
            self.send_error(507)
            return
        self.server.files[self.path] = data
        self.send_response(201)
        self.send_header("Content-Length", "0")
        self.end_headers()


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    thread = threading.Thread(target=made.serve_forever, args=(0.02,))
    thread.start()
    yield made
    made.go_on.set()
    made.shutdown()
    thread.join()
    made.server_close()


def begin(
    house: StorageRoom, verb: str, image: tuple[str, str | None], url: str, headers: dict[str, str] | None = None
) -> str:
    ids = {"storagepoolID": house.pool_id, "storagedomainID": house.sd_id, "imageID": image[0], "volumeID": image[1]}
    args = {"method": "http", "url": url, "headers": headers or {}}
    task_id: str = house.call(f"Image.{verb}", methodArgs=args, **ids)
    return task_id


def failed(house: StorageRoom, task_id: str) -> tuple[int, str]:
    status = house.ended(task_id)
    house.call("Task.clear", taskID=task_id)
    assert status["taskResult"] != "success"
    return status["code"], status["message"]


def qcow2_of(house: StorageRoom) -> bytes:
    image_id, volume_id = house.create()
    path = house.image(image_id) / volume_id
    write_pattern(path, "qcow2", 0x5A, MIB, 2 * MIB)
    return path.read_bytes()


def test_an_image_is_fetched_as_it_is(house: StorageRoom, server: Server) -> None:
    data = qcow2_of(house)
    server.files = {"/image?x=1": data, "/unknown": data}
    for path in server.files:
        image = house.create(size=str(8 * MIB))
        task_id = begin(house, "download", image, server.url + path, {"X-Auth-Token": "abc", "Host": "else"})
        assert house.call("Host.getAllTasksInfo")[task_id]["verb"] == "downloadImage"
        house.finished(task_id)
        assert (house.image(image[0]) / image[1]).read_bytes() == data
        info = house.info(*image)
        # The guest's size comes with the image.
        assert (info["legality"], info["capacity"]) == ("LEGAL", str(16 * MIB))
    assert server.headers[0]["X-Auth-Token"] == "abc"
    assert server.headers[0]["Host"].startswith("127.0.0.1")


def test_a_raw_image_keeps_its_size(house: StorageRoom, server: Server) -> None:
    server.files["/raw"] = os.urandom(MIB + 512)
    image = house.create(volFormat=RAW)
    house.finished(begin(house, "download", (image[0], None), server.url + "/raw"))
    content = (house.image(image[0]) / image[1]).read_bytes()
    assert content[: MIB + 513] == server.files["/raw"] + b"\0"
    assert len(content) == 16 * MIB


def test_an_image_is_put_as_it_is(house: StorageRoom, server: Server) -> None:
    for volume_format, name in ((COW, "qcow2"), (RAW, "raw")):
        image = house.create(volFormat=volume_format)
        path = house.image(image[0]) / image[1]
        write_pattern(path, name, 0x77, 0, MIB)
        task_id = begin(house, "upload", image, server.url + "/put", {"Content-Type": "application/octet-stream"})
        assert house.call("Host.getAllTasksInfo")[task_id]["verb"] == "uploadImage"
        house.finished(task_id)
        assert server.files["/put"] == path.read_bytes()
        assert server.headers[-1]["Content-Type"] == "application/octet-stream"


@pytest.mark.parametrize(
    ("path", "said"),
    [("/absent", "404"), ("/moved", "302"), ("/cut", "of"), ("/long", "room for"), ("/unknown-long", "more than")],
)
def test_what_a_server_does_wrong_fails_the_task(house: StorageRoom, server: Server, path: str, said: str) -> None:
    server.files = {"/cut": b"x" * MIB, "/long": b"x" * (20 * MIB), "/unknown-long": b"x" * (20 * MIB)}
    image = house.create(volFormat=RAW)
    code, message = failed(house, begin(house, "download", image, server.url + path))
    assert code == 100
    assert said in message
    untouched = path in ("/absent", "/moved", "/long")
    assert house.info(*image)["legality"] == ("LEGAL" if untouched else "ILLEGAL")
    # It can be asked for again.
    server.files["/good"] = b"y" * 1000
    house.finished(begin(house, "download", image, server.url + "/good"))
    assert house.info(*image)["legality"] == "LEGAL"


def test_a_server_that_refuses_or_is_not_there_fails_an_upload(house: StorageRoom, server: Server) -> None:
    image = house.create(volFormat=RAW, size=str(MIB))
    assert "507" in failed(house, begin(house, "upload", image, server.url + "/full"))[1]
    code, message = failed(house, begin(house, "upload", image, "http://127.0.0.1:9/none?secret=1"))
    assert (code, "refused" in message, "secret" in message) == (100, True, False)
    assert house.info(*image)["legality"] == "LEGAL"


def test_an_image_that_leads_elsewhere_stays_illegal(house: StorageRoom, server: Server) -> None:
    image_id, base = house.create()
    _, leaf = house.create(image_id, srcImgUUID=image_id, srcVolUUID=base)
    server.files["/evil"] = (house.image(image_id) / leaf).read_bytes()
    image = house.create()
    assert failed(house, begin(house, "download", image, server.url + "/evil"))[0] == 262
    assert house.info(*image)["legality"] == "ILLEGAL"


def test_a_task_that_is_stopped_does_not_wait_for_the_server(house: StorageRoom, server: Server) -> None:
    server.files["/slow"] = b"x" * MIB
    image = house.create(volFormat=RAW)
    task_id = begin(house, "download", image, server.url + "/slow")
    eventually(lambda: house.info(*image)["legality"] == "ILLEGAL")
    house.call("Task.stop", taskID=task_id)
    assert failed(house, task_id)[0] == 411
    assert not server.go_on.is_set()


def test_a_server_that_falls_silent_is_given_up(
    house: StorageRoom, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(image_sharing, "_SILENCE_S", 0.2)
    server.files["/slow"] = b"x" * MIB
    image = house.create(volFormat=RAW)
    assert "timed out" in failed(house, begin(house, "download", image, server.url + "/slow"))[1]
    monkeypatch.setattr(image_sharing, "_WHOLE_S", 0.0)
    assert "not done within" in failed(house, begin(house, "upload", image, server.url + "/put"))[1]


@pytest.mark.parametrize(
    "changes",
    [
        {"method": "ftp"},
        {"url": "file:///etc/passwd"},
        {"url": "http:///x"},
        {"url": "http://user:word@host/x"},
        {"url": "http://host:99999/x"},
        {"url": "http://host/a b"},
        {"headers": {"A": "1\r\nB: 2"}},
        {"headers": {"A B": "1"}},
        {"headers": {f"H{n}": "1" for n in range(65)}},
    ],
)
def test_what_cannot_be_asked_of_a_server_is_refused_at_once(house: StorageRoom, changes: dict[str, Any]) -> None:
    image_id, volume_id = house.create()
    args = {"method": "http", "url": "http://127.0.0.1/x", "headers": {}} | changes
    for verb in ("download", "upload"):
        with pytest.raises(Error) as e:
            house.call(f"Image.{verb}", methodArgs=args, **house.names(image_id, volume_id))
        assert e.value.code == 1000
    assert house.call("Host.getAllTasksStatuses") == {}


def test_layers_and_templates_are_not_written_from_outside(house: StorageRoom) -> None:
    image_id, base = house.create()
    _, leaf = house.create(image_id, srcImgUUID=image_id, srcVolUUID=base)
    template = house.make_template()
    for verb, image, code in (
        ("download", (image_id, leaf), 261),
        ("download", (image_id, base), 261),
        ("upload", (image_id, None), 261),
        ("download", template, 219),
        ("download", (new_id(), None), 268),
    ):
        with pytest.raises(Error) as e:
            begin(house, verb, image, "http://127.0.0.1/x")
        assert e.value.code == code
    assert qemu_info(house.image(image_id) / base)["virtual-size"] == 16 * MIB
