# SPDX-License-Identifier: Apache-2.0
"""The two client families at a whole house with real VMs and storage, while the door dies under their hands."""

import http.client
import os
import shutil
import signal
import socket
import ssl
import time
import uuid
from collections.abc import Iterator
from typing import Any

import pytest

from demonstration import sequences
from tests.support import decode
from tests.support.bootsector import write_boot_disk
from tests.support.engineclient import NETWORK_ERROR, SPM, Answer, EngineClient
from tests.support.eventually import eventually
from tests.support.house import RunningHouse
from tests.support.libvirtd import PrivateLibvirtd
from tests.support.needs import needs_program, needs_root
from tests.support.vdsmclient import Deaf, VdsmClient
from tests.support.virt_room import vm_xml
from vdsm_mp.common import clock
from vdsm_mp.wire.tls import client_context

pytestmark = [
    pytest.mark.system,
    pytest.mark.timeout(240),
    needs_root(),
    needs_program("libvirtd", "qemu-system-x86_64", "qemu-img", "sudo", "unshare", "nsenter"),
]
MIB = 1 << 20
#: A guest without an agent is said to power up for a minute.
RUNS = ("Powering up", "Up")


@pytest.fixture(scope="module")
def libvirtd() -> Iterator[PrivateLibvirtd]:
    with PrivateLibvirtd.start() as running:
        yield running


@pytest.fixture(scope="module")
def house(libvirtd: PrivateLibvirtd) -> Iterator[RunningHouse]:
    options = {"addresses": {"management_ip": "::"}}
    table = "tests.support.killing_table"
    with RunningHouse.start(options, tls=True, table=table, libvirt_uri=libvirtd.uri) as house:
        (house.root / "repo").chmod(0o755)
        yield house


def address(house: RunningHouse) -> tuple[str, int]:
    return "127.0.0.1", house.port


@pytest.fixture
def engine(house: RunningHouse) -> Iterator[EngineClient]:
    eventually(house.ready)
    with EngineClient(address(house), house.files) as engine:
        yield engine
        assert not engine.unknown


@pytest.fixture
def vm_id(house: RunningHouse, libvirtd: PrivateLibvirtd, engine: EngineClient) -> Iterator[str]:
    """A guest that runs."""
    vm_id = str(uuid.uuid4())
    folder = libvirtd.root / f"g-{vm_id[:8]}"
    folder.mkdir()
    disk = write_boot_disk(house.root / "repo" / f"{vm_id}.img")
    shutil.chown(disk, "vdsm", "kvm")
    disk.chmod(0o660)
    source = f'<disk type="file" device="disk"><source file="{disk}"/><target dev="hda" bus="ide"/></disk>'
    xml = vm_xml(vm_id, serial=folder / "serial.log", devices=source)
    decode.check_vm_created(engine.call("VM.create", {"vmID": vm_id, "vmParams": {"vmId": vm_id, "xml": xml}}).result)
    eventually(lambda: status_of(engine, vm_id) in RUNS, within_s=30)
    yield vm_id
    engine.call("VM.destroy", {"vmID": vm_id})


def stats_of(engine: EngineClient, vm_id: str) -> dict[str, Any]:
    (found,) = [entry for entry in engine.call("Host.getAllVmStats").result if entry["vmId"] == vm_id]
    return dict(found)


def status_of(engine: EngineClient, vm_id: str) -> str:
    return str(stats_of(engine, vm_id)["status"])


def kill_door(house: RunningHouse) -> int:
    pid = house.pid_of("clientif")
    os.kill(pid, signal.SIGKILL)
    return pid


def test_events_and_polls_have_one_clock_that_outlives_every_worker(
    house: RunningHouse, engine: EngineClient, vm_id: str
) -> None:
    stamps = [int(stats_of(engine, vm_id)["statusTime"])]
    for verb in ("VM.pause", "VM.cont"):
        assert engine.call(verb, {"vmID": vm_id}).result == {"vmList": {}}
        stamps.append(last_event(engine, vm_id)["notify_time"])
        stamps.append(int(stats_of(engine, vm_id)["statusTime"]))
    house.kill_worker("virt")
    eventually(lambda: engine.call("Host.getAllVmStats").code == 0)
    stamps.append(int(stats_of(engine, vm_id)["statusTime"]))
    assert stamps == sorted(stamps)
    assert all(type(stamp) is int for stamp in stamps)
    assert 0 <= clock.notify_time() - stamps[-1] < 60_000


