# SPDX-License-Identifier: Apache-2.0
"""Clients that take too much: what the door's memory and its other clients see of them.

    python -m tests.faults.clients [--connections 10000] [--repeat 3] [--json FILE]

Needs root: a whole house runs, with idle rooms behind the real door. Each scenario prints the resident memory of the
door before, at its worst and after, the latency of a well-behaved client's pings before and during, and how long others
take to come in meanwhile (an engine gives up a handshake after half a second). A scenario counts only when the abuse
has really happened (so many connections made, so many octets left unread).

    idle        TCP connections that say nothing
    half-open   connections that send the beginning of a ClientHello
    slowloris   the same, one octet a second
    strangers   TLS connections with a certificate of another authority
    deaf        subscribers that never read, while events flood (the small broker is the source)
    greedy      a client that sends requests and never reads a reply
"""

import argparse
import contextlib
import json
import socket
import ssl
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from tests.faults import report
from tests.faults.witness import Witness, raise_descriptors, rss_mib
from tests.support.certificates import make_authority
from tests.support.eventually import eventually
from tests.support.house import RunningHouse
from tests.support.wirepeers import Records
from vdsm_mp.wire import stomp
from vdsm_mp.wire.client import Client, ConnectionLost
from vdsm_mp.wire.tls import Files, client_context

HELLO = bytes.fromhex("16030100c8010000c40303") + b"\x5a" * 20
EVENTS = "jms.queue.events"


@dataclass
class Row:
    scenario: str
    done: str
    before_mib: float
    worst_mib: float
    after_mib: float
    p50_ms: float
    p99_ms: float
    calm_p99_ms: float
    enter_p50_ms: float
    enter_worst_ms: float
    kept_out: int


def sources() -> Iterator[str]:
    """Addresses of this host, so that the limit for one address is not the only one."""
    while True:
        for last in range(2, 120):
            yield f"127.0.0.{last}"


@contextlib.contextmanager
def connections(port: int, count: int, first: bytes = b"") -> Iterator[list[socket.socket]]:
    """Open so many, and say something on each at once."""
    made: list[socket.socket] = []
    try:
        for _, source in zip(range(count), sources(), strict=False):
            # Turned away before connect() has returned: made, and gone.
            with contextlib.suppress(ConnectionResetError, BrokenPipeError):
                made.append(socket.create_connection(("127.0.0.1", port), timeout=30, source_address=(source, 0)))
                made[-1].send(first)
        yield made
    finally:
        for sock in made:
            sock.close()


#: Of the door's memory while they do it.
LIMITS = {"memory MiB": 100.0}

Scenario = Callable[[RunningHouse, int], str]


def idle(house: RunningHouse, count: int) -> str:
    with connections(house.port, count) as socks:
        time.sleep(5)
    return f"{count} connections, {len(socks)} of them seen open"


def half_open(house: RunningHouse, count: int) -> str:
    with connections(house.port, count, HELLO) as socks:
        time.sleep(5)
    return f"{len(socks)} connections with a ClientHello begun"


def slowloris(house: RunningHouse, count: int) -> str:
    octets = 0
    with connections(house.port, min(count, 1000)) as socks:
        for at in range(10):
            began = time.monotonic()
            for sock in socks:
                with contextlib.suppress(OSError):
                    sock.send(HELLO[at : at + 1])
                    octets += 1
            time.sleep(max(0.0, 1 - (time.monotonic() - began)))
    return f"{octets} octets over {len(socks)} connections"


def strangers(house: RunningHouse, count: int) -> str:
    refused = 0
    folder = house.root / f"stranger-{time.monotonic_ns()}"
    other = make_authority(folder, name="Another").issue("them", "127.0.0.1")
    assert house.files is not None
    context = client_context(Files(other.key, other.cert, house.files.ca))
    for _ in range(min(count, 500)):
        try:
            Client("127.0.0.1", house.port, context=context).close()
        except ConnectionLost:
            refused += 1
    return f"{refused} handshakes refused"


def deaf(house: RunningHouse, count: int) -> str:
    """count is not used: ten of them are enough to show the bound for each."""
    with contextlib.ExitStack() as stack:
        ears = []
        for _ in range(10):
            ear = stack.enter_context(Records(("127.0.0.1", house.port), house.files))
            ear.send(stomp.encode("SUBSCRIBE", (("destination", EVENTS), ("id", "1"))))
            ears.append(ear)
        talker = stack.enter_context(Records(("127.0.0.1", house.port), house.files))
        frame = stomp.encode("SEND", (("destination", EVENTS),), b"x" * 20_000)
        sent = 0
        eventually(lambda: int(house.worker("clientif")["vitals"]["connections"]) >= 12)
        until = time.monotonic() + 30
        while time.monotonic() < until and int(house.worker("clientif")["vitals"]["connections"]) > 3:
            for _ in range(200):
                talker.send(frame)
                sent += len(frame) * len(ears)
    return f"{sent / 2**20:.0f} MiB for {len(ears)} deaf subscribers"


