# SPDX-License-Identifier: Apache-2.0
"""The bus between real processes: killed, frozen, flooded, and approached by strangers."""

import asyncio
import os
import stat
import subprocess
import sys
import textwrap
import threading
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from tests.support.bus import REPOSITORY, TOKEN, Peer, bus, eventually, peer, run
from tests.support.bus_verbs import Change, Echo, Large, Look, Moved, Publish
from vdsm_mp.api.errors import Busy, DeadlineExceeded, PeerRestarted, RemoteError, StillStarting
from vdsm_mp.common.errors import Error
from vdsm_mp.ipc.node import Bus


class Answers:
    """Who was answered how often, and with what."""

    def __init__(self) -> None:
        self.times: Counter[int] = Counter()
        self.kinds: Counter[str] = Counter()

    def taker(self, number: int) -> Callable[[bytes | None, Error | None], None]:
        return partial(self._take, number)

    def _take(self, number: int, body: bytes | None, error: Error | None) -> None:
        assert (body is None) != (error is None)
        self.times[number] += 1
        self.kinds["result" if error is None else type(error).__name__] += 1


async def in_service(client: Bus, server: Peer) -> None:
    """Until everything sent so far has reached the handlers: the socket keeps the order."""
    await client.ask(Echo(text="all before me are inside"))


def test_when_the_worker_is_killed_each_of_100_calls_gets_exactly_one_answer(tmp_path: Path) -> None:
    answers = Answers()

    async def main() -> None:
        async with bus(tmp_path) as client:
            with peer(tmp_path) as server:
                client.peer_changed("bustest", 1, True)
                for number in range(100):
                    takes_s = 0.0 if number % 4 == 0 else 20
                    params = b'{"token":"%d","takes_s":%f}' % (number, takes_s)
                    client.call_then("bustest.change", params, answers.taker(number), deadline_s=30)
                await in_service(client, server)
                server.kill()
                # Until the master has reaped it, nobody knows more than the kernel.
                client.peer_changed("bustest", 1, False)
                assert len(answers.times) == 100
            with peer(tmp_path, 2):
                client.peer_changed("bustest", 2, True)
                # What was queued for the dead does not reach its successor.
                for number in range(100):
                    assert await client.ask(Change(token=str(number))) == 1

    run(main())
    assert set(answers.times.values()) == {1}
    assert answers.kinds["PeerRestarted"] >= 75
    assert set(answers.kinds) <= {"PeerRestarted", "result", "Busy"}


def test_safe_calls_survive_the_death_of_their_worker(tmp_path: Path) -> None:
    answers = Answers()

    async def main() -> None:
        async with bus(tmp_path) as client:
            with peer(tmp_path) as server:
                client.peer_changed("bustest", 1, True)
                for number in range(20):
                    client.call_then("bustest.look", b'{"takes_s":0.3}', answers.taker(number), deadline_s=20)
                await in_service(client, server)
                server.kill()
                client.peer_changed("bustest", 1, False)
                assert not answers.times
            with peer(tmp_path, 2):
                client.peer_changed("bustest", 2, True)
                await eventually(lambda: len(answers.times) == 20)

    run(main())
    assert answers.kinds == {"result": 20}


def test_calls_to_a_frozen_worker_fill_a_bounded_queue_and_then_are_busy_at_once(tmp_path: Path) -> None:
    answers = Answers()

    async def main() -> None:
        async with bus(tmp_path) as client:
            with peer(tmp_path) as server:
                client.peer_changed("bustest", 1, True)
                await client.ask(Echo(text="connected"))
                server.freeze()
                for number in range(1000):
                    client.call_then("bustest.echo", b'{"text":"x"}', answers.taker(number), deadline_s=20)
                refused = answers.kinds["Busy"]
                assert refused == 1000 - client.vitals()["in_flight"]["bustest"] >= 700
                # A short pause loses nothing.
                server.thaw()
                await eventually(lambda: len(answers.times) == 1000)

    run(main())
    assert set(answers.times.values()) == {1}
    assert set(answers.kinds) == {"result", "Busy"}