def last_event(engine: EngineClient, vm_id: str) -> dict[str, Any]:
    event = engine.event()
    while engine.events:
        event = engine.event()
    assert event["method"] == f"|virt|VM_status|{vm_id}"
    params: dict[str, Any] = event["params"]
    decode.check_vm_event(params)
    return params


def test_no_event_of_before_is_told_by_a_door_that_has_just_begun(
    house: RunningHouse, engine: EngineClient, vm_id: str
) -> None:
    for _ in range(2):
        engine.call("VM.pause", {"vmID": vm_id})
        engine.call("VM.cont", {"vmID": vm_id})
        time.sleep(0.5)
        engine.events.clear()
        lost = len(engine.lost)
        pid = kill_door(house)
        eventually(lambda lost=lost: len(engine.lost) > lost)
        assert engine.call("Host.ping2") == Answer(0, "Done", True)
        house.wait_other_pid("clientif", pid)
        time.sleep(1)
        assert not engine.events
        assert status_of(engine, vm_id) in RUNS


def test_an_engine_never_hears_99_because_of_the_door_alone(house: RunningHouse, engine: EngineClient) -> None:
    for verb in ("Host.getStats", "Host.getCapabilities", "Host.getAllVmStats"):
        lost = len(engine.lost)
        pid = kill_door(house)
        eventually(lambda lost=lost: len(engine.lost) > lost)
        assert engine.call(verb).code == 0
        house.wait_other_pid("clientif", pid)


def test_calls_in_flight_at_the_death_of_the_door_fail_at_once_and_ids_may_be_used_again(
    house: RunningHouse, engine: EngineClient, vm_id: str
) -> None:
    with EngineClient(address(house), house.files, queues=SPM) as other:
        other.call("Host.ping2")
        pid = house.pid_of("clientif")
        calls = [
            (one, one.start("Host.getCapabilities", call_id=f"c-{n}")) for n in range(20) for one in (engine, other)
        ]
        # What is not written yet would go out on the next connection, and be answered there.
        for one in (engine, other):
            one.written()
        began = time.monotonic()
        os.kill(pid, signal.SIGKILL)
        codes = [one.wait(call, within_s=5).code for one, call in calls]
        assert time.monotonic() - began < 3
        assert set(codes) <= {0, NETWORK_ERROR}
        for one in (engine, other):
            assert one.wait(one.start("Host.getAllVmStats", call_id="c-0")).result[0]["vmId"] == vm_id
            assert not one.unknown
        house.wait_other_pid("clientif", pid)


def test_both_families_by_both_families_of_addresses(house: RunningHouse) -> None:
    eventually(house.ready)
    for host in ("127.0.0.1", "::1"):
        with EngineClient((host, house.port), house.files) as engine:
            assert engine.call("Host.ping2").result is True
        with VdsmClient((host, house.port), house.files) as client:
            decode.check_caps(client.call("Host.getCapabilities"))


# The door dies in the middle of something


def test_a_large_answer_that_the_door_did_not_finish_is_no_answer(house: RunningHouse) -> None:
    eventually(house.ready)
    with VdsmClient(address(house), house.files) as client:
        calls = [client.start("Host.getCapabilities") for _ in range(200)]
        pid = kill_door(house)
        answered = 0
        with pytest.raises(Deaf):
            for call in calls:
                decode.check_caps(client.wait(call))
                answered += 1
        house.wait_other_pid("clientif", pid)
    with VdsmClient(address(house), house.files) as client:
        decode.check_caps(client.call("Host.getCapabilities"))


def test_a_handshake_that_the_door_did_not_finish_may_be_begun_again_at_once(house: RunningHouse) -> None:
    eventually(house.ready)
    assert house.files is not None
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = client_context(house.files).wrap_bio(incoming, outgoing)
    with pytest.raises(ssl.SSLWantReadError):
        tls.do_handshake()
    with socket.create_connection(address(house)) as sock:
        sock.sendall(outgoing.read())
        assert sock.recv(4096)
        pid = kill_door(house)
        with pytest.raises(ConnectionResetError):
            while sock.recv(4096):
                pass
    began = time.monotonic()
    with EngineClient(address(house), house.files) as engine:
        assert engine.call("Host.ping2").result is True
    assert time.monotonic() - began < 5
    house.wait_other_pid("clientif", pid)


