# SPDX-License-Identifier: Apache-2.0
"""Host.fenceNode with agents that are real programs: what they are told, and what is refused before they start."""

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.background import ThreadBackground
from tests.support.eventually import eventually
from vdsm_mp.api.errors import PeerRestarted
from vdsm_mp.api.errors_host import FenceAgentUnsupported, FenceRequestInvalid
from vdsm_mp.api.host import FenceNode
from vdsm_mp.api.internal import GetPeerLiveness
from vdsm_mp.api.verb import Message
from vdsm_mp.host import fencing
from vdsm_mp.host.fencing import Fencing

SD = "11111111-1111-1111-1111-111111111111"
Agent = Callable[[str], Path]


class Storage:
    """What sanlock would say of the target."""

    def __init__(self) -> None:
        self.says: dict[str, str] = {SD: "dead"}
        self.away = False

    def ask(self, message: Message, *, deadline_s: float | None = None) -> Any:
        assert isinstance(message, GetPeerLiveness)
        if self.away:
            raise PeerRestarted("storage", "internal.peer_liveness")
        return self.says


@pytest.fixture
def storage() -> Storage:
    return Storage()


@pytest.fixture
def fence(storage: Storage, tmp_path: Path) -> Iterator[Fencing]:
    background = ThreadBackground()
    yield Fencing(storage, background, str(tmp_path))
    background.stop()


@pytest.fixture
def agent(tmp_path: Path) -> Agent:
    """Installs `fence_fake`, which notes its stdin and its arguments and then does as told."""

    def make(body: str) -> Path:
        told = tmp_path / "told"
        path = tmp_path / "fence_fake"
        path.write_text(f'#!/bin/sh\ncat > {told}.new\necho "argv: $*" >> {told}.new\nmv {told}.new {told}\n{body}\n')
        path.chmod(0o755)
        return told

    return make


def ask(action: str, **more: Any) -> FenceNode:
    given: dict[str, Any] = {
        "addr": "192.0.2.9",
        "port": 623,
        "agent": "fake",
        "username": "root",
        "password": "s3 cret",
    }
    return FenceNode(action=action, **{**given, **more})


@pytest.mark.parametrize(("status", "power"), [(0, "on"), (2, "off"), (1, "unknown"), (77, "unknown")])
def test_the_agents_exit_status_is_the_state(fence: Fencing, agent: Agent, status: int, power: str) -> None:
    agent(f"exit {status}")
    assert fence.fence(ask("status")).power == power


def test_an_agent_that_hangs_tells_nothing(fence: Fencing, agent: Agent, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fencing, "STATUS_S", 0.3)
    agent("exec sleep 600")
    assert fence.fence(ask("status")).power == "unknown"


def test_agents_are_told_on_stdin_and_no_password_is_in_a_process_list(fence: Fencing, agent: Agent) -> None:
    told = agent("exit 0")
    fence.fence(ask("status", secure=True, options="lanplus=1\n\npower_wait=4"))
    assert told.read_text().splitlines() == [
        "agent=fence_fake",
        "ipaddr=192.0.2.9",
        "login=root",
        "action=status",
        "passwd=s3 cret",
        "ipport=623",
        "secure=yes",
        "lanplus=1",
        "power_wait=4",
        "argv: ",
    ]


def test_a_plug_goes_before_the_port_of_the_connection(fence: Fencing, agent: Agent) -> None:
    told = agent("exit 0")
    fence.fence(ask("status", options="port=7"))
    assert "ipport=623" not in told.read_text().splitlines()


def test_switching_is_initiated_and_goes_on_by_itself(fence: Fencing, agent: Agent) -> None:
    told = agent("exit 0")
    result = fence.fence(ask("reboot"))
    assert (result.power, result.operationStatus) == ("unknown", "initiated")
    eventually(lambda: told.exists() and "action=reboot" in told.read_text())