def greedy(house: RunningHouse, count: int) -> str:
    sent = 0
    with Records(("127.0.0.1", house.port), house.files) as raw:
        raw.send(stomp.encode("SUBSCRIBE", (("destination", "me"), ("id", "1"))))
        body = b'{"jsonrpc":"2.0","method":"Host.getVMList","id":1}'
        frame = stomp.encode("SEND", (("destination", "jms.topic.vdsm_requests"), ("reply-to", "me")), body)
        raw.sock.settimeout(2)
        try:
            for _ in range(100_000 // 50):
                raw.send(frame * 50)
                sent += 50
        except (TimeoutError, OSError, ssl.SSLError):
            pass
        time.sleep(1)
    return f"{sent} requests sent, none of the replies read"


SCENARIOS: tuple[tuple[str, Scenario], ...] = (
    ("idle", idle),
    ("half-open", half_open),
    ("slowloris", slowloris),
    ("strangers", strangers),
    ("deaf", deaf),
    ("greedy", greedy),
)


def run(house: RunningHouse, count: int, repeat: int) -> list[Row]:
    pid = house.pid_of("clientif")
    witness = Witness(house, pid)
    rows = []
    try:
        for name, scenario in SCENARIOS * repeat:
            time.sleep(1)
            witness.take()
            time.sleep(2)
            _, calm_p99, _ = witness.take()
            witness.entries()
            kept_out = len(witness.kept_out)
            before = rss_mib(pid)
            done = scenario(house, count)
            p50, p99, worst = witness.take()
            _, enter_p50, enter_worst = witness.entries()
            kept_out = len(witness.kept_out) - kept_out
            eventually(lambda: int(house.worker("clientif")["vitals"]["connections"]) <= 2, within_s=30)
            time.sleep(2)  # memory goes back after a second
            after = rss_mib(pid)
            rows.append(Row(name, done, before, worst, after, p50, p99, calm_p99, enter_p50, enter_worst, kept_out))
            assert not witness.lost, f"the witness was disturbed: {witness.lost}"
            assert house.pid_of("clientif") == pid, "the door was restarted"
    finally:
        witness.stop()
    return rows


def measure(count: int, repeat: int) -> list[Row]:
    """All scenarios with a house of their own."""
    raise_descriptors(count + 500)
    with RunningHouse.start(tls=True, table="tests.support.door_table") as house:
        eventually(lambda: house.call("Host.ping2"))
        return run(house, count, repeat)


def as_report(rows: Sequence[Row]) -> list[report.Row]:
    """The same as rows of a fault run: what the door held more, and what a good client waited."""
    found: dict[str, report.Row] = {}
    for row in rows:
        name = f"F1c {row.scenario}"
        kept = found.setdefault(name, report.Row(name, f"clients that take too much: {row.scenario}", limits=LIMITS))
        kept.wanted += 1
        kept.executed += 1
        for measure_name, value in (
            ("memory MiB", row.worst_mib - row.before_mib), ("kept MiB", row.after_mib - row.before_mib),
            ("p99 ms", row.p99_ms), ("calm p99 ms", row.calm_p99_ms), ("comes in, worst ms", row.enter_worst_ms),
        ):  # fmt: skip
            kept.measures.setdefault(measure_name, []).append(value)
    for kept in found.values():
        kept.judge()
    return list(found.values())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--connections", type=int, default=10_000)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    rows = measure(options.connections, options.repeat)
    print(
        f"{'':11}{'before':>8}{'worst':>8}{'after':>8} MiB{'p50':>8}{'p99':>8}{'calm p99':>10} ms"
        f"{'come in p50':>13}{'worst':>8} ms{'kept out':>10}"
    )
    for row in rows:
        print(
            f"{row.scenario:11}{row.before_mib:8.1f}{row.worst_mib:8.1f}{row.after_mib:8.1f}    {row.p50_ms:8.2f}"
            f"{row.p99_ms:8.2f}{row.calm_p99_ms:10.2f}   {row.enter_p50_ms:13.1f}{row.enter_worst_ms:8.1f}"
            f"   {row.kept_out:10}    {row.done}"
        )
    if options.json:
        options.json.write_text(json.dumps([asdict(row) for row in rows], indent=1))


if __name__ == "__main__":
    main()
