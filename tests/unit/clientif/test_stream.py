# SPDX-License-Identifier: Apache-2.0
"""A client's socket: one write a frame, frames kept apart for the engine, large ones in parts, and its end."""

import asyncio
import itertools
import socket
from collections.abc import Awaitable, Callable

import pytest

from vdsm_mp.clientif.stream import Stream


class SlowSocket(socket.socket):
    """A real socket that notes when what is written, and can take less than it is given."""

    def __init__(self, theirs: socket.socket) -> None:
        super().__init__(theirs.family, theirs.type, theirs.proto, theirs.detach())
        self.setblocking(False)
        self.writes: list[tuple[float, bytes]] = []
        self.most = 1 << 30

    def send(self, octets: bytes | memoryview, flags: int = 0) -> int:  # type: ignore[override]
        if not self.most:
            raise BlockingIOError
        sent = super().send(bytes(octets)[: self.most], flags)
        self.writes.append((asyncio.get_running_loop().time(), bytes(octets)[:sent]))
        return sent


Scene = Callable[[Stream, SlowSocket, socket.socket], Awaitable[None]]


def play(scene: Scene) -> None:
    async def run() -> None:
        ours, theirs = socket.socketpair()
        mine = SlowSocket(ours)
        stream = Stream(asyncio.get_running_loop(), mine)
        theirs.setblocking(False)
        with theirs, mine:
            async with asyncio.timeout(20):
                await scene(stream, mine, theirs)
            stream.close()

    asyncio.run(run())


async def read(sock: socket.socket, count: int) -> bytes:
    octets = b""
    while len(octets) < count:
        octets += await asyncio.get_running_loop().sock_recv(sock, 65536)
    return octets


def test_each_frame_is_one_write_made_at_once() -> None:
    async def scene(stream: Stream, mine: SlowSocket, theirs: socket.socket) -> None:
        for frame in (b"one", b"two", b"three"):
            stream.write(frame)
        assert [octets for _, octets in mine.writes] == [b"one", b"two", b"three"]
        assert stream.idle and stream.unread_bytes == 0

    play(scene)


def test_frames_to_an_engine_are_never_written_less_than_the_gap_apart() -> None:
    async def scene(stream: Stream, mine: SlowSocket, theirs: socket.socket) -> None:
        stream.gap_s = 0.005
        frames = [b"frame %d" % number for number in range(12)]
        for frame in frames[:6]:
            stream.write(frame)
        await read(theirs, len(b"".join(frames[:6])))
        for frame in frames[6:]:
            stream.write(frame)
        await read(theirs, len(b"".join(frames[6:])))
        assert [octets for _, octets in mine.writes] == frames
        times = [at for at, _ in mine.writes]
        # The loop may wake up earlier than asked by the resolution of its clock.
        assert min(b - a for a, b in itertools.pairwise(times)) > 0.0049
        assert stream.unread_bytes == 0

    play(scene)


def test_a_frame_that_does_not_fit_goes_on_when_there_is_room_and_before_the_next() -> None:
    async def scene(stream: Stream, mine: SlowSocket, theirs: socket.socket) -> None:
        drained = asyncio.Event()
        stream.start(lambda octets: None, lambda why: None, drained.set)
        mine.most = 1000
        large = bytes(range(256)) * 40
        stream.write(large)
        stream.write(b"next")
        assert stream.unread_bytes == len(large) - 1000 + 4
        assert await read(theirs, len(large) + 4) == large + b"next"
        await drained.wait()
        assert stream.idle and stream.unread_bytes == 0

    play(scene)


def test_the_gap_counts_from_the_end_of_a_large_frame() -> None:
    async def scene(stream: Stream, mine: SlowSocket, theirs: socket.socket) -> None:
        stream.gap_s = 0.005
        mine.most = 1000
        stream.write(b"x" * 5000)
        stream.write(b"next")
        await read(theirs, 5004)
        assert mine.writes[-1][0] - mine.writes[-2][0] > 0.0049

    play(scene)


def test_what_was_lost_is_told_once_and_not_in_the_middle_of_a_write() -> None:
    async def scene(stream: Stream, mine: SlowSocket, theirs: socket.socket) -> None:
        told: list[str] = []
        stream.start(lambda octets: None, told.append, lambda: None)
        theirs.close()
        stream.write(b"x")
        stream.write(b"y")
        assert told == []
        for _ in range(5):
            await asyncio.sleep(0)
        assert len(told) == 1
        stream.write(b"z")
        assert not stream.open

    play(scene)


def test_a_paused_stream_does_not_read() -> None:
    async def scene(stream: Stream, mine: SlowSocket, theirs: socket.socket) -> None:
        got = bytearray()
        stream.start(got.extend, lambda why: None, lambda: None)
        stream.pause()
        theirs.send(b"hello")
        for _ in range(5):
            await asyncio.sleep(0)
        assert not got
        stream.resume()
        while not got:
            await asyncio.sleep(0)
        assert got == b"hello"

    play(scene)


@pytest.mark.parametrize("way", ["reset", "close"])
def test_ending_it_ourselves_is_told_to_nobody(way: str) -> None:
    async def scene(stream: Stream, mine: SlowSocket, theirs: socket.socket) -> None:
        told: list[str] = []
        stream.start(lambda octets: None, told.append, lambda: None)
        mine.most = 0
        stream.write(b"x" * 10)
        getattr(stream, way)()
        await asyncio.sleep(0.01)
        assert told == [] and mine.fileno() == -1

    play(scene)
