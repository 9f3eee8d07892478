# SPDX-License-Identifier: Apache-2.0
"""Start, restart, memory and stop of the whole house, with the real process table. Needs root, as the tests do.

Each repetition is a fresh house: exec until the first good `Host.ping2` over TLS, PSS once it is idle, kill -9 of each
worker once (a second death of one worker would measure the back-off), SIGTERM until the master is gone. The first
answer is asked for on one connection, which waits in the port's backlog for the door and then asks every other
millisecond: a client that came anew each time would be measured itself. Beside it, in the same run: how long a bare
interpreter takes that imports what a worker imports.
"""

import compileall
import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from bench.processes import cpu_s, smaps_kib
from tests.support.house import RunningHouse, forget_program, program
from vdsm_mp.common.errors import Error
from vdsm_mp.wire.client import Client
from vdsm_mp.wire.tls import client_context
from vdsm_mp.workers.table import WORKERS

#: Memory is looked at when the start's garbage is collected and nothing is being called.
SETTLE_S = 2.0
MOST_S = 30.0
POLL_S = 0.002
_IMPORTS = "import asyncio, ssl, zmq, msgspec, libvirt, xml.etree.ElementTree"


@dataclass
class Found:
    """Seconds and MiB, one number per repetition."""

    bare_start_s: list[float] = field(default_factory=list)
    first_answer_s: list[float] = field(default_factory=list)
    #: CPU seconds of all processes a moment later; other work on the machine disturbs them less than the time.
    start_cpu_s: list[float] = field(default_factory=list)
    idle_pss_mib: list[float] = field(default_factory=list)
    #: The part of it that is not mapped from files, which other programs of the machine cannot share.
    idle_anon_mib: list[float] = field(default_factory=list)
    ready_again_s: dict[str, list[float]] = field(default_factory=dict)
    stop_s: list[float] = field(default_factory=list)


def measure(repeats: int, libvirt_uri: str) -> Found:
    try:
        return _measure(repeats, libvirt_uri)
    finally:
        forget_program()


def _measure(repeats: int, libvirt_uri: str) -> Found:
    found = Found()
    # As an installed program is; tests run from sources, which each process would compile anew.
    compileall.compile_dir(program(), quiet=2)
    subprocess.run(["chmod", "-R", "a+rX", program()], check=True)
    for _ in range(repeats):
        found.bare_start_s.append(_took(lambda: subprocess.run([sys.executable, "-c", _IMPORTS], check=True)))
        with RunningHouse.start(tls=True, libvirt_uri=libvirt_uri, wait=False) as house:
            # Its own start is not of interest: the master was forked a moment ago by `start`.
            house.wait_ready()
            house.terminate()
            began = time.monotonic()
            house.begin()
            _first_answer(house)
            found.first_answer_s.append(time.monotonic() - began)
            house.wait_ready()
            pids = everybody(house)
            found.start_cpu_s.append(cpu_s(pids))
            time.sleep(SETTLE_S)
            found.idle_pss_mib.append(sum(smaps_kib(pid, "Pss:") for pid in pids) / 1024)
            found.idle_anon_mib.append(sum(smaps_kib(pid, "Pss_Anon:") for pid in pids) / 1024)
            for row in WORKERS:
                found.ready_again_s.setdefault(row.name, []).append(_kill(house, row.name))
            found.stop_s.append(_took(house.terminate))
    return found


def _took(work: Callable[[], object]) -> float:
    began = time.monotonic()
    work()
    return time.monotonic() - began


def _until(condition: Callable[[], bool]) -> None:
    until = time.monotonic() + MOST_S
    while not condition():
        if time.monotonic() > until:
            raise TimeoutError(f"not within {MOST_S} s")
        time.sleep(POLL_S)


def everybody(house: RunningHouse) -> list[int]:
    """The log's writer is no worker."""
    return [*house.all_pids(), int(house.status()["log"]["pid"])]


def _first_answer(house: RunningHouse) -> None:
    assert house.files is not None
    client: Client | None = None

    def answers() -> bool:
        nonlocal client
        try:
            client = client or Client("127.0.0.1", house.port, context=client_context(house.files), timeout_s=5)
            return bool(client.call("Host.ping2", timeout_s=5) is True)
        except ConnectionRefusedError:  # nobody listens yet
            return False
        except Error:  # 99: still starting
            return False

    _until(answers)
    assert client is not None
    client.close()


def _answers(house: RunningHouse) -> bool:
    assert house.files is not None
    try:
        with Client("127.0.0.1", house.port, context=client_context(house.files), timeout_s=5) as client:
            return bool(client.call("Host.ping2", timeout_s=5) is True)
    except (Error, OSError):
        return False


def _kill(house: RunningHouse, worker: str) -> float:
    pid = house.pid_of(worker)

    def again() -> bool:
        now = house.worker(worker)
        return bool(now["state"] == "ready" and now["pid"] != pid)

    began = time.monotonic()
    os.kill(pid, signal.SIGKILL)
    _until(again)
    if worker == "clientif":
        _until(lambda: _answers(house))
    return time.monotonic() - began


def rows(found: Found) -> list[tuple[str, float, float, str]]:
    """(what, median, p99, unit)."""
    named: list[tuple[str, list[float], str]] = [
        ("bare interpreter with the imports of a worker", found.bare_start_s, "s"),
        ("exec -> first good answer over TLS", found.first_answer_s, "s"),
        ("CPU of all processes until every worker is ready", found.start_cpu_s, "s"),
        *((f"kill -9 {name} -> ready again", times, "s") for name, times in found.ready_again_s.items()),
        ("SIGTERM -> gone", found.stop_s, "s"),
        ("idle memory of all processes (PSS)", found.idle_pss_mib, "MiB"),
        ("of that, not of files", found.idle_anon_mib, "MiB"),
    ]
    return [(name, statistics.median(values), _p99(values), unit) for name, values, unit in named]


def _p99(values: list[float]) -> float:
    return sorted(values)[min(len(values) - 1, int(len(values) * 0.99))]


def ratios(found: Found) -> dict[str, float]:
    bare = statistics.median(found.bare_start_s)
    slowest = max(statistics.median(times) for times in found.ready_again_s.values())
    return {
        "first answer / bare interpreter with the same imports": statistics.median(found.first_answer_s) / bare,
        "slowest worker ready again / bare interpreter with the same imports": slowest / bare,
    }
