# SPDX-License-Identifier: Apache-2.0
"""What goes over the wire, octet by octet: whole exchanges as VDSM and its clients have them."""

from collections.abc import Iterator

import pytest

from tests.support.certificates import make_authority
from tests.support.door import Door, always, open_door
from tests.support.wirepeers import Records
from vdsm_mp.api.errors import UnknownVerb
from vdsm_mp.api.errors_virt import NoSuchVm
from vdsm_mp.api.events import HostConnectivityChanged, JobChanged, VmMigrationProgress, VmStatusChanged
from vdsm_mp.wire.tls import Files

VM = "0d5f1f2e-3a4b-4c5d-8e6f-7a8b9c0d1e06"
EVENTS, REPLIES = "c0b7c1f4-1d34-4e0f-8e0e-5d2f5b7f0a02", "5f0a8a3e-9d3c-4c0e-9a55-0b8a6c1f7e01"


async def no_such_vm(_params: bytes) -> bytes:
    raise NoSuchVm(VM)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    return make_authority(tmp_path_factory.mktemp("pki") / "ca").issue("host", "127.0.0.1")


@pytest.fixture(scope="module")
def door(files: Files) -> Iterator[Door]:
    status = {"Host.setupNetworks": always(b'{"code": 0, "message": "Done"}'), "VM.getStats": no_such_vm}
    with open_door(files, answers=status) as door:
        yield door


@pytest.fixture
def engine(door: Door, files: Files) -> Iterator[Records]:
    """CONNECT and both subscriptions in one segment."""
    with Records(door.address, files) as raw:
        raw.send(
            b"CONNECT\naccept-version:1.2\nhost:null\nheart-beat:0,15000\n\n\0"
            b"SUBSCRIBE\ndestination:jms.queue.events\nid:%b\nack:auto\n\n\0"
            b"SUBSCRIBE\ndestination:jms.topic.vdsm_responses\nid:%b\nack:auto\n\n\0"
            % (EVENTS.encode(), REPLIES.encode())
        )
        assert raw.next().octets == b"CONNECTED\nversion:1.2\nheart-beat:15000,0\n\n\0"
        yield raw


def message(raw: Records) -> bytes:
    """The next frame; LFs between frames mean nothing."""
    while (octets := raw.next().octets) == b"\n":
        pass
    return octets


def asked(raw: Records, body: bytes) -> bytes:
    """The body of the answer, its frame judged."""
    headers = b"destination:jms.topic.vdsm_requests\nreply-to:jms.topic.vdsm_responses\novirtCorrelationId:3f2a91c7"
    raw.send(b"SEND\n%b\ncontent-length:%d\n\n%b\0" % (headers, len(body), body))
    return unwrapped(message(raw), "jms.topic.vdsm_responses", REPLIES)


def unwrapped(octets: bytes, destination: str, subscription: str) -> bytes:
    head, _, rest = octets.partition(b"\n\n")
    body = rest[:-1]
    assert rest[-1:] == b"\0"
    assert head.decode().split("\n") == [
        "MESSAGE", f"destination:{destination}", "content-type:application/json", f"subscription:{subscription}",
        f"content-length:{len(body)}",
    ]  # fmt: skip
    return body


@pytest.mark.parametrize(
    ("method", "params", "answer"),
    [
        ("Host.ping2", "{}", '"result": true'),
        ("Host.setupNetworks", "{}", '"result": {"code": 0, "message": "Done"}'),
        ("VM.getStats", '{"vmID":"x"}', f'"error": {{"code": 1, "message": "{NoSuchVm(VM)}"}}'),
        ("Host.noSuchVerb", "{}", f'"error": {{"code": -32601, "message": "{UnknownVerb("Host.noSuchVerb")}"}}'),
    ],
)
def test_an_answer_is_these_octets(engine: Records, method: str, params: str, answer: str) -> None:
    call_id = "7b1b6a56-52a5-4f0c-8f43-1d1c0e6a9d10"
    body = f'{{"jsonrpc":"2.0","method":"{method}","params":{params},"id":"{call_id}"}}'
    assert asked(engine, body.encode()).decode() == f'{{"jsonrpc": "2.0", "id": "{call_id}", {answer}}}'
    # As the Python client asks: an array of one, answered with a plain object.
    assert asked(engine, f"[{body}]".encode()).decode() == f'{{"jsonrpc": "2.0", "id": "{call_id}", {answer}}}'


def test_a_house_that_starts_answers_99(files: Files) -> None:
    with open_door(files, ready=False) as door, Records(door.address, files) as raw:
        raw.send(b"SUBSCRIBE\ndestination:jms.topic.vdsm_responses\nid:%b\n\n\0" % REPLIES.encode())
        body = b'{"jsonrpc":"2.0","method":"Host.getCapabilities","params":{},"id":"b1c2"}'
        assert asked(raw, body) == (
            b'{"jsonrpc": "2.0", "id": "b1c2", "error": '
            b'{"code": 99, "message": "Recovering from crash or Initializing"}}'
        )


JOB = "f00dcafe-4444-4555-8666-977788889909"


@pytest.mark.parametrize(
    ("event", "method", "params"),
    [
        (
            VmStatusChanged(vm_id=VM, info={"status": "Up", "hash": "-27"}, notify_time=2152043997),
            f"|virt|VM_status|{VM}",
            f'{{"{VM}":{{"status":"Up","hash":"-27"}},"notify_time":2152043997}}',
        ),
        (
            VmMigrationProgress(vm_id=VM, progress=42, postcopy=False, notify_time=2152110001),
            f"|virt|VM_migration_status|{VM}",
            f'{{"{VM}":{{"progress":42,"postcopy":false}},"notify_time":2152110001}}',
        ),
        (HostConnectivityChanged(notify_time=2152120777), "|net|host_conn|no_id", '{"notify_time":2152120777}'),
        (
            JobChanged(job_id=JOB, info={"id": JOB, "status": "done"}, notify_time=2152130555),
            f"|jobs|status|{JOB}",
            f'{{"id":"{JOB}","status":"done","notify_time":2152130555}}',
        ),
    ],
)  # fmt: skip
def test_an_event_is_these_octets(
    engine: Records,
    door: Door,
    event: VmStatusChanged | VmMigrationProgress | HostConnectivityChanged | JobChanged,
    method: str,
    params: str,
) -> None:
    asked(engine, b'{"jsonrpc":"2.0","method":"Host.ping2","id":1}')
    door.call(door.broker.publish, event)
    body = unwrapped(message(engine), "jms.queue.events", EVENTS)
    assert body.decode() == f'{{"jsonrpc": "2.0", "method": "{method}", "params": {params}}}'


def test_a_mistake_is_answered_by_these_octets(engine: Records) -> None:
    for sent, said in (
        (b"CONNECT\naccept-version:1.1\n\n\0", b"ERROR\ncontent-length:19\n\nVersion unsupported\0"),
        (b"SEND\ndestination:x\n\n\0", b"ERROR\ncontent-length:26\n\nSubscription not available\0"),
    ):
        engine.send(sent)
        assert message(engine) == said


def test_a_goodbye_is_acknowledged_by_these_octets(engine: Records) -> None:
    engine.send(b"UNSUBSCRIBE\nid:%b\n\n\0DISCONNECT\nreceipt:9a8b7c6d-5555\n\n\0" % REPLIES.encode())
    assert message(engine) == b"RECEIPT\nreceipt-id:9a8b7c6d-5555\n\n\0"
