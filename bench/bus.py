# SPDX-License-Identifier: Apache-2.0
"""What a crossing of the bus costs, beside bare ZeroMQ on the same machine in the same run.

    python -m bench.bus [--seconds 1.5] [--json FILE]

Each server is a process of its own. "bare" is a blocking DEALER/ROUTER echo, "zmq.asyncio" the same with the
asyncio integration of pyzmq, "bus loop" a verb answered on the event loop, "bus read" one answered in the pool.
Rounds of all four are interleaved, so that what else the machine does hits all alike; figures are medians of rounds.
"""

import argparse
import asyncio
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import zmq
import zmq.asyncio

from tests.support.bus import TOKEN, Peer
from vdsm_mp.ipc.node import Bus

BODY = b'{"text":"0123456789012345678901234567890123456789"}'
ROUNDS = 5
DEPTHS = (1, 8, 32)

_BARE = """
import sys, zmq
router = zmq.Context().socket(zmq.ROUTER)
router.bind(sys.argv[1])
print("ready", flush=True)
while True:
    router.send_multipart(router.recv_multipart())
"""
_ASYNCIO = """
import asyncio, sys, zmq, zmq.asyncio
async def main():
    router = zmq.asyncio.Context().socket(zmq.ROUTER)
    router.bind(sys.argv[1])
    print("ready", flush=True)
    while True:
        await router.send_multipart(await router.recv_multipart())
asyncio.run(main())
"""

Ask = Callable[[], Awaitable[object]]


def _server(script: str, address: str) -> "subprocess.Popen[bytes]":
    made = subprocess.Popen([sys.executable, "-c", script, address], stdout=subprocess.PIPE)
    assert made.stdout is not None and made.stdout.readline() == b"ready\n"
    return made


def _percentile(values: list[float], part: float) -> float:
    return sorted(values)[min(len(values) - 1, int(len(values) * part))]


async def _drive(ask: Ask, depth: int, seconds: float) -> dict[str, float]:
    """`depth` askers, each waiting for its answer before it asks again."""
    taken: list[float] = []
    until = time.perf_counter() + seconds

    async def one() -> None:
        while (began := time.perf_counter()) < until:
            await ask()
            taken.append(time.perf_counter() - began)

    cpu = time.process_time()
    began = time.perf_counter()
    await asyncio.gather(*(one() for _ in range(depth)))
    lasted = time.perf_counter() - began
    return {
        "per_s": len(taken) / lasted,
        "p50_ms": _percentile(taken, 0.5) * 1000,
        "p99_ms": _percentile(taken, 0.99) * 1000,
        "client_cpu_ms": (time.process_time() - cpu) * 1000 / len(taken),
    }


def _drive_blocking(dealer: "zmq.Socket[bytes]", seconds: float) -> dict[str, float]:
    taken: list[float] = []
    until = time.perf_counter() + seconds
    cpu = time.process_time()
    began = time.perf_counter()
    while (asked := time.perf_counter()) < until:
        dealer.send_multipart([b"header", BODY])
        dealer.recv_multipart()
        taken.append(time.perf_counter() - asked)
    return {
        "per_s": len(taken) / (time.perf_counter() - began),
        "p50_ms": _percentile(taken, 0.5) * 1000,
        "p99_ms": _percentile(taken, 0.99) * 1000,
        "client_cpu_ms": (time.process_time() - cpu) * 1000 / len(taken),
    }


class _AsyncioClient:
    """The least that lets several ask at once over one zmq.asyncio DEALER."""

    def __init__(self, dealer: zmq.asyncio.Socket) -> None:
        self._dealer = dealer
        self._waiting: dict[bytes, asyncio.Future[bytes]] = {}
        self._next = 0
        self._reader = asyncio.ensure_future(self._read())

    async def ask(self) -> bytes:
        self._next += 1
        number = b"%d" % self._next
        future = self._waiting[number] = asyncio.get_running_loop().create_future()
        await self._dealer.send_multipart([number, BODY])
        return await future

    async def _read(self) -> None:
        while True:
            number, body = await self._dealer.recv_multipart()
            self._waiting.pop(number).set_result(body)

    def close(self) -> None:
        self._reader.cancel()


