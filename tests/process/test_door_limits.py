# SPDX-License-Identifier: Apache-2.0
"""Everything that a client may take too much of has an end, and nobody else notices."""

import asyncio
import contextlib
import resource
import select
import socket
import ssl
import time
from collections.abc import Iterator

import pytest

from tests.support.door import Door, always, open_door
from tests.support.eventually import eventually
from tests.support.wirepeers import EngineReader, Records, was_closed, was_reset
from vdsm_mp.api.catalogue import VERBS
from vdsm_mp.api.events import HostConnectivityChanged, JobChanged
from vdsm_mp.api.verb import Lane
from vdsm_mp.clientif.arrival import Arrival
from vdsm_mp.clientif.limits import Limits
from vdsm_mp.wire import stomp
from vdsm_mp.wire.client import ConnectionLost
from vdsm_mp.wire.tls import Files, client_context


def vital(door: Door, name: str) -> int:
    return int(door.call(door.server.vitals).get(name, 0))


def request(method: str, request_id: int, reply_to: str = "me") -> bytes:
    body = b'{"jsonrpc":"2.0","method":"%b","id":%d}' % (method.encode(), request_id)
    return stomp.encode("SEND", (("destination", "jms.topic.vdsm_requests"), ("reply-to", reply_to)), body)


@contextlib.contextmanager
def many(address: tuple[str, int], count: int) -> Iterator[list[socket.socket]]:
    socks = [socket.create_connection(address) for _ in range(count)]
    try:
        yield socks
    finally:
        for sock in socks:
            sock.close()


def test_one_address_cannot_take_all_connections(files: Files) -> None:
    with open_door(files, limits=Limits(connections_per_address=5)) as door, many(door.address, 5):
        eventually(lambda: vital(door, "connections") == 5)
        with socket.create_connection(door.address) as late:
            assert was_reset(late)
    assert door.server.connections == 0


def test_there_is_a_limit_for_all_addresses_together_and_places_become_free_again(files: Files) -> None:
    with open_door(files, limits=Limits(connections=3)) as door:
        inside = [door.client(files) for _ in range(3)]
        with pytest.raises(ConnectionLost):
            door.client(files)
        assert vital(door, "turned_away") == 1
        for client in inside:
            assert client.call("Host.ping2") is True
            client.close()
        eventually(lambda: vital(door, "connections") == 0)
        door.client(files).close()


def test_those_who_only_hold_places_are_pushed_out_by_those_who_come_in(files: Files) -> None:
    with open_door(files, limits=Limits(arrivals=5)) as door, many(door.address, 5) as idle:
        eventually(lambda: vital(door, "connections") == 5)
        with door.client(files) as client:
            assert client.call("Host.ping2") is True
        assert was_reset(idle[0])
        assert vital(door, "pushed_out") == 1


def test_who_pushes_are_themselves_pushed_out_not_who_came_before_them_from_elsewhere(files: Files) -> None:
    with (
        open_door(files, limits=Limits(arrivals=5)) as door,
        socket.create_connection(door.address, source_address=("127.0.0.2", 0)) as quiet,
    ):
        eventually(lambda: vital(door, "connections") == 1)
        with many(door.address, 20) as pushing:
            eventually(lambda: vital(door, "pushed_out") == 16)
            assert was_reset(pushing[0])
            assert not select.select([quiet], [], [], 0)[0]


def test_a_handshake_that_does_not_end_is_cut_off(files: Files) -> None:
    limits = Limits(handshake_s=0.3)
    with (
        open_door(files, limits=limits) as door,
        socket.create_connection(door.address) as silent,
        socket.create_connection(door.address) as slow,
    ):
        # The beginning of a ClientHello, octet by octet.
        for octet in bytes.fromhex("16030100c8010000c40303") * 2:
            slow.sendall(bytes([octet]))
            time.sleep(0.01)
        # The engine does not look at FIN.
        assert was_reset(silent)
        assert was_reset(slow)
        assert vital(door, "connections") == 0


