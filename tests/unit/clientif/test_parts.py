# SPDX-License-Identifier: Apache-2.0
"""The door's parts that need no socket: gate, subscriptions, detection of what is spoken."""

import asyncio
import json

import pytest

from vdsm_mp.api.catalogue import EVENTS, VERBS
from vdsm_mp.api.errors import NotAllowed, StillStarting
from vdsm_mp.api.events import VmMigrationProgress, VmStatusChanged
from vdsm_mp.clientif import builtin
from vdsm_mp.clientif.arrival import Beginning, Protocol, detect
from vdsm_mp.clientif.gate import PEER_VERBS, Authorisation, Gate
from vdsm_mp.clientif.limits import ENGINE_BEAT_FLOOR_MS, HEARTBEAT_EARLY
from vdsm_mp.clientif.subscriptions import Broker, TooMuch, event_body, prefixes
from vdsm_mp.wire import stomp
from vdsm_mp.wire.tls import Peer

VM = "0d5f1f2e-3a4b-4c5d-8e6f-7a8b9c0d1e06"


def test_the_gate_opens_when_all_have_been_ready_once_and_stays_open() -> None:
    gate = Gate({"virt", "storage"})
    assert isinstance(gate.refuses(), StillStarting)
    gate.peer_changed("virt", True)
    gate.peer_changed("virt", False)
    assert list(gate.missing) == ["storage"]
    gate.peer_changed("storage", True)
    assert gate.refuses() is None
    assert not gate.is_up("virt") and gate.is_up("storage")


def test_waiting_for_a_worker_ends_when_it_is_back_or_when_time_is_up() -> None:
    async def run() -> None:
        gate = Gate({"virt"})
        assert not await gate.comes_back("virt", 0.01)
        waiting = [asyncio.ensure_future(gate.comes_back("virt", 10)) for _ in range(3)]
        await asyncio.sleep(0)
        gate.peer_changed("virt", True)
        assert await asyncio.gather(*waiting) == [True, True, True]

    asyncio.run(run())


def test_without_engine_names_everybody_is_trusted() -> None:
    assert Authorisation().trusts(Peer("host7", ""), "10.0.0.7")
    only = Authorisation(["engine.example"])
    assert only.trusts(Peer("ENGINE.example", ""), "10.0.0.1")
    assert only.trusts(Peer("host7", ""), "127.0.0.1")
    assert not only.trusts(Peer("host7", ""), "10.0.0.7")
    assert not only.trusts(Peer("", ""), "10.0.0.7")


def test_hosts_may_call_what_a_migration_needs_and_nothing_else() -> None:
    gate = Gate(())
    allowed = {name for name, spec in VERBS.items() if gate.forbids(spec, False, "host7") is None}
    assert allowed == PEER_VERBS
    assert isinstance(gate.forbids(VERBS["VM.create"], False, "host7"), NotAllowed)


def test_built_in_answers_belong_to_declared_verbs_of_the_door() -> None:
    assert {name: VERBS[name].owner for name in builtin.ANSWERS} == dict.fromkeys(builtin.ANSWERS, "clientif")


def test_a_destination_is_heard_by_its_dotted_prefixes() -> None:
    assert prefixes("a.b.c") == ["a.b.c", "a.b", "a"]
    assert prefixes("a") == ["a"]


class Ear:
    def __init__(self) -> None:
        self.heard: list[tuple[str, object]] = []

    def deliver(self, destination: str, subscription: str, body: bytes) -> None:
        self.heard.append((subscription, json.loads(body)))

    def pass_on(self, subscription: str, frame: stomp.Frame) -> None:
        self.heard.append((subscription, frame.body))


def test_one_client_may_listen_twice_and_stop_once() -> None:
    broker, ear = Broker("events"), Ear()
    broker.add("a", ear, "1")
    broker.add("a.b", ear, "2")
    assert broker.pass_on("a.b", stomp.Frame("SEND", {}, b"x"))
    assert ear.heard == [("2", b"x"), ("1", b"x")]
    broker.remove("a", ear, "1")
    broker.remove("a", ear, "1")
    broker.remove("nothing", ear, "1")
    assert not broker.pass_on("a", stomp.Frame("SEND", {}, b"x"))