class Store:
    """An OVF store on a new domain, and the engine's way to it."""

    def __init__(self, house: RunningHouse, engine: EngineClient) -> None:
        self._house = house
        self._engine = engine
        path = house.root / "data"
        path.mkdir()
        shutil.chown(path, "vdsm", "kvm")
        path.chmod(0o755)
        self._storage = sequences.Storage(str(path))
        sequences.from_nothing(self.ask, self._storage, "store")
        disk = sequences.Disk(self._storage, size_bytes=4 * MIB, form=sequences.RAW)
        sequences.create_disk(self.ask, disk, "store")
        self._headers = {
            "Storage-Pool-Id": self._storage.pool_id, "Storage-Domain-Id": self._storage.sd_id,
            "Image-Id": disk.image_id, "Volume-Id": disk.volume_id, "connection": "close",
        }  # fmt: skip
        self._connections: list[http.client.HTTPSConnection] = []

    def close(self) -> None:
        for connection in self._connections:
            connection.close()

    def ask(self, verb: str, /, **params: Any) -> Any:
        answer = self._engine.call(verb, params, within_s=60)
        if answer.code:
            raise sequences.Refused(verb, answer.code, answer.message)
        return answer.result

    def begin(self, method: str, **headers: str) -> http.client.HTTPSConnection:
        assert self._house.files is not None
        context = client_context(self._house.files)
        connection = http.client.HTTPSConnection(*address(self._house), context=context, timeout=60)
        self._connections.append(connection)
        connection.putrequest(method, "/")
        for name, value in {**self._headers, **headers}.items():
            connection.putheader(name.replace("_", "-"), value)
        connection.endheaders()
        return connection

    def put(self, body: bytes) -> http.client.HTTPResponse:
        connection = self.begin("PUT", Content_Length=str(len(body)), Content_Type="application/octet-stream")
        connection.send(body)
        return connection.getresponse()

    def tasks(self) -> dict[str, Any]:
        return dict(self.ask("Host.getAllTasksStatuses"))


@pytest.fixture
def store(house: RunningHouse, engine: EngineClient) -> Iterator[Store]:
    made = Store(house, engine)
    yield made
    made.close()


def test_a_put_that_the_door_did_not_finish_is_a_failed_task_and_may_be_made_again(
    house: RunningHouse, store: Store
) -> None:
    body = os.urandom(2 * MIB)
    half = store.begin("PUT", Content_Length=str(len(body)))
    half.send(body[:MIB])
    eventually(lambda: any(task["taskState"] == "running" for task in store.tasks().values()))
    pid = kill_door(house)
    with pytest.raises(OSError):
        half.send(body[MIB:])
        half.getresponse()
    house.wait_other_pid("clientif", pid)
    eventually(lambda: all(task["taskState"] == "finished" for task in store.tasks().values()), within_s=15)
    (failed,) = [task for task in store.tasks().values() if task["code"]]
    assert failed["taskResult"] != "success"
    answer = store.put(body)
    assert (answer.status, answer.read()) == (200, b"")
    task_id = answer.getheader("Task-Id")
    eventually(lambda: store.tasks()[task_id]["taskState"] == "finished")
    assert store.tasks()[task_id]["code"] == 0
    back = store.begin("GET", Range=f"bytes=0-{len(body) - 1}").getresponse()
    assert (back.status, back.read()) == (206, body)


def test_an_engine_that_asks_on_while_the_door_is_restarted_hears_no_99_and_loses_next_to_nothing(
    house: RunningHouse,
) -> None:
    eventually(house.ready)
    with EngineClient(address(house), house.files) as engine, EngineClient(address(house), house.files) as other:
        codes: list[int] = []
        for _ in range(2):
            pid = house.pid_of("clientif")
            slow = other.start("Host.getCapabilities")
            house.ask("restart", worker="clientif")
            until = time.monotonic() + 5
            while time.monotonic() < until:
                codes += [engine.call(verb).code for verb in ("Host.getStats", "Host.ping2", "Host.getAllVmStats")]
                time.sleep(0.02)
            house.wait_other_pid("clientif", pid)
            assert other.wait(slow).code in (0, NETWORK_ERROR)
        assert set(codes) <= {0, NETWORK_ERROR}
        assert codes.count(NETWORK_ERROR) <= 2
        assert len(codes) > 100
