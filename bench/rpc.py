# SPDX-License-Identifier: Apache-2.0
"""Calls through the door over TLS, beside a bare asyncio TLS echo and bare ZeroMQ in the same run.

    python -m bench.rpc [--seconds 2] [--rounds 3] [--connections 1,8,32] [--json FILE]

Every server is a process of its own, the client another. "echo" is an asyncio protocol that sends back what comes;
it gets the very frames that the door gets. "ping2" is answered by the door, "loop" and "pool" are verbs of another
worker that cross the bus, answered on its loop and in its pool. "zmq" is a bare DEALER/ROUTER round trip over
zmq.asyncio. New connections are compared with `openssl s_server`, too, which has the same certificate and no Python.
Rounds are interleaved, so that what else the machine does hits all alike; figures are medians.
"""

import argparse
import asyncio
import json
import selectors
import socket
import ssl
import statistics
import subprocess
import sys
import tempfile
import time
import types
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import zmq
import zmq.asyncio

from bench.processes import cpu_s
from tests.support.certificates import make_authority
from tests.support.eventually import eventually
from tests.support.house import free_port
from vdsm_mp.api.verb import Lane, Message, handles, verb
from vdsm_mp.clientif import builtin
from vdsm_mp.clientif.gate import Authorisation, Gate
from vdsm_mp.clientif.limits import Limits
from vdsm_mp.clientif.router import Router
from vdsm_mp.clientif.server import Policy, Server
from vdsm_mp.clientif.subscriptions import Broker
from vdsm_mp.ipc.dispatch import Dispatch
from vdsm_mp.ipc.node import Bus
from vdsm_mp.wire import jsonrpc, stomp
from vdsm_mp.wire.tls import Files, ServerTls, client_context, server_context

TOKEN = "bench"
#: Clients that come at the same time: enough to keep the server busy while one of them computes.
AT_ONCE = 4
QUEUE = "jms.topic.vdsm_requests"
REPLY_TO = "2d7f5a40-0c50-4a5e-b5a8-7d0f55d0c203"


@verb("bench.loop", owner="benchpeer", reply=str, lane=Lane.LOOP, safe=True, deadline_s=30)
class OnLoop(Message, frozen=True, kw_only=True):
    """Answered from memory."""

    text: str = ""


@verb("bench.pool", owner="benchpeer", reply=str, lane=Lane.READ, safe=True, deadline_s=30)
class InPool(Message, frozen=True, kw_only=True):
    """Answered in the pool."""

    text: str = ""


@handles(OnLoop)
def on_loop(ask: OnLoop) -> str:
    return ask.text


@handles(InPool)
def in_pool(ask: InPool) -> str:
    return ask.text


# Servers, each the whole life of a process. They serve until they are killed.