def test_who_stops_listening_takes_nobody_along() -> None:
    broker, leaves, stays = Broker("events"), Ear(), Ear()
    broker.add("a", leaves, "1")
    broker.add("a", stays, "1")
    broker.remove("a", leaves, "1")
    assert broker.pass_on("a", stomp.Frame("SEND", {}, b"x"))
    assert (leaves.heard, stays.heard) == ([], [("1", b"x")])


def test_events_have_no_prefixes() -> None:
    broker, ear = Broker("jms.queue.events"), Ear()
    broker.add("jms.queue", ear, "1")
    broker.publish(VmStatusChanged(vm_id=VM, info={"status": "Up"}, notify_time=1))
    assert ear.heard == []


def test_every_public_event_has_a_method_that_the_engine_can_split() -> None:
    for spec in EVENTS.values():
        if spec.public is not None:
            assert spec.public.count("|") == 3 and spec.public.startswith("|")
            assert "notify_time" in spec.event.__struct_fields__


def test_the_bodies_of_events_have_the_types_that_the_engine_casts_to() -> None:
    progress = VmMigrationProgress(vm_id=VM, progress=42, postcopy=False, notify_time=2**31)
    assert json.loads(event_body(progress)) == {
        "jsonrpc": "2.0",
        "method": f"|virt|VM_migration_status|{VM}",
        "params": {VM: {"progress": 42, "postcopy": False}, "notify_time": 2**31},
    }
    ended = VmMigrationProgress(vm_id=VM, progress=100, postcopy=False, notify_time=2**31, downtime_ms=12)
    assert json.loads(event_body(ended))["params"][VM]["downtime"] == 12


@pytest.mark.parametrize(
    ("octets", "protocol"),
    [
        (b"CONNE", Protocol.STOMP),
        (b"SEND\n", Protocol.STOMP),
        (b"UNSUB", Protocol.STOMP),
        (b"SUBSC", Protocol.STOMP),
        (b"ERROR", Protocol.STOMP),
        (b"PUT /", Protocol.HTTP),
        (b"GET /", Protocol.HTTP),
        (b"CONN", None),
        (b"G", None),
        (b"S", None),
    ],
)
def test_the_first_octets_tell_the_protocol(octets: bytes, protocol: Protocol | None) -> None:
    assert detect(octets) is protocol


@pytest.mark.parametrize("octets", [b"X", b"STOMP", b"POST ", b"\n", b"\x16\x03\x01", b"connect", b"GETX"])
def test_everything_else_is_nothing(octets: bytes) -> None:
    with pytest.raises(ValueError, match="neither"):
        detect(octets)


# Java's records are 16,384 octets large in TLS 1.2 and 16,367 in 1.3.
@pytest.mark.parametrize("records", [[b'"}\0'], [b"x" * 16_384, b'x"}\0'], [b"x" * 16_367, b"x" * 16_367, b'"}\0']])
def test_the_rest_of_an_engine_s_request_is_skipped_once(records: list[bytes]) -> None:
    for tail in (b"", b"CONNECT\n"):
        beginning = Beginning()
        found = [beginning.take(octets) for octets in (*records[:-1], records[-1] + tail)]
        assert found == [None] * (len(records) - 1) + [Protocol.STOMP if tail else None]
        assert beginning.octets == tail
        if not tail:
            with pytest.raises(ValueError, match="neither"):
                beginning.take(b"rest\0")


def test_a_beat_leaves_before_the_engines_limit() -> None:
    # It gives up after 1.5 times what was promised.
    assert ENGINE_BEAT_FLOOR_MS >= 15000
    assert 0.5 < HEARTBEAT_EARLY < 1


def test_what_happened_before_the_door_was_there_is_no_news() -> None:
    broker, ear = Broker("events", since_ms=100), Ear()
    broker.add("events", ear, "1")
    for at in (99, 100, 101):
        broker.publish(VmStatusChanged(vm_id=VM, info={"status": "Up"}, notify_time=at))
    assert [body["params"]["notify_time"] for _, body in ear.heard] == [100, 101]  # type: ignore[index]


def test_a_large_message_is_not_copied_for_a_crowd() -> None:
    broker, ear = Broker("events"), Ear()
    for number in range(100):
        broker.add("a", ear, str(number))
    assert broker.pass_on("a", stomp.Frame("SEND", {}, b"x" * 300_000))
    with pytest.raises(TooMuch):
        broker.pass_on("a.b", stomp.Frame("SEND", {}, b"x" * 400_000))
    assert len(ear.heard) == 100
