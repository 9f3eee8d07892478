# SPDX-License-Identifier: Apache-2.0
"""Host.* through the public door of a whole house, and what becomes of it when the workers behind it die."""

import contextlib
import json
import os
import signal
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.eventually import eventually
from tests.support.house import RunningHouse
from tests.support.needs import needs_program, needs_root
from tests.unit.host.test_types import (
    CAPABILITIES,
    FROM_THE_START,
    FROM_TWO_SAMPLES,
    VITAL,
    check,
)
from vdsm_mp.wire.client import RemoteError

pytestmark = [needs_root(), needs_program("sudo", "setpriv", "ip")]


@pytest.fixture(scope="module")
def house() -> Iterator[RunningHouse]:
    with RunningHouse.start() as running:
        yield running


def answers(house: RunningHouse, verb: str) -> Any:
    """The answer, or None while a worker is away."""
    with contextlib.suppress(RemoteError, OSError):
        return house.call(verb)
    return None


def test_capabilities_reach_the_client_with_their_types(house: RunningHouse) -> None:
    found = house.call("Host.getCapabilities")
    check(found, CAPABILITIES)
    assert set(VITAL) <= set(found)
    assert found["uuid"] == "6b1f7ee0-0b1e-4f0c-9d0e-2f3f1f9a7c11"


def test_statistics_reach_the_client_with_their_types(house: RunningHouse) -> None:
    def complete() -> dict[str, Any]:
        found: dict[str, Any] = house.call("Host.getStats")
        assert set(found) == {*FROM_THE_START, *FROM_TWO_SAMPLES}
        return found

    check(eventually(complete), {**FROM_THE_START, **FROM_TWO_SAMPLES})


def test_hardware_is_told_by_root(house: RunningHouse) -> None:
    found = house.call("Host.getHardwareInfo")
    assert all(isinstance(text, str) and text for text in found.values())


def test_switches_are_kept_in_the_state_folder(house: RunningHouse) -> None:
    switches = {"balloonEnabled": True, "ksmEnabled": False, "ksmMergeAcrossNodes": True}
    assert house.call("Host.setMOMPolicyParameters", {"key_value_store": switches}) is True
    kept = json.loads((house.root / "state/memory-policy.json").read_text())
    assert kept["balloon"] is True


def test_a_bad_network_is_refused_with_vdsms_code_and_status_shape(house: RunningHouse) -> None:
    with pytest.raises(RemoteError) as refused:
        house.call("Host.setupNetworks", {"networks": {"x": {"nic": "nope"}}, "bondings": {}, "options": {}})
    assert refused.value.code == 23
    nothing = {"networks": {}, "bondings": {}, "options": {"connectivityCheck": "false"}}
    assert house.call("Host.setupNetworks", nothing) == {"code": 0, "message": "Done"}
    assert house.call("Host.confirmConnectivity") is True
    assert house.call("Host.setSafeNetworkConfig") is True


def test_small_verbs_are_answered_or_refused_by_their_code(house: RunningHouse) -> None:
    assert house.call("Host.echo", {"message": "here"}) == "here"
    assert house.call("Host.ping") is True
    assert house.call("Host.setLogLevel", {"level": "INFO", "name": "scheduler"}) is True
    with pytest.raises(RemoteError):
        house.call("Host.setLogLevel", {"level": "LOUD"})
    assert house.call("Host.getJobs", {"job_type": "storage"}) == {}
    network = house.call("Host.getNetworkCapabilities")
    assert network.keys() >= {"networks", "nics", "bridges", "vlans", "bondings", "nameservers"}
    assert (type(network["supportsIPv6"]), network["netConfigDirty"]) == (bool, "False")
    assert "network" in house.call("Host.getNetworkStatistics")
    with pytest.raises(RemoteError) as refused:
        target = {"addr": "a", "port": 1, "agent": "nope", "username": "u", "password": "p"}
        house.call("Host.fenceNode", {**target, "action": "on"})
    assert refused.value.code == 43


def test_a_log_level_reaches_every_worker_also_one_that_starts_later(house: RunningHouse) -> None:
    assert house.call("Host.setLogLevel", {"level": "CRITICAL", "name": "network"}) is True
    try:
        eventually(lambda: _leaves_silently(house))
        eventually(lambda: _leaves_silently(house))
    finally:
        assert house.call("Host.setLogLevel", {"level": "INFO", "name": "network"}) is True


def _leaves_silently(house: RunningHouse) -> bool:
    before = house.log_text().count("network leaves took")
    house.ask("restart", worker="network")
    return house.log_text().count("network leaves took") == before


def test_statistics_go_on_while_storage_and_network_are_frozen(house: RunningHouse) -> None:
    before, known = house.call("Host.getStats"), house.call("Host.getCapabilities")
    pids = [house.pid_of(name) for name in ("storage", "network")]
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        found = house.call("Host.getStats")
        assert house.call("Host.getCapabilities")["nics"] == known["nics"]
    finally:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
    assert set(found["storageDomains"]) == set(before["storageDomains"])
    house.wait_ready()


@pytest.mark.parametrize("worker", ["virt", "network", "scheduler"])
def test_a_killed_worker_is_back_with_all_that_it_answers(house: RunningHouse, worker: str) -> None:
    house.kill_worker(worker)
    for verb in ("Host.getCapabilities", "Host.getStats"):
        assert eventually(lambda verb=verb: answers(house, verb))


def test_status_tells_of_beats_that_fail(house: RunningHouse) -> None:
    def told() -> bool:
        vitals = house.worker("scheduler")["vitals"]
        return type(vitals.get("beats_missed")) is int and isinstance(vitals.get("beats_failing"), dict)

    eventually(told)


def test_options_for_debugging_libvirt_and_for_counting_threads_as_cores_are_in_force() -> None:
    house = RunningHouse(
        {"vars": {"report_host_threads_as_cores": True}}, tls=False, table="", libvirt_uri="test:///default"
    )
    try:
        said = house.root / "state/libvirt.log"
        text = house.config_file.read_text()
        more = f"[vars]\nlibvirt_env_variable_debug = 1\nlibvirt_env_variable_log_outputs = 1:file:{said}\n"
        house.config_file.write_text(text.replace("[vars]\n", more))
        house.begin()
        house.wait_ready()
        eventually(lambda: said.exists() and "virConnectOpen" in said.read_text(errors="replace"))
        found = eventually(lambda: _capabilities(house), within_s=20)
        assert found["cpuCores"] == found["cpuThreads"]
    finally:
        house.stop()


def _capabilities(house: RunningHouse) -> dict[str, Any] | None:
    try:
        found: dict[str, Any] = house.call("Host.getCapabilities")
    except RemoteError as error:
        assert error.code == 99
        return None
    return found