def test_the_memory_of_calls_nobody_waits_for_is_bounded_too(tmp_path: Path) -> None:
    async def main() -> None:
        async with bus(tmp_path) as client:
            with peer(tmp_path) as server:
                client.peer_changed("bustest", 1, True)
                await client.ask(Echo(text="connected"))
                server.freeze()
                kinds: Counter[type[BaseException]] = Counter()
                for _ in range(20):
                    asked = [client.ask(Echo(text="x" * 1000), deadline_s=0.02) for _ in range(250)]
                    kinds.update(type(e) for e in await asyncio.gather(*asked, return_exceptions=True))
                # zmq's queues on both sides and the kernel's buffer took what they could, the rest was refused.
                assert set(kinds) == {DeadlineExceeded, Busy}
                assert kinds[Busy] > 2500
                server.thaw()
                while await _is_busy(client):
                    await asyncio.sleep(0.01)

    run(main())


async def _is_busy(client: Bus) -> bool:
    try:
        return await client.ask(Echo(text="still there")) != "still there"
    except Busy:
        return True


def test_a_frame_larger_than_the_limit_drops_only_itself(tmp_path: Path) -> None:
    async def main() -> None:
        with peer(tmp_path, 1, "100000"):
            async with bus(tmp_path) as client:
                client.peer_changed("bustest", 1, True)
                assert await client.ask(Echo(text="before")) == "before"
                # Our side's limit is larger, so only the other side's stops it.
                with pytest.raises(DeadlineExceeded):
                    await client.ask(Echo(text="x" * 300_000), deadline_s=0.5)
                assert await client.ask(Echo(text="after"), deadline_s=5) == "after"
                with pytest.raises(RemoteError, match="more than the bus carries"):
                    await client.ask(Large(size=200_000))

    run(main())


def test_a_slow_subscriber_sees_a_resync_and_the_right_end(tmp_path: Path) -> None:
    async def main() -> None:
        with peer(tmp_path):
            async with bus(tmp_path) as client:
                places: dict[str, int] = {}
                resyncs: list[str] = []
                client.subscribe(Moved, lambda event: places.__setitem__(event.thing_id, event.place), resyncs.append)
                client.peer_changed("bustest", 1, True)
                await eventually(lambda: len(resyncs) == 1)
                # More than all queues between the two hold, while this loop does not read.
                flood = threading.Thread(target=_flood, args=(tmp_path,))
                flood.start()
                flood.join()
                await eventually(lambda: places == {str(thing): 1999 for thing in range(20)}, within_s=20)
                assert client.vitals()["event_gaps"] >= 1
                assert len(resyncs) >= 2

    run(main())


def _flood(run_dir: Path) -> None:
    """Ask for a flood, on a loop of its own."""

    async def main() -> None:
        async with bus(run_dir, "bustest2", epoch=9) as asker:
            asker.peer_changed("bustest", 1, True)
            await asker.ask(Publish(things=20, rounds=2000))

    asyncio.run(main())


def test_a_restarted_publisher_is_followed_and_strangers_are_not(tmp_path: Path) -> None:
    async def main() -> None:
        async with bus(tmp_path) as client:
            seen: list[object] = []
            client.subscribe(Moved, seen.append, lambda publisher: seen.append("resync"))
            with peer(tmp_path) as server:
                client.peer_changed("bustest", 1, True)
                await client.ask(Publish(things=1, rounds=2))
                await eventually(lambda: Moved(thing_id="0", place=1) in seen)
                server.kill()
                client.peer_changed("bustest", 1, False)
            seen.clear()
            with peer(tmp_path, 2):
                client.peer_changed("bustest", 2, True)
                await eventually(lambda: seen == ["resync"])
                await client.ask(Publish(things=1, rounds=1))
                await eventually(lambda: seen == ["resync", Moved(thing_id="0", place=0)])

    run(main())


def test_sockets_are_ours_alone_whatever_the_umask_says(tmp_path: Path) -> None:
    async def main() -> None:
        before = os.umask(0)
        try:
            async with bus(tmp_path):
                modes = {p.name: stat.S_IMODE(p.stat().st_mode) for p in tmp_path.iterdir()}
        finally:
            os.umask(before)
        assert modes == {"clientif.1.call": 0o700, "clientif.1.events": 0o700}

    run(main())


