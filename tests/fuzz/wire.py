# SPDX-License-Identifier: Apache-2.0
"""Mutates what clients send and throws it at the parsers and at a running door.

    python -m tests.fuzz.wire [--minutes 10] [--seed N]

Seeds are the files of `corpus/wire`: exchanges of real clients, and every input that once went wrong. An input that
breaks a rule is written there and named. Rules: nothing but `Broken` is raised, buffers stay within limits, pieces
make no difference, answers are JSON with at most one of result and error; the door goes on serving others.
"""

import argparse
import hashlib
import json
import logging
import random
import socket
import time
from pathlib import Path

from tests.support.door import Door, always, open_door
from vdsm_mp.wire import jsonrpc, stomp

CORPUS = Path(__file__).parent / "corpus" / "wire"
MAX_HEADER, MAX_FRAME = 4096, 16384

_WORDS = [
    b"CONNECT\n", b"SEND\n", b"SUBSCRIBE\n", b"UNSUBSCRIBE\n", b"DISCONNECT\n", b"ACK\n", b"STOMP\n", b"\n\n", b"\0",
    b"\n\r\n", b"\r\n", b"content-length:", b"content-length:-1\n", b"content-length:99999999999999999999999\n",
    b"content-length:0\n", b"heart-beat:1,1\n", b"heart-beat:x,y\n", b"accept-version:1.2\n", b"id:1\n", b"receipt:r\n",
    b"destination:jms.topic.vdsm_requests\n", b"reply-to:me\n", b"destination:me\n", b"\\c", b"\\", b":", b"\xff",
    b'{"jsonrpc":"2.0","method":"Host.ping2","id":1}', b"[", b"]", b"{", b"}", b'"id":', b'"params":', b"null", b"NaN",
    b"1e999", b'"\\ud800"', b"[" * 2000, b'{"a":' * 2000, b'"', b",", b"[[],[]]", b"\xef\xbb\xbf", b"1" * 5000,
]  # fmt: skip


def corpus() -> list[bytes]:
    return [path.read_bytes() for path in sorted(CORPUS.iterdir())]


def mutant(rng: random.Random, seeds: list[bytes]) -> bytes:
    """A seed after some accidents."""
    octets = bytearray(rng.choice(seeds))
    for _ in range(rng.choice((1, 1, 2, 4, 8))):
        at = rng.randrange(len(octets) + 1)
        kind = rng.randrange(7)
        if kind == 0 and octets:
            octets[min(at, len(octets) - 1)] = rng.randrange(256)
        elif kind == 1:
            octets[at:at] = rng.choice(_WORDS)
        elif kind == 2:
            del octets[at : at + rng.choice((1, 1, 2, 8, 64))]
        elif kind == 3:
            end = at + rng.randrange(64)
            octets[at:at] = bytes(octets[at:end]) * rng.choice((1, 2, 50))
        elif kind == 4:
            other = rng.choice(seeds)
            octets[at:] = other[rng.randrange(len(other) + 1) :]
        elif kind == 5:
            octets[at:at] = rng.randbytes(rng.choice((1, 2, 16)))
        else:
            octets += rng.choice(seeds)
    return bytes(octets[: 4 * MAX_FRAME])


def frames_of(octets: bytes, cuts: list[int]) -> tuple[list[stomp.Frame], bool]:
    """(frames, whether the stream broke) when it arrives in these pieces."""
    parser = stomp.Parser(max_header=MAX_HEADER, max_frame=MAX_FRAME)
    frames: list[stomp.Frame] = []
    at = 0
    try:
        for end in [*cuts, len(octets)]:
            parser.feed(octets[at:end])
            while (frame := parser.next()) is not None:
                frames.append(frame)
            assert parser.pending <= MAX_FRAME + (end - at), "the buffer grows"
            at = end
    except stomp.Broken:
        return frames, True
    return frames, False


def judge(octets: bytes, rng: random.Random) -> str:
    """The rules for parsers; which frames and requests it had. Raises: AssertionError, or whatever no parser should."""
    mark = []
    frames, broke = frames_of(octets, [])
    cuts = sorted(rng.randrange(len(octets) + 1) for _ in range(5))
    again, broke_again = frames_of(octets, cuts)
    assert (frames, broke) == (again, broke_again), f"pieces make a difference: {cuts}"
    for frame in frames:
        mark.append(frame.command)
        for item in jsonrpc.parse(frame.body).items:
            if isinstance(item, jsonrpc.Refused):
                answer = json.loads(jsonrpc.error(item.id, item.code, item.message))
                mark.append(f"{item.code} {item.message[:30]}")
                assert ("error" in answer) and ("result" not in answer)
            else:
                json.loads(jsonrpc.result(item.id or b"null", b"true"))
                jsonrpc.printable(item.method)
    return f"{sorted(set(mark))} {broke}"


def throw(door: Door, octets: bytes) -> None:
    """Send it to the door and hang up; the door must not mind."""
    with socket.create_connection(door.address, timeout=10) as sock:
        try:
            sock.sendall(octets)
            sock.shutdown(socket.SHUT_WR)
            while sock.recv(65536):
                pass
        except (ConnectionError, TimeoutError):
            pass


def keep(octets: bytes) -> Path:
    """Write a bad input into the corpus."""
    path = CORPUS / f"found-{hashlib.sha256(octets).hexdigest()[:12]}"
    path.write_bytes(octets)
    return path


def run(seconds: float, seed: int, *, most: int | None = None) -> int:
    """Try mutants; the number of them. Raises: AssertionError with the file that shows what went wrong."""
    rng = random.Random(seed)
    seeds = corpus()
    until = time.monotonic() + seconds
    tried = 0
    with open_door(None, answers={"Host.getVMList": always([])}) as door, door.client(None) as witness:
        while time.monotonic() < until and (most is None or tried < most):
            octets = mutant(rng, seeds)
            tried += 1
            try:
                judge(octets, rng)
                if tried % 40 == 0:
                    throw(door, octets)
                    assert witness.call("Host.ping2", timeout_s=10) is True
            except Exception as error:
                raise AssertionError(f"{keep(octets)}, seed {seed}: {error!r}") from error
    return tried


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    print(f"seed {options.seed}", flush=True)
    print(f"{run(options.minutes * 60, options.seed)} inputs, no rule broken")


if __name__ == "__main__":
    main()
