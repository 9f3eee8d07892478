# SPDX-License-Identifier: Apache-2.0
"""What others see of a door that is abused: its memory, answers to a well-behaved client, and the time to come in."""

import resource
import socket
import threading
import time
from pathlib import Path

from tests.support.house import RunningHouse
from vdsm_mp.wire.tls import client_context


def rss_mib(pid: int) -> float:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    raise AssertionError("no VmRSS")


def raise_descriptors(wanted: int) -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, max(wanted, hard)))


class Witness:
    """A well-behaved client and the door's memory, looked at all the time by a thread; another one comes in anew all
    the time. lost, kept_out: what went wrong with either."""

    def __init__(self, house: RunningHouse, pid: int) -> None:
        self._pid = pid
        self._house = house
        self._client = house.client()
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._latencies: list[float] = []
        self._worst_mib = 0.0
        self._entries: list[float] = []
        self.lost = ""
        self.kept_out: list[str] = []
        self._threads = [threading.Thread(target=run, daemon=True) for run in (self._watch, self._enter)]
        for thread in self._threads:
            thread.start()

    def _watch(self) -> None:
        while not self._stop.wait(0.01):
            began = time.perf_counter()
            try:
                self._client.call("Host.ping2", timeout_s=10)
            except Exception as error:
                self.lost = repr(error)
                return
            took = time.perf_counter() - began
            with self._lock:
                self._latencies.append(took)
                self._worst_mib = max(self._worst_mib, rss_mib(self._pid))

    def _enter(self) -> None:
        """TCP and TLS, as often as an engine might."""
        assert self._house.files is not None
        context = client_context(self._house.files)
        while not self._stop.wait(0.2):
            began = time.perf_counter()
            try:
                with socket.create_connection(("127.0.0.1", self._house.port), timeout=20) as sock:
                    context.wrap_socket(sock).close()
            except OSError as error:
                self.kept_out.append(str(error))
                continue
            with self._lock:
                self._entries.append(time.perf_counter() - began)

    def entries(self) -> tuple[int, float, float]:
        """(how many came in, p50 ms, worst ms) since the last time."""
        with self._lock:
            found, self._entries = sorted(self._entries), []
        return (len(found), found[len(found) // 2] * 1e3, found[-1] * 1e3) if found else (0, 0.0, 0.0)

    def take(self) -> tuple[float, float, float]:
        """(p50 ms, p99 ms, worst MiB) since the last time."""
        with self._lock:
            found, self._latencies = sorted(self._latencies), []
            worst, self._worst_mib = self._worst_mib, 0.0
        if not found:
            return 0.0, 0.0, worst
        return found[len(found) // 2] * 1e3, found[int(len(found) * 0.99)] * 1e3, worst

    def stop(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(25)
        self._client.close()