STRANGER = """
import os, sys, time, zmq
sys.path.insert(0, sys.argv[1])
from vdsm_mp.ipc.envelope import Request, Seal
path, token, uid = sys.argv[2:]
if int(uid) != os.getuid():
    os.setgroups([]); os.setgid(int(uid)); os.setuid(int(uid))
context = zmq.Context()
dealer = context.socket(zmq.DEALER)
dealer.connect("ipc://" + path)
body = b'{"text":"stranger"}'
for number in range(20):
    header = Request(1, "call", number, "clientif", 1, "bustest", "bustest.echo", time.monotonic() + 30, "", "")
    dealer.send_multipart([Seal(token).close(header, body), body])
print(dealer.poll(700))
context.destroy(linger=0)
"""


def stranger(run_dir: Path, token: str, uid: int) -> str:
    """What a foreign process gets out of the bus: the result of poll()."""
    script = textwrap.dedent(STRANGER)
    path = str(run_dir / "bustest.1.call")
    command = [sys.executable, "-c", script, str(REPOSITORY), path, token, str(uid)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    return done.stdout.strip()


def test_a_forged_token_gets_no_answer_and_a_good_one_does(tmp_path: Path) -> None:
    with peer(tmp_path) as server:
        assert stranger(tmp_path, TOKEN, os.getuid()) == "1"
        assert stranger(tmp_path, "guessed", os.getuid()) == "0"
        assert "refused a message: wrong seal" in server.end()


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")
def test_another_user_gets_no_answer_even_with_the_token_and_open_doors(tmp_path: Path) -> None:
    with peer(tmp_path) as server:
        # The directory's mode is the first line; take it away, and the socket's, to see the second.
        tmp_path.chmod(0o777)
        for part in tmp_path.parents:
            if str(part).startswith("/tmp/pytest-of-"):
                part.chmod(part.stat().st_mode | 0o055)
        (tmp_path / "bustest.1.call").chmod(0o777)
        assert stranger(tmp_path, TOKEN, 65534) == "0"
        assert stranger(tmp_path, TOKEN, 0) == "1"
        assert "refused" not in server.end()


def test_garbage_on_the_socket_harms_nobody(tmp_path: Path) -> None:
    async def main() -> None:
        with peer(tmp_path) as server:
            for garbage in (
                b"\0" * 1000,
                b"GET / HTTP/1.1\r\n\r\n",
                bytes(range(256)) * 40,
                b"\xff" + b"\0" * 8 + b"\x7f",
            ):
                _, writer = await asyncio.open_unix_connection(tmp_path / "bustest.1.call")
                writer.write(garbage)
                await asyncio.wait_for(writer.drain(), 5)
                writer.close()
            async with bus(tmp_path) as client:
                client.peer_changed("bustest", 1, True)
                assert await client.ask(Echo(text="fine")) == "fine"
            assert server.process.poll() is None

    run(main())


def test_a_worker_that_died_before_it_was_asked_answers_99(tmp_path: Path) -> None:
    async def main() -> None:
        async with bus(tmp_path) as client:
            with peer(tmp_path) as server:
                client.peer_changed("bustest", 1, True)
                assert await client.ask(Look()) == 1
                server.kill()
                client.peer_changed("bustest", 1, False)
                with pytest.raises(StillStarting):
                    await client.ask(Change(token="x"))

    run(main())


def test_a_call_in_flight_from_a_pool_thread_is_answered_when_the_worker_dies(tmp_path: Path) -> None:
    async def main() -> None:
        async with bus(tmp_path) as client:
            with peer(tmp_path) as server:
                client.peer_changed("bustest", 1, True)
                asked = asyncio.ensure_future(asyncio.to_thread(client.caller.ask, Change(token="a", takes_s=20)))
                await eventually(lambda: client.vitals()["in_flight"]["bustest"] == 1)
                await in_service(client, server)
                server.kill()
                client.peer_changed("bustest", 1, False)
                with pytest.raises(PeerRestarted):
                    await asked

    run(main())