def hello() -> bytes:
    """The first record of a handshake, as OpenSSL sends it."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    with contextlib.suppress(ssl.SSLWantReadError):
        context.wrap_bio(incoming, outgoing).do_handshake()
    return outgoing.read()


def arrivals(door: Door) -> list[Arrival]:
    assert door.server._newcomers is not None
    return list(door.server._newcomers)


def test_who_only_begins_a_handshake_costs_no_tls_object_and_no_turn(files: Files) -> None:
    octets = hello()
    with open_door(files) as door, many(door.address, 40) as socks:
        for number, sock in enumerate(socks):
            sock.sendall(octets[: (1, 4, 5, len(octets) - 1)[number % 4]])
        eventually(lambda: len(door.call(arrivals, door)) == 40)
        with door.client(files) as client:
            assert client.call("Host.ping2") is True
        assert {type(arrival.sock) for arrival in door.call(arrivals, door)} == {socket.socket}
        # The rest, in whatever pieces, is answered as ever.
        for number, sock in enumerate(socks):
            rest = octets[(1, 4, 5, len(octets) - 1)[number % 4] :]
            for octet in (rest[:1], rest[1:7], rest[7:]):
                sock.sendall(octet)
            sock.settimeout(10)
            assert sock.recv(1) == b"\x16"


def test_who_says_goodbye_in_the_middle_of_its_hello_is_gone_at_once(files: Files) -> None:
    octets = hello()
    with open_door(files) as door, many(door.address, 3) as socks:
        for sock, count in zip(socks, (0, 3, 100), strict=True):
            sock.sendall(octets[:count])
        eventually(lambda: len(door.call(arrivals, door)) == 3)
        for sock in socks:
            sock.shutdown(socket.SHUT_WR)
        eventually(lambda: vital(door, "connections") == 0, within_s=5)


def test_a_client_that_says_nothing_after_the_handshake_is_cut_off(files: Files) -> None:
    with open_door(files, limits=Limits(detect_s=0.3)) as door, Records(door.address, files) as raw:
        raw.send(b"SEN")
        assert was_reset(raw.sock)


@pytest.mark.parametrize("sent", [b"HELLO", b"STOMP\n", b"\nCONNECT", b"\0\0\0\0\0", b"POST / HTTP/1.1\r\n"])
def test_what_is_neither_stomp_nor_http_is_closed_at_once(files: Files, sent: bytes) -> None:
    with open_door(files) as door, Records(door.address, files) as raw:
        raw.send(sent)
        assert was_reset(raw.sock)


@pytest.mark.parametrize(
    "sent",
    [b"x" * 16_384, b"x" * 16_384 + b"\0", b"rest\0HELLO", b"rest\0rest\0CONNECT\naccept-version:1.2\n\n\0"],
    ids=["no end", "nothing follows", "nonsense follows", "another rest follows"],
)
def test_a_rest_of_a_request_is_no_way_to_stay(files: Files, sent: bytes) -> None:
    with open_door(files, limits=Limits(detect_s=0.5)) as door, Records(door.address, files) as raw:
        raw.send(sent)
        assert was_reset(raw.sock)


def test_a_rest_of_a_request_that_goes_on_and_on_is_closed(files: Files) -> None:
    with open_door(files) as door, Records(door.address, files) as raw:
        raw.sock.settimeout(10)
        with pytest.raises(OSError):
            for _ in range(2000):
                raw.send(b"x" * 16_384)


def test_handshakes_of_many_do_not_delay_a_call_for_long(files: Files) -> None:
    with open_door(files) as door, door.client(files) as client, many(door.address, 100) as socks:
        for sock in socks:
            sock.sendall(bytes.fromhex("16030100050100000100"))
        assert client.call("Host.ping2") is True
        for sock in socks:
            assert was_closed(sock)
        assert client.call("Host.ping2") is True


def test_a_client_is_not_read_while_too_many_of_its_calls_are_open(files: Files) -> None:
    gate = asyncio.Event()
    began = 0

    async def waits(_params: bytes) -> bytes:
        nonlocal began
        began += 1
        await gate.wait()
        return b"true"

    limits = Limits(calls_per_connection=4)
    with (
        open_door(files, limits=limits, answers={"Host.getStats": waits}) as door,
        door.client(files) as greedy,
        door.client(files) as modest,
    ):
        ids = [greedy.start("Host.getStats", b"{}") for _ in range(20)]
        eventually(lambda: began == 4)
        assert modest.call("Host.ping2") is True
        assert began == 4
        door.call(gate.set)
        for request_id in ids:
            assert greedy.wait(request_id, timeout_s=5) == b"true"


def test_when_all_calls_together_are_too_many_everybody_gets_a_turn(files: Files) -> None:
    gate = asyncio.Event()
    served: list[bytes] = []

    async def waits(params: bytes) -> bytes:
        served.append(params)
        await gate.wait()
        return b"true"

    with (
        open_door(files, limits=Limits(calls=2), answers={"Host.getStats": waits}) as door,
        door.client(files) as greedy,
        door.client(files) as modest,
    ):
        ids = [greedy.start("Host.getStats", b'{"who":"greedy"}') for _ in range(50)]
        eventually(lambda: len(served) == 2)
        one = modest.start("Host.getStats", b'{"who":"modest"}')
        # It waits in the row now; the greedy one had been there before.
        eventually(lambda: vital(door, "waiting_sessions") == 2)
        door.call(gate.set)
        assert modest.wait(one, timeout_s=5) == b"true"
        for request_id in ids:
            greedy.wait(request_id, timeout_s=5)
        assert served.index(b'{"who":"modest"}') <= 6


def test_a_hundred_thousand_requests_unread_are_held_back_not_stored(files: Files) -> None:
    answers = {"Host.getStats": always({"x": "y" * 10_000})}
    limits = Limits(unread_soft_bytes=100_000)
    with open_door(files, limits=limits, answers=answers) as door, Records(door.address, files) as greedy:
        greedy.send(b"SUBSCRIBE\ndestination:me\nid:1\n\n\0")
        greedy.sock.settimeout(0.5)
        sent = 0
        with pytest.raises(TimeoutError):
            for number in range(100_000):
                greedy.send(request("Host.getStats", number))
                sent += 1
        assert vital(door, "unread_bytes") < 100_000 + 300 * 10_200
        with door.client(files) as other:
            assert other.call("Host.ping2") is True


def test_a_subscriber_that_never_reads_is_dropped_and_others_hear_on(files: Files) -> None:
    limits = Limits(unread_hard_bytes=200_000)
    with (
        open_door(files, limits=limits) as door,
        Records(door.address, files) as deaf,
        door.client(files) as listener,
    ):
        deaf.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        deaf.send(b"SUBSCRIBE\ndestination:jms.queue.events\nid:1\n\n\0")
        deaf.send(b"CONNECT\naccept-version:1.2\n\n\0")
        deaf.next()
        listener.subscribe()
        listener.call("Host.ping2")
        number = 0

        def tell(first: int) -> None:
            for one in range(first, first + 100):
                door.broker.publish(HostConnectivityChanged(notify_time=one))

        def tell_until_gone() -> bool:
            nonlocal number
            for _ in range(5):
                door.call(tell, number + 1)
                number += 100
            return vital(door, "connections") == 1

        heard = 0
        while not tell_until_gone():
            heard += sum(1 for _ in listener.events(timeout_s=0.05))
            assert number < 200_000
        while heard < number:
            next(listener.events(timeout_s=5))
            heard += 1
        assert was_reset(deaf.sock)


def test_all_who_do_not_read_together_hold_no_more_than_the_limit_for_all(files: Files) -> None:
    limit = 2 << 20

    def storm(door: Door) -> int:
        """Within one turn of the loop; the most that was held."""
        most = 0
        for number in range(1000):
            door.broker.publish(JobChanged(job_id="j", info={"x": "y" * 10_000}, notify_time=number))
            most = max(most, int(str(door.server.vitals()["unread_bytes"])))
        return most

    with open_door(files, limits=Limits(unread_all_bytes=limit)) as door, contextlib.ExitStack() as stack:
        for _ in range(12):
            deaf = stack.enter_context(Records(door.address, files))
            deaf.send(b"SUBSCRIBE\ndestination:jms.queue.events\nid:1\n\n\0CONNECT\naccept-version:1.2\n\n\0")
            assert deaf.next().octets.startswith(b"CONNECTED")
        # Up to the frame with which it was seen.
        assert limit - 100_000 < door.call(storm, door) <= limit
        eventually(lambda: vital(door, "connections") < 12)
        with door.client(files) as client:
            assert client.call("Host.ping2") is True


def test_frames_that_begin_and_do_not_end_hold_no_more_than_the_limit_for_all(files: Files) -> None:
    limit = 2 << 20
    head = b"SEND\ndestination:x\ncontent-length:%d\n\n" % (stomp.MAX_FRAME - 1000)
    with open_door(files, limits=Limits(unfinished_all_bytes=limit)) as door, contextlib.ExitStack() as stack:
        giants = []
        for _ in range(6):
            giant = stack.enter_context(Records(door.address, files))
            giant.send(b"CONNECT\naccept-version:1.2\n\n\0")
            assert giant.next().octets.startswith(b"CONNECTED")
            with contextlib.suppress(OSError):
                giant.send(head + bytes(900_000))
            giants.append(giant)
            inside = min(len(giants), 2)
            eventually(lambda inside=inside: vital(door, "connections") == inside)
            assert vital(door, "unfinished_bytes") <= limit
        # Those who began first had to go, and a whole frame is still taken from somebody else.
        assert [was_reset(giant.sock) for giant in giants[:4]] == [True] * 4
        with door.client(files) as client:
            large = [b'{"x":"%b"}' % (b"y" * 500_000)] * 5
            assert [client.call_raw("Host.ping2", params, timeout_s=30) for params in large] == [b"true"] * 5
        for giant in giants:
            giant.close()
        eventually(lambda: vital(door, "unfinished_bytes") == 0)


def test_one_reply_larger_than_the_limit_may_be_sent(files: Files) -> None:
    answers = {"Host.getStats": always("x" * 3_000_000)}
    limits = Limits(unread_hard_bytes=100_000)
    with open_door(files, limits=limits, answers=answers) as door, door.client(files) as client:
        time.sleep(0)
        assert len(client.call("Host.getStats")) == 3_000_000


def test_a_connection_has_a_bounded_number_of_subscriptions(files: Files) -> None:
    with open_door(files) as door, Records(door.address, files) as raw:
        for number in range(65):
            raw.send(b"SUBSCRIBE\ndestination:q\nid:%d\n\n\0" % number)
        assert b"Too many subscriptions" in raw.next().octets


def test_a_million_tiny_frames_of_one_do_not_starve_another(files: Files) -> None:
    with open_door(files) as door, Records(door.address, files) as busy, door.client(files) as client:
        flood = b"UNSUBSCRIBE\nid:x\n\n\0" * 5000
        for _ in range(20):
            busy.send(flood)
            assert client.call("Host.ping2", timeout_s=5) is True


def test_accepting_pauses_when_descriptors_run_out_and_those_inside_are_served(files: Files) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with open_door(files) as door, door.client(files) as client:
        # The client's sockets are made before there are none left.
        waiting = [socket.socket() for _ in range(5)]
        lowest = socket.socket()
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (lowest.fileno() + 1, hard))
            for sock in waiting:
                sock.connect(door.address)
            eventually(lambda: door.server.counts["accept_pauses"] >= 1)
            pauses = door.server.counts["accept_pauses"]
            assert client.call("Host.ping2") is True
            assert door.server.counts["accept_pauses"] <= pauses + 2
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            lowest.close()
        eventually(lambda: door.server.counts["accepted"] == 6)
        for sock in waiting:
            sock.close()


def test_refusals_do_not_fill_the_log(files: Files, caplog: pytest.LogCaptureFixture) -> None:
    with open_door(files) as door, many(door.address, 60) as socks:
        for sock in socks:
            sock.sendall(b"garbage\n" * 4)
        assert all(was_closed(sock) for sock in socks)
        assert vital(door, "refused") == 60
    assert len([record for record in caplog.records if "refused" in record.message]) <= 20


def test_an_engine_that_drowns_in_events_still_gets_its_beats_and_answers(files: Files) -> None:
    with open_door(files) as door, EngineReader(door.address, files) as engine:
        for number in range(50):
            door.call(door.broker.publish, HostConnectivityChanged(notify_time=number))
        wanted = engine.ask("Host.ping2")
        *_, answer = engine.messages(51)
        assert answer["id"] == wanted


def test_a_frame_of_the_largest_size_goes_through(files: Files) -> None:
    async def measures(params: bytes) -> bytes:
        return b"%d" % len(params)

    size = stomp.MAX_FRAME - 1000
    with open_door(files, answers={"Host.getStats": measures}) as door, door.client(files) as client:
        params = b'{"x":"%b"}' % (b"y" * (size - 8))
        assert client.call_raw("Host.getStats", params, timeout_s=30) == b"%d" % size
        with pytest.raises(ConnectionLost):
            client.call_raw("Host.getStats", b'{"x":"%b"}' % (b"y" * stomp.MAX_FRAME), timeout_s=30)


def test_calls_that_hang_in_one_worker_hold_up_nobody_else_and_destroy_gets_through(files: Files) -> None:
    async def hangs(_params: bytes) -> bytes:
        await asyncio.Event().wait()
        raise AssertionError

    answers = {"VM.setBalloonTarget": hangs, "VM.destroy": always(True), "Host.getStats": always({})}
    assert VERBS["VM.destroy"].lane is Lane.URGENT and not VERBS["VM.setBalloonTarget"].planned
    limits = Limits(calls_per_worker=4, turn_s=0.5)
    with open_door(files, limits=limits, answers=answers) as door, EngineReader(door.address, files) as engine:
        stuck = [engine.ask("VM.setBalloonTarget") for _ in range(6)]
        eventually(lambda: vital(door, "calls_waiting") == 2)
        for verb in ("Host.ping2", "Host.getStats", "VM.destroy"):
            assert "result" in engine.call(verb)
        refused = [engine.message() for _ in range(2)]
        assert {answer["id"] for answer in refused} == set(stuck[4:])
        assert {answer["error"]["message"] for answer in refused} == {"the virt worker is busy; try again later"}


@pytest.mark.parametrize("early", [False, True])
def test_every_connection_has_what_the_door_wants_of_the_kernel(files: Files, early: bool) -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    waiting = socket.create_connection(listener.getsockname()) if early else None
    with open_door(files, listener=listener) as door:
        client = waiting or socket.create_connection(door.address)
        tls = client_context(files).wrap_socket(client)
        tls.sendall(b"CONNECT\naccept-version:1.2\n\n\0")
        assert tls.recv(4096)

        def options() -> list[int]:
            sock = door.server._stomp_sessions()[0].stream._sock
            tcp = socket.IPPROTO_TCP
            linger = int.from_bytes(sock.getsockopt(socket.SOL_SOCKET, socket.SO_LINGER, 8)[:4], "little")
            return [linger, sock.getsockopt(tcp, socket.TCP_NODELAY), sock.getsockopt(tcp, socket.TCP_USER_TIMEOUT),
                    sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE), sock.getsockopt(tcp, socket.TCP_KEEPIDLE),
                    sock.getsockopt(tcp, socket.TCP_KEEPINTVL)]  # fmt: skip

        assert door.call(options) == [1, 1, 120_000, 1, 60, 20]
        tls.close()