async def serve_echo(listener: socket.socket, files: Files) -> None:
    class Echo(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            self.transport = transport

        def data_received(self, data: bytes) -> None:
            self.transport.write(data)  # type: ignore[attr-defined]

    await asyncio.get_running_loop().create_server(Echo, sock=listener, ssl=server_context(files))
    await asyncio.Event().wait()


async def serve_door(listener: socket.socket, files: Files, run_dir: Path) -> None:
    bus = Bus("clientif", run_dir, epoch=1, token=TOKEN, calls=("benchpeer",))
    await bus.start()
    bus.peer_changed("benchpeer", 1, True)
    gate = Gate({"benchpeer"})
    gate.peer_changed("benchpeer", True)
    server = Server(
        listener,
        Policy((QUEUE,), ServerTls(files)),
        gate=gate,
        authorisation=Authorisation(),
        router=Router(bus, gate, builtin.ANSWERS, Limits()),
        broker=Broker("jms.queue.events"),
        limits=Limits(),
    )
    server.open()
    await asyncio.Event().wait()


async def serve_peer(run_dir: Path) -> None:
    bus = Bus("benchpeer", run_dir, epoch=1, token=TOKEN, calls=(), callers=("clientif",))
    await bus.start()
    module = types.ModuleType("bench_handlers")
    module.on_loop, module.in_pool = on_loop, in_pool  # type: ignore[attr-defined]
    bus.set_handlers(Dispatch("benchpeer", [module], []))
    await asyncio.Event().wait()


async def serve_zmq(path: str) -> None:
    router = zmq.asyncio.Context().socket(zmq.ROUTER)
    router.bind(path)
    while True:
        await router.send_multipart(await router.recv_multipart())


@contextmanager
def process(name: str, *arguments: str, listener: socket.socket | None = None) -> Iterator[int]:
    """A server of this file in a process of its own; its pid."""
    fds = () if listener is None else (listener.fileno(),)
    argv = [sys.executable, "-m", "bench.rpc", "--serve", name, *arguments, *map(str, fds)]
    made = subprocess.Popen(argv, pass_fds=fds)
    try:
        yield made.pid
    finally:
        made.kill()
        made.wait(10)


@contextmanager
def openssl_server(files: Files) -> Iterator[tuple[int, int]]:
    """OpenSSL's own server with the agent's demands; it answers with lines turned around. (pid, port)"""
    port = free_port()
    argv = ["openssl", "s_server", "-rev", "-accept", f"127.0.0.1:{port}", "-cert", str(files.cert), "-key"]
    argv += [str(files.key), "-CAfile", str(files.ca), "-Verify", "1", "-verify_return_error", "-num_tickets", "0"]
    made = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        eventually(lambda: _listens(port))
        yield made.pid, port
    finally:
        made.kill()
        made.wait(10)


def _listens(port: int) -> bool:
    with socket.socket() as sock:
        return sock.connect_ex(("127.0.0.1", port)) == 0


# The client


class Connection:
    """One client's connection: a frame out, a frame in."""

    def __init__(self, port: int, context: ssl.SSLContext) -> None:
        sock = socket.create_connection(("127.0.0.1", port), timeout=30)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sock = context.wrap_socket(sock, server_hostname="x")
        self.due = self.sent = 0.0
        self.parser = stomp.Parser()

    def subscribe(self) -> None:
        connect = stomp.encode("CONNECT", (("accept-version", "1.2"), ("heart-beat", "0,24000")))
        self.sock.sendall(connect)
        self.sock.sendall(stomp.encode("SUBSCRIBE", (("destination", REPLY_TO), ("id", "1"))))
        while b"\0" not in self.sock.recv(4096):
            pass

    def greet(self) -> None:
        """What `subscribe` is to an echo."""
        self.sock.sendall(stomp.encode("CONNECT"))
        self.sock.recv(4096)

    def ask(self, frame: bytes) -> None:
        self.sent = time.perf_counter()
        self.sock.send(frame)

    def answered(self) -> bool:
        try:
            octets = self.sock.recv(65536)
        except ssl.SSLWantReadError:
            return False
        self.parser.feed(octets)
        frame = self.parser.next()
        if frame is None:
            return False
        if b'"error"' in frame.body:
            raise SystemExit(f"the door answers {frame.body!r}")
        return True


@dataclass
class Figures:
    per_s: float
    p50_ms: float
    p99_ms: float
    cpu_ms: float


def figures(latencies: list[float], took_s: float, cpu: float) -> Figures:
    latencies.sort()
    count = len(latencies)
    return Figures(
        round(count / took_s, 1),
        round(latencies[count // 2] * 1e3, 3),
        round(latencies[int(count * 0.99)] * 1e3, 3),
        round(cpu / count * 1e3, 4),
    )


def call_frame(method: str) -> bytes:
    body = jsonrpc.request(method, b"{}", b'"7b1b6a56-52a5-4f0c-8f43-1d1c0e6a9d10"')
    headers = (("destination", QUEUE), ("reply-to", REPLY_TO))
    return stomp.with_body(stomp.head("SEND", headers), body)


def closed_loop(connections: list[Connection], frame: bytes, seconds: float, pids: list[int]) -> Figures:
    """Each connection asks again as soon as it has its answer."""
    with selectors.DefaultSelector() as selector:
        for connection in connections:
            connection.sock.setblocking(False)
            selector.register(connection.sock, selectors.EVENT_READ, connection)
        latencies: list[float] = []
        before = cpu_s(pids)
        began = time.perf_counter()
        until = began + seconds
        for connection in connections:
            connection.ask(frame)
        open_calls = len(connections)
        while open_calls:
            for key, _ in selector.select(10):
                connection = key.data
                if connection.answered():
                    now = time.perf_counter()
                    latencies.append(now - connection.sent)
                    if now < until:
                        connection.ask(frame)
                    else:
                        open_calls -= 1
        took_s = time.perf_counter() - began
    return figures(latencies, took_s, cpu_s(pids) - before)


def open_loop(connections: list[Connection], frame: bytes, seconds: float, rate: float, pids: list[int]) -> Figures:
    """Calls at a fixed rate over idle connections; latency counts from when the call was due."""
    with selectors.DefaultSelector() as selector:
        for connection in connections:
            connection.sock.setblocking(False)
            selector.register(connection.sock, selectors.EVENT_READ, connection)
        free = list(connections)
        latencies: list[float] = []
        before = cpu_s(pids)
        began = time.perf_counter()
        asked, total = 0, int(seconds * rate)
        while len(latencies) < total:
            now = time.perf_counter()
            while asked < total and free and now >= (due := began + asked / rate):
                connection = free.pop()
                connection.ask(frame)
                connection.due = due
                asked += 1
            wait = max(0.0, began + asked / rate - time.perf_counter()) if asked < total and free else 1.0
            for key, _ in selector.select(wait):
                if key.data.answered():
                    latencies.append(time.perf_counter() - key.data.due)
                    free.append(key.data)
        took_s = time.perf_counter() - began
    return figures(latencies, took_s, cpu_s(pids) - before)


def new_connections(
    port: int,
    context: ssl.SSLContext,
    seconds: float,
    pid: int,
    first: Callable[[Connection], None],
    at_once: int = 1,
) -> Figures:
    """TCP, TLS and the first answer, one after the other in each of `at_once` threads."""
    before = cpu_s([pid])
    began = time.perf_counter()

    def come(_: int) -> list[float]:
        latencies: list[float] = []
        while time.perf_counter() - began < seconds:
            started = time.perf_counter()
            connection = Connection(port, context)
            first(connection)
            latencies.append(time.perf_counter() - started)
            connection.sock.close()
        return latencies

    with ThreadPoolExecutor(at_once) as threads:
        latencies = [one for each in threads.map(come, range(at_once)) for one in each]
    return figures(latencies, time.perf_counter() - began, cpu_s([pid]) - before)


async def zmq_round_trips(path: str, seconds: float) -> Figures:
    context = zmq.asyncio.Context()
    dealer = context.socket(zmq.DEALER)
    dealer.connect(path)
    latencies: list[float] = []
    began = time.perf_counter()
    while time.perf_counter() - began < seconds:
        started = time.perf_counter()
        await dealer.send_multipart([b"header" * 20, b"{}"])
        await dealer.recv_multipart()
        latencies.append(time.perf_counter() - started)
    took_s = time.perf_counter() - began
    context.destroy(linger=0)
    return figures(latencies, took_s, 0.0)


def median(rounds: list[Figures]) -> Figures:
    columns = zip(*(asdict(one).values() for one in rounds), strict=True)
    return Figures(*(round(statistics.median(values), 4) for values in columns))


def measure(seconds: float, rounds: int, counts: list[int]) -> dict[str, Figures]:
    found: dict[str, list[Figures]] = {}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        files = make_authority(folder / "ca").issue("host", "127.0.0.1", rsa=2048)
        context = client_context(files)
        run_dir = folder / "run"
        run_dir.mkdir(mode=0o700)
        echo, door = (stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=128)) for _ in range(2))
        pki = str(files.key.parent.parent)
        peer_pid = stack.enter_context(process("peer", str(run_dir)))
        echo_pid = stack.enter_context(process("echo", pki, listener=echo))
        door_pid = stack.enter_context(process("door", pki, str(run_dir), listener=door))
        openssl_pid, openssl_port = stack.enter_context(openssl_server(files))
        zmq_path = f"ipc://{folder}/bare"
        stack.enter_context(process("zmq", zmq_path))
        echo_port, door_port = echo.getsockname()[1], door.getsockname()[1]
        frames = {"ping2": call_frame("Host.ping2"), "loop": call_frame("bench.loop"), "pool": call_frame("bench.pool")}

        def pool(port: int, count: int, subscribe: bool) -> list[Connection]:
            made = [Connection(port, context) for _ in range(count)]
            for connection in made:
                stack.callback(connection.sock.close)
                if subscribe:
                    connection.subscribe()
            return made

        echoing, calling = pool(echo_port, max(counts), False), pool(door_port, max(counts), True)
        for _ in range(rounds):
            for count in counts:
                name = f"x{count}"
                one = closed_loop(echoing[:count], frames["ping2"], seconds, [echo_pid])
                found.setdefault(f"echo {name}", []).append(one)
                for verb_name, frame in frames.items():
                    pids = [door_pid] if verb_name == "ping2" else [door_pid, peer_pid]
                    one = closed_loop(calling[:count], frame, seconds, pids)
                    found.setdefault(f"{verb_name} {name}", []).append(one)
            found.setdefault("zmq", []).append(asyncio.run(zmq_round_trips(zmq_path, seconds)))
            for verb_name in ("ping2", "loop"):
                one = open_loop(calling, frames[verb_name], seconds, 1000.0, [door_pid])
                found.setdefault(f"{verb_name} open loop 1000/s", []).append(one)
            one = new_connections(echo_port, context, seconds, echo_pid, Connection.greet)
            found.setdefault("echo, new connections", []).append(one)
            one = new_connections(door_port, context, seconds, door_pid, Connection.subscribe)
            found.setdefault("new connections", []).append(one)
            for name, port, pid, first in (
                ("echo, ", echo_port, echo_pid, Connection.greet),
                ("", door_port, door_pid, Connection.subscribe),
            ):
                one = new_connections(port, context, seconds, pid, first, AT_ONCE)
                found.setdefault(f"{name}new connections, {AT_ONCE} at once", []).append(one)
            one = new_connections(openssl_port, context, seconds, openssl_pid, Connection.greet)
            found.setdefault("openssl, new connections", []).append(one)
    return {name: median(each) for name, each in found.items()}


def ratios(found: dict[str, Figures], counts: list[int]) -> dict[str, float]:
    said = {}
    for count in counts:
        echo = found[f"echo x{count}"]
        for name in ("ping2", "loop", "pool"):
            said[f"{name} x{count}, part of the echo's rate"] = found[f"{name} x{count}"].per_s / echo.per_s
    crossing = found[f"loop x{counts[0]}"].p50_ms - found[f"ping2 x{counts[0]}"].p50_ms
    said["a crossing (loop), in bare zmq.asyncio round trips"] = crossing / found["zmq"].p50_ms
    crossing = found[f"pool x{counts[0]}"].p50_ms - found[f"ping2 x{counts[0]}"].p50_ms
    said["a crossing (pool), in bare zmq.asyncio round trips"] = crossing / found["zmq"].p50_ms
    fresh = found["new connections"]
    said["new connections, part of the echo's rate"] = fresh.per_s / found["echo, new connections"].per_s
    said["new connections, part of OpenSSL's own rate"] = fresh.per_s / found["openssl, new connections"].per_s
    said["server CPU of a new connection / OpenSSL's own"] = fresh.cpu_ms / found["openssl, new connections"].cpu_ms
    return {name: round(value, 2) for name, value in said.items()}


def serve(name: str, arguments: list[str]) -> None:
    if name in ("echo", "door"):
        listener = socket.socket(fileno=int(arguments[-1]))
        files = Files.below(arguments[0])
        if name == "echo":
            asyncio.run(serve_echo(listener, files))
        else:
            asyncio.run(serve_door(listener, files, Path(arguments[1])))
    elif name == "peer":
        asyncio.run(serve_peer(Path(arguments[0])))
    else:
        asyncio.run(serve_zmq(arguments[0]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--connections", default="1,8,32")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--serve", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve(options.serve[0], options.serve[1:])
        return
    counts = sorted(int(count) for count in options.connections.split(","))
    found = measure(options.seconds, options.rounds, counts)
    print(f"{'':28}{'calls/s':>10}{'p50 ms':>9}{'p99 ms':>9}{'server CPU ms/call':>21}")
    for name, one in found.items():
        print(f"{name:28}{one.per_s:10.0f}{one.p50_ms:9.2f}{one.p99_ms:9.2f}{one.cpu_ms:21.3f}")
    said = ratios(found, counts)
    for name, value in said.items():
        print(f"{name:54}{value:8.2f}")
    if options.json:
        options.json.write_text(
            json.dumps({"figures": {k: asdict(v) for k, v in found.items()}, "ratios": said}, indent=1)
        )


if __name__ == "__main__":
    main()