async def measure(seconds: float) -> dict[str, dict[str, float]]:
    """{"bus loop x8": {"per_s", "p50_ms", "p99_ms", "client_cpu_ms"}}, medians over rounds."""
    with tempfile.TemporaryDirectory() as made:
        run_dir = Path(made)
        servers = [_server(_BARE, f"ipc://{made}/bare"), _server(_ASYNCIO, f"ipc://{made}/asyncio")]
        peer = Peer(run_dir, 1)
        context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        bare = context.socket(zmq.DEALER)
        bare.connect(f"ipc://{made}/bare")
        through_asyncio = zmq.asyncio.Socket(context, zmq.DEALER)
        through_asyncio.connect(f"ipc://{made}/asyncio")
        client = _AsyncioClient(through_asyncio)
        bus = Bus("clientif", run_dir, epoch=1, token=TOKEN, calls=("bustest",))
        await bus.start()
        bus.peer_changed("bustest", 1, True)
        rounds: dict[str, list[dict[str, float]]] = {}
        try:
            for _ in range(ROUNDS):
                step_s = seconds / ROUNDS
                rounds.setdefault("bare x1", []).append(_drive_blocking(bare, step_s))
                for depth in DEPTHS:
                    asks: dict[str, Ask] = {
                        "zmq.asyncio": client.ask,
                        "bus loop": lambda: bus.call_raw("bustest.echo", BODY),
                        "bus read": lambda: bus.call_raw("bustest.look", b""),
                    }
                    for name, ask in asks.items():
                        rounds.setdefault(f"{name} x{depth}", []).append(await _drive(ask, depth, step_s))
        finally:
            client.close()
            through_asyncio.close(linger=0)
            bare.close(linger=0)
            await bus.stop()
            peer.end()
            for server in servers:
                server.kill()
                server.communicate()
            context.term()
    return {name: {key: statistics.median(r[key] for r in got) for key in got[0]} for name, got in rounds.items()}


def ratios(figures: dict[str, dict[str, float]]) -> dict[str, float]:
    """What one crossing costs in bare round trips of the same run; smaller is better."""
    alone = figures["zmq.asyncio x1"]["p50_ms"]
    return {
        "crossing / zmq.asyncio round trip, p50": figures["bus loop x1"]["p50_ms"] / alone,
        "crossing with a pool thread / zmq.asyncio round trip, p50": figures["bus read x1"]["p50_ms"] / alone,
        "crossing / bare round trip, p50": figures["bus loop x1"]["p50_ms"] / figures["bare x1"]["p50_ms"],
        "client CPU of a crossing / of zmq.asyncio, x32": (
            figures["bus loop x32"]["client_cpu_ms"] / figures["zmq.asyncio x32"]["client_cpu_ms"]
        ),
        "rate of crossings / of zmq.asyncio, x32": (
            figures["bus loop x32"]["per_s"] / figures["zmq.asyncio x32"]["per_s"]
        ),
    }


def table(figures: dict[str, dict[str, float]]) -> str:
    lines = [f"{'':18} {'per s':>8} {'p50 ms':>8} {'p99 ms':>8} {'client CPU ms':>14}"]
    for name, row in sorted(figures.items(), key=lambda item: (int(item[0].rpartition("x")[2]), item[0])):
        numbers = f"{row['per_s']:8.0f} {row['p50_ms']:8.3f} {row['p99_ms']:8.3f} {row['client_cpu_ms']:14.4f}"
        lines.append(f"{name:18} {numbers}")
    lines += [f"{value:6.2f}  {name}" for name, value in ratios(figures).items()]
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=1.5, help="per figure, over all rounds")
    parser.add_argument("--json", type=Path, help="write the figures there, too")
    options = parser.parse_args()
    figures = asyncio.run(measure(options.seconds))
    print(table(figures))
    if options.json is not None:
        result: dict[str, Any] = {"figures": figures, "ratios": ratios(figures)}
        result["cpu_s"] = sum(resource.getrusage(resource.RUSAGE_SELF)[:2])
        options.json.write_text(json.dumps(result, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
