# SPDX-License-Identifier: Apache-2.0
"""Ten thousand clients at once, made by several processes: what they cost the door, and what its limits do to them.

    python -m tests.faults.crowd [--count 10000] [--processes 4] [--json FILE]

Needs root and descriptors for one process's share. A whole house runs, with idle rooms behind the real door: first with
the limits as shipped, then with limits raised to the count, so that the cost of one connection can be told. Sources are
addresses of 127.0.0.0/8, sixty for each process.

    silent   TCP connections that say nothing
    inside   TLS with a good certificate, CONNECT with heart-beats, SUBSCRIBE to events; they stay
    slow     a tenth of them, each with 1 MiB on the way that it does not read
    hellos   the beginning of a handshake, then an octet a second of the rest
    giants   a hundredth of them, inside, each with a frame of 15 MiB that never ends
"""

import argparse
import contextlib
import json
import select
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from tests.faults import report
from tests.faults.witness import Witness, raise_descriptors, rss_mib
from tests.support.eventually import eventually
from tests.support.house import RunningHouse
from vdsm_mp.wire import stomp
from vdsm_mp.wire.tls import Files, client_context

KINDS = ("silent", "inside", "slow", "hellos", "giants")
#: What a slow reader lets lie.
UNREAD_BYTES = 1024 * 1024
#: What a giant sends of a frame that is announced as a little longer.
GIANT_BYTES = 15 * 1024 * 1024
#: There are not so many of those that are costly to make: what the kernel holds for a slow one is not the door's.
_PARTS = {"slow": 10, "giants": 100}
#: What the door may hold more for all of them, MiB: {(limits, kind): most}. Beyond ten thousand nobody has measured.
MEMORY_MIB = {
    ("as shipped", "silent"): 30.0,
    ("as shipped", "inside"): 60.0,
    ("as shipped", "slow"): 100.0,
    ("as shipped", "hellos"): 70.0,
    ("as shipped", "giants"): 160.0,
    ("raised", "silent"): 40.0,
    ("raised", "inside"): 400.0,
    ("raised", "slow"): 330.0,
    ("raised", "hellos"): 700.0,
    ("raised", "giants"): 160.0,
}
#: A good client's ping meanwhile, p99 in ms.
PING_MS = 1000.0
_HELLO = bytes.fromhex("16030100c8010000c40303") + b"\x5a" * 200
_MADE_S = 600.0


@dataclass
class Row:
    """Memory in MiB; milliseconds of a well-behaved client's pings before and meanwhile."""

    limits: str
    kind: str
    asked: int
    made: int
    inside: int
    took_s: float
    before_mib: float
    worst_mib: float
    after_mib: float
    p99_ms: float
    calm_p99_ms: float
    unread_mib: float

    @property
    def each_kib(self) -> float:
        return (self.worst_mib - self.before_mib) * 1024 / max(1, self.inside)


# One process of the crowd


def join(port: int, kind: str, count: int, number: int, files: Files) -> None:
    """Make so many connections, say how many there are, and keep them until standard input ends."""
    raise_descriptors(count + 100)
    context = client_context(files)
    made: list[socket.socket] = []
    for at in range(count):
        # Turned away by a limit: not made.
        with contextlib.suppress(OSError):
            made.append(_one(port, kind, f"127.0.{number + 1}.{at % 60 + 1}", context, f"{number}-{at}"))
    print(len(made), flush=True)
    said = len(_HELLO) // 2
    while not select.select([sys.stdin], [], [], 1.0)[0]:
        if kind == "hellos" and said < len(_HELLO):
            for sock in made:
                with contextlib.suppress(OSError):  # closed by the door meanwhile
                    sock.send(_HELLO[said : said + 1])
            said += 1


