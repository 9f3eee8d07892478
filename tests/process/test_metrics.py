# SPDX-License-Identifier: Apache-2.0
"""`vdsm-mp metrics`: numbers that follow the house, pages that tell what is wrong, and readers that cannot harm."""

import http.client
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.support.eventually import eventually
from tests.support.house import RunningHouse
from vdsm_mp.cli import exporter, metrics
from vdsm_mp.workers.table import WORKERS

NAMES = {row.name for row in WORKERS}


@pytest.fixture(scope="module")
def house() -> Iterator[RunningHouse]:
    with RunningHouse.start(tls=True, libvirt_uri="test:///default") as running:
        yield running


def _command(house: RunningHouse, *words: str) -> tuple[list[str], dict[str, str]]:
    return [sys.executable, "-m", "vdsm_mp.cli.main", *words], {**os.environ, "VDSM_MP_CONFIG": str(house.config_file)}


def samples(text: str) -> dict[str, dict[tuple[str, ...], float]]:
    """{name: {label values, in the order of their labels' names: number}}"""
    found: dict[str, dict[tuple[str, ...], float]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found.setdefault(sample.name, {})[tuple(value for _, value in sorted(sample.labels.items()))] = sample.value
    return found


@contextmanager
def serving(house: RunningHouse) -> Iterator[int]:
    """The port of an exporter of that house."""
    command, env = _command(house, "metrics", "--listen", "127.0.0.1:0")
    with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            told = re.search(r"http://127\.0\.0\.1:(\d+)/metrics", process.stdout.readline())
            assert told is not None
            yield int(told[1])
        finally:
            process.terminate()
            assert process.wait(10) == 0


def get(port: int, path: str, method: str = "GET") -> tuple[int, str]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    try:
        connection.request(method, path)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    finally:
        connection.close()


def test_one_look_has_a_number_for_every_worker(house: RunningHouse) -> None:
    command, env = _command(house, "metrics")
    found = samples(subprocess.run(command, env=env, capture_output=True, text=True, check=True).stdout)
    assert found["vdsm_up"][()] == 1
    assert set(found["vdsm_worker_ready"]) == {(name,) for name in NAMES}
    assert found["vdsm_worker_restarts_total"][("virt",)] == 0
    assert found["vdsm_worker_resident_bytes"][("virt",)] > 1 << 20
    assert found["vdsm_certificate_left_seconds"][()] > 0


def test_the_pages_follow_a_worker_that_dies_and_a_house_that_ends(house: RunningHouse) -> None:
    with serving(house) as port:
        eventually(lambda: get(port, "/readyz") == (200, '{"ok": true, "problems": []}\n'), within_s=15)
        told: tuple[int, str] = (0, "")
        for _ in range(4):  # each time it is away for longer before it is started again
            os.kill(house.pid_of("network"), signal.SIGKILL)
            eventually(lambda: house.worker("network")["state"] != "ready" or house.worker("network")["restarts"])
            time.sleep(exporter.FRESH_S)
            told = get(port, "/readyz")
            if told[0] == 503:
                break
            house.wait_ready()
        assert told[0] == 503, told
        assert "network is " in told[1]
        assert get(port, "/healthz")[0] == 200  # it heals itself
        house.wait_ready()
        eventually(lambda: get(port, "/readyz")[0] == 200, within_s=15)
        house.terminate()
        eventually(lambda: get(port, "/healthz")[0] == 503, within_s=5)
        code, text = get(port, "/metrics")
        assert (code, samples(text)["vdsm_up"][()]) == (200, 0)
        house.begin()
        house.wait_ready()
        eventually(lambda: get(port, "/readyz")[0] == 200, within_s=15)


def test_nothing_but_three_pages_can_be_read_and_nothing_written(house: RunningHouse) -> None:
    with serving(house) as port:
        for path in ("/", "/../etc/passwd", "/metrics/../healthz", "/metrics?x=1"):
            assert get(port, path)[0] == 404, path
        assert get(port, "/metrics", "POST")[0] == 501
        assert get(port, "/metrics", "HEAD") == (200, "")
        assert get(port, "/" + "x" * 100_000)[0] == 414
        eventually(lambda: get(port, "/readyz")[0] == 200, within_s=15)


class Quick(exporter.Server):
    client_s = 0.5


@contextmanager
def quick_server(found: dict[str, Any]) -> Iterator[int]:
    server = Quick(("127.0.0.1", 0), lambda: found, metrics.text)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield int(server.server_address[1])
    finally:
        server.shutdown()
        server.server_close()
        thread.join(5)


GONE = {"house": None, "problems": ["the agent is not running"]}


def test_readers_that_trickle_are_cut_off_and_do_not_keep_others_out() -> None:
    with quick_server(GONE) as port:
        slow = [socket.create_connection(("127.0.0.1", port)) for _ in range(3 * exporter.MOST)]
        try:
            for one in slow[: exporter.MOST]:
                one.sendall(b"GET /metrics HTTP/1.1\r\n")

            def served() -> bool:
                try:
                    return get(port, "/healthz")[0] == 503
                except OSError:
                    return False  # there is no room yet
                except http.client.HTTPException:
                    return False

            eventually(served, within_s=10)
        finally:
            for one in slow:
                one.close()


def test_many_readers_cost_the_agent_one_question_a_second() -> None:
    asked: list[float] = []

    def gather() -> dict[str, Any]:
        asked.append(time.monotonic())
        return GONE

    server = exporter.Server(("127.0.0.1", 0), gather, metrics.text)
    try:
        threads = [threading.Thread(target=server.status) for _ in range(20)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(5)
        assert len(asked) == 1
    finally:
        server.server_close()


@pytest.mark.parametrize("listen", ["9595", "localhost:9595", "127.0.0.1:", "127.0.0.1:99999", "[::1]", "a:b:c"])
def test_an_address_that_is_none_is_refused_in_one_line(listen: str) -> None:
    with pytest.raises(exporter.BadAddress, match="ADDRESS:PORT is needed"):
        exporter.serve(listen, dict, metrics.text)


def _house(domains: dict[str, Any], vms: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "house": {"version": "1", "uptime_s": 1, "state": "running", "lost": [], "children": [], "workers": {}},
        "problems": [], "certificate_days_left": None, "domains": domains, "tasks": {}, "vms": vms,
    }  # fmt: skip


def test_a_domain_that_nobody_has_checked_lately_is_not_told_as_valid() -> None:
    well = {"actual": True, "valid": True, "delay": "0.001", "lastCheck": "3.2"}
    found = samples(metrics.text(_house({"a": well, "b": {**well, "lastCheck": "45"}, "c": {"actual": False}}, [])))
    assert found["vdsm_storage_domain_valid"] == {("a",): 1}
    assert found["vdsm_storage_domain_check_age_seconds"] == {("a",): 3.2, ("b",): 45}


def test_of_a_vm_that_does_not_answer_only_that_is_told() -> None:
    vm = {
        "vmId": "1", "vmName": "web", "status": "Up", "monitorResponse": "0", "cpuUser": "50.00", "elapsedTime": "9",
        "disks": {"vda": {"readBytes": "5", "writtenBytes": "7"}, "vdb": {"readBytes": "1", "writtenBytes": "0"}},
    }  # fmt: skip
    stuck = {**vm, "vmId": "2", "monitorResponse": "-1"}
    down = {"vmId": "3", "vmName": "old", "status": "Down", "exitCode": 0}
    found = samples(metrics.text(_house({}, [vm, stuck, down])))
    assert found["vdsm_vms"] == {("Up",): 2, ("Down",): 1}
    assert found["vdsm_vm_responds"] == {("web", "1"): 1, ("web", "2"): 0}
    assert found["vdsm_vm_cpu_user_ratio"] == {("web", "1"): 0.5}
    assert found["vdsm_vm_disk_read_bytes_total"] == {("web", "1"): 6}