def test_a_target_that_storage_sees_alive_is_left_alone(fence: Fencing, agent: Agent, storage: Storage) -> None:
    told = agent("exit 0")
    storage.says = {SD: "live"}
    policy = {"storageDomainHostIdMap": {SD: "3"}}
    assert fence.fence(ask("off", policy=policy)).operationStatus == "skipped"
    assert fence.fence(ask("on", policy=policy)).operationStatus == "initiated"
    eventually(lambda: told.exists() and "action=on" in told.read_text())


@pytest.mark.parametrize("word", ["dead", "free", "fail", "unknown", "unavailable"])
def test_a_target_that_is_not_surely_alive_is_fenced(fence: Fencing, agent: Agent, storage: Storage, word: str) -> None:
    agent("exit 0")
    storage.says = {SD: word}
    assert fence.fence(ask("off", policy={"storageDomainHostIdMap": {SD: 3}})).operationStatus == "initiated"


def test_a_storage_worker_that_is_away_keeps_nobody_from_fencing(
    fence: Fencing, agent: Agent, storage: Storage
) -> None:
    agent("exit 0")
    storage.away = True
    assert fence.fence(ask("off", policy={"storageDomainHostIdMap": {SD: 3}})).operationStatus == "initiated"


@pytest.mark.parametrize("name", ["absent", "../fence_fake", "fake\n", "Fake", "", "fake;id"])
def test_only_installed_agents_run(fence: Fencing, agent: Agent, name: str) -> None:
    told = agent("exit 0")
    with pytest.raises(FenceAgentUnsupported):
        fence.fence(ask("status", agent=name))
    assert not told.exists()


@pytest.mark.parametrize(
    "more",
    [
        {"action": "monitor"},
        {"addr": "192.0.2.9\naction=off"},
        {"password": "x\nlogin=y"},
        {"username": "a\0b"},
        {"port": "1\n2"},
        {"options": "action=off"},
        {"options": "OPTION=off"},
        {"options": "passwd_script=/tmp/x"},
        {"options": "debug_file=/etc/passwd"},
        {"options": "verbose=1"},
        {"options": "two words"},
        {"options": "=x"},
    ],
)
def test_what_could_become_another_order_is_refused(fence: Fencing, agent: Agent, more: dict[str, Any]) -> None:
    told = agent("exit 0")
    action = more.pop("action", "status")
    with pytest.raises(FenceRequestInvalid):
        fence.fence(ask(action, **more))
    assert not told.exists()


@pytest.mark.parametrize("action", ["status", "off"])
def test_what_an_agent_repeats_of_its_secrets_is_not_logged(
    fence: Fencing, agent: Agent, caplog: pytest.LogCaptureFixture, action: str
) -> None:
    agent('cat "$(dirname "$0")/told" >&2; echo "no contact" >&2; exit 1')
    fence.fence(ask(action, options="snmp_priv_passwd=t0p s3 cret\nssh_key=/k\npower_wait=4"))
    logged = eventually(lambda: "no contact" in caplog.text and caplog.text)
    assert "s3 cret" not in logged and "t0p" not in logged
    assert "passwd=***" in logged and "power_wait=4" in logged


def test_agents_that_all_hang_leave_threads_to_others_and_nobody_is_forgotten(
    storage: Storage, agent: Agent, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fencing, "AT_ONCE", 2)
    background = ThreadBackground()
    fence = Fencing(storage, background, str(tmp_path))
    over, beat = tmp_path / "over", threading.Event()
    agent(f"until [ -e {tmp_path}/go ]; do sleep 0.05; done; echo x >> {over}")
    try:
        for number in range(6):
            assert fence.fence(ask("off", addr=f"192.0.2.{number}")).operationStatus == "initiated"
        background.start("beat", beat.set)
        assert beat.wait(10), "six agents hang, and there are four threads"
    finally:
        (tmp_path / "go").touch()
        eventually(lambda: over.exists() and len(over.read_text().split()) == 6)
        background.stop()


def test_a_policy_that_is_no_map_is_refused(fence: Fencing, agent: Agent) -> None:
    agent("exit 0")
    with pytest.raises(FenceRequestInvalid):
        fence.fence(ask("off", policy={"storageDomainHostIdMap": {SD: "three"}}))