def _one(port: int, kind: str, source: str, context: ssl.SSLContext, name: str) -> socket.socket:
    sock = socket.socket()
    if kind == "slow":
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.settimeout(60)
    sock.bind((source, 0))
    sock.connect(("127.0.0.1", port))
    if kind == "silent":
        return sock
    if kind == "hellos":
        sock.sendall(_HELLO[: len(_HELLO) // 2])
        return sock
    sock = context.wrap_socket(sock)
    sock.sendall(b"CONNECT\naccept-version:1.2\nheart-beat:0,15000\n\n\0")
    sock.sendall(b"SUBSCRIBE\ndestination:jms.queue.events\nid:1\n\n\0")
    if not sock.recv(4096).startswith(b"CONNECTED"):
        raise ConnectionResetError("not let in")
    if kind == "giants":
        head = f"SEND\ndestination:{name}\ncontent-length:{GIANT_BYTES + 1000}\n\n".encode()
        with contextlib.suppress(OSError):  # dropped on the way: it had its effect
            sock.sendall(head + bytes(GIANT_BYTES))
    if kind == "slow":
        # To itself, by the small broker.
        sock.sendall(stomp.encode("SUBSCRIBE", (("destination", name), ("id", "2"))))
        sock.sendall(stomp.encode("SEND", (("destination", name),), b"x" * UNREAD_BYTES))
    return sock


@contextlib.contextmanager
def crowd(house: RunningHouse, kind: str, count: int, processes: int) -> Iterator[int]:
    """How many connections were made; they last as long as the block."""
    assert house.files is not None
    share = count // processes
    argv = [sys.executable, "-m", "tests.faults.crowd", "--join", kind, "--pki", str(house.files.key.parents[1])]
    running = [
        subprocess.Popen(
            [*argv, "--port", str(house.port), "--count", str(share), "--number", str(number)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )
        for number in range(processes)
    ]  # fmt: skip
    try:
        made = 0
        for process in running:
            assert process.stdout is not None
            made += int(process.stdout.readline())
        yield made
    finally:
        for process in running:
            process.communicate()


# The measurement


def measure(house: RunningHouse, limits: str, kind: str, count: int, processes: int) -> Row:
    pid = house.pid_of("clientif")
    witness = Witness(house, pid)
    try:
        time.sleep(3)
        _, calm_p99, _ = witness.take()
        before = rss_mib(pid)
        began = time.monotonic()
        with crowd(house, kind, count, processes) as made:
            took = time.monotonic() - began
            time.sleep(3)
            vitals = house.worker("clientif")["vitals"]
            inside = int(vitals["connections"]) - 1
            unread = int(vitals["unread_bytes"]) / 2**20
            _, p99, worst = witness.take()
        eventually(lambda: house.worker("clientif")["vitals"]["connections"] <= 2, within_s=60)
        time.sleep(4)
        assert not witness.lost, f"the witness was disturbed: {witness.lost}"
        assert house.pid_of("clientif") == pid, "the door was restarted"
        return Row(limits, kind, count, made, inside, took, before, worst, rss_mib(pid), p99, calm_p99, unread)
    finally:
        witness.stop()


TABLES = {"as shipped": "tests.support.door_table", "raised": "tests.support.crowd_table"}


def run(count: int, processes: int, tables: Sequence[str] = tuple(TABLES), kinds: Sequence[str] = KINDS) -> list[Row]:
    raise_descriptors(count + 600)
    rows = []
    for limits in tables:
        for kind in kinds:
            with RunningHouse.start(tls=True, table=TABLES[limits]) as house:
                eventually(lambda house=house: house.call("Host.ping2"))
                wanted = max(processes, count // _PARTS.get(kind, 1))
                rows.append(measure(house, limits, kind, wanted, processes))
                show(rows[-1:])
    return rows


def as_report(rows: Sequence[Row]) -> list[report.Row]:
    """The same as rows of a fault run, with what the door may hold more."""
    found = []
    for row in rows:
        title = f"{row.asked} clients at once: {row.kind}, limits {row.limits}"
        limits = {"memory MiB": MEMORY_MIB[row.limits, row.kind], "ping p99 ms": PING_MS}
        kept = report.Row(f"F1d {row.limits}, {row.kind}", title, wanted=1, executed=int(row.made > 0), limits=limits)
        kept.measures = {
            "memory MiB": [row.worst_mib - row.before_mib], "kept MiB": [row.after_mib - row.before_mib],
            "made": [float(row.made)], "inside": [float(row.inside)], "ping p99 ms": [row.p99_ms],
            "calm ping p99 ms": [row.calm_p99_ms],
        }  # fmt: skip
        kept.judge()
        found.append(kept)
    return found


def show(rows: Sequence[Row]) -> None:
    for row in rows:
        print(
            f"{row.limits:10} {row.kind:6} made {row.made} of {row.asked} in {row.took_s:.0f} s, {row.inside} inside; "
            f"MiB {row.before_mib:.1f} -> {row.worst_mib:.1f} ({row.each_kib:.1f} KiB each) -> {row.after_mib:.1f}; "
            f"p99 {row.p99_ms:.1f} ms, calm {row.calm_p99_ms:.1f} ms; {row.unread_mib:.0f} MiB unread",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--processes", type=int, default=4)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS)
    parser.add_argument("--limits", nargs="+", choices=tuple(TABLES), default=tuple(TABLES))
    parser.add_argument("--json", type=Path)
    for name in ("--join", "--pki", "--port", "--number"):
        parser.add_argument(name, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.join:
        join(int(options.port), options.join, options.count, int(options.number), Files.below(options.pki))
        return
    rows = run(options.count, options.processes, options.limits, options.kinds)
    if options.json:
        options.json.write_text(json.dumps([asdict(row) for row in rows], indent=1))


if __name__ == "__main__":
    main()
