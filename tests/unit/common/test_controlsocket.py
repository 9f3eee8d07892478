# SPDX-License-Identifier: Apache-2.0
"""Asking the master: answers that cannot be used are sentences, too."""

import contextlib
import copy
import json
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from vdsm_mp import supervisorplugin
from vdsm_mp.cli import main, status
from vdsm_mp.common import controlanswers, controlsocket
from vdsm_mp.common.options import Config, House

WORKER: dict[str, Any] = {
    "pid": None, "state": "waiting", "uptime_s": None, "restarts": 2, "degraded": False, "last_death": "exit 1",
    "rss_kib": 0, "pss_kib": 0, "last_heartbeat_ago_s": None, "vitals": {},
}  # fmt: skip
HOUSE: dict[str, Any] = {
    "version": "1", "pid": 7, "state": "running", "verdict": "degraded", "uptime_s": 9.0, "rss_kib": 1,
    "pss_kib": 1, "children": [], "lost": [], "workers": {"virt": WORKER},
}  # fmt: skip


@contextlib.contextmanager
def master_that_says(answer: bytes, run_dir: Path, times: int) -> Iterator[None]:
    """`answer` to whatever it is asked; b"" = nothing, and the connection stays open."""
    with socket.socket(socket.AF_UNIX) as listening, contextlib.ExitStack() as open_ones:
        listening.bind(str(run_dir / "control.sock"))
        listening.listen()

        def serve() -> None:
            for _ in range(times):
                connection = open_ones.enter_context(listening.accept()[0])
                connection.recv(1024)
                connection.sendall(answer)
                if answer:
                    connection.shutdown(socket.SHUT_WR)

        thread = threading.Thread(target=serve)
        thread.start()
        yield
        thread.join()


def answer_of(result: Any) -> bytes:
    return json.dumps({"ok": True, "result": result}).encode() + b"\n"


def configure(run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (run_dir / "vdsm.conf").write_text(f"[vdsm_mp]\nrun_dir = {run_dir}\n")
    monkeypatch.setenv("VDSM_MP_CONFIG", str(run_dir / "vdsm.conf"))


def changed(*path: str, to: Any) -> bytes:
    """The answer to `status` with one member of another kind; `to` ... = without it."""
    house = copy.deepcopy(HOUSE)
    inside: dict[str, Any] = house
    for name in path[:-1]:
        inside = inside[name]
    if to is ...:
        del inside[path[-1]]
    else:
        inside[path[-1]] = to
    return answer_of(house)


class Supervisorctl:
    """What a plug-in sees of it."""

    def __init__(self) -> None:
        self.exitstatus = 0
        self.said: list[str] = []

    def output(self, text: str) -> None:
        self.said.append(text)


def test_supervisorctl_shows_a_worker_without_a_process_and_refuses_what_it_does_not_know(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    configure(tmp_path, monkeypatch)
    ctl = Supervisorctl()
    plugin = supervisorplugin.make_controller(ctl)
    with master_that_says(answer_of(HOUSE), tmp_path, times=1):
        plugin.do_vdsm("status")
    assert (ctl.exitstatus, ctl.said) == (0, [
        "vdsm-mp 1 pid 7: degraded", "virt         waiting   no process, restarts 2, last death: exit 1",
    ])  # fmt: skip
    for words in ("", "restart", "status virt", "frobnicate"):
        ctl.exitstatus = 0
        plugin.do_vdsm(words)
        assert (ctl.exitstatus, ctl.said[-1].partition(" ")[0]) == (1, "usage:")


@pytest.mark.parametrize(
    "answer",
    [
        b"hello\n",
        b"[]\n",
        b"{}\n",
        b'{"ok": true, "res',
        b'{"ok": true, "result": []}\n',
        b'{"ok": true, "result": {"workers": []}}\n',
        b"[" * 100_000 + b"\n",
        answer_of({"version": "0", "workers": {"virt": {"state": "ready", "pid": 3}}}),
        changed("version", to=...),
        changed("uptime_s", to="9 s"),
        changed("workers", "virt", "state", to=7),
        changed("workers", "virt", "vitals", to=None),
        changed("workers", "virt", "vitals", to={"problems": "none"}),
        changed("lost", to=[{"pid": 3}]),
        changed("log", to="fine"),
        changed("config", to=[]),
    ],
)
def test_an_agent_of_another_version_is_named_as_that(answer: bytes, tmp_path: Path) -> None:
    with master_that_says(answer, tmp_path, times=2):
        with pytest.raises(controlsocket.Refused, match="of another version than this program"):
            controlanswers.status(str(tmp_path))
        gathered: dict[str, Any] = status.gather(Config(vdsm_mp=House(run_dir=str(tmp_path))))
    assert (gathered["exit_code"], gathered["house"]) == (2, None)
    assert status.screen(gathered).startswith("cannot be asked: the agent's answer is not understood")


def test_what_a_newer_agent_tells_besides_is_kept_and_harms_nothing(tmp_path: Path) -> None:
    with master_that_says(changed("workers", "virt", "mood", to="fine"), tmp_path, times=1):
        assert controlanswers.status(str(tmp_path))["workers"]["virt"]["mood"] == "fine"  # type: ignore[typeddict-item]


@pytest.mark.parametrize(
    ("words", "answers"),
    [
        ("restart virt", ("ready", None, {}, {"worker": "virt"}, {"worker": "virt", "ready_after_s": "soon"})),
        ("stop", (True, ["stopping"])),
        ("stacks virt", ({"text": ""}, 7)),
        ("profile virt", ([],)),
        ("trace virt", (None,)),
    ],
)
def test_every_command_checks_the_answer_that_it_reads(
    words: str,
    answers: tuple[Any, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    configure(tmp_path, monkeypatch)
    for answer in answers:
        with master_that_says(answer_of(answer), tmp_path, times=1):
            assert main.main([*words.split(), "--json"]) == 2
        (tmp_path / "control.sock").unlink()
        out, err = capsys.readouterr()
        assert err.startswith("vdsm-mp: the agent's answer is not understood: it is of another version")
        assert json.loads(out)["error"]["message"] in err


def test_supervisorctl_tells_of_an_answer_that_it_does_not_understand(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    configure(tmp_path, monkeypatch)
    for words, answer in (("status", []), ("restart virt", {}), ("stop", {})):
        ctl = Supervisorctl()
        with master_that_says(answer_of(answer), tmp_path, times=1):
            supervisorplugin.make_controller(ctl).do_vdsm(words)
        (tmp_path / "control.sock").unlink()
        assert (ctl.exitstatus, ctl.said[0].partition(":")[0]) == (1, "vdsm")


def test_a_master_that_dies_while_it_is_asked_is_a_sentence(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "control.sock"))
        listening.listen()

        def reset() -> None:
            listening.accept()[0].close()  # with what it was asked unread: the other end sees a reset

        thread = threading.Thread(target=reset)
        thread.start()
        with pytest.raises(controlsocket.Refused, match="closed the control connection"):
            controlsocket.ask(str(tmp_path), "status", more="x" * 1000)
        thread.join()


def test_an_agent_that_says_nothing_is_not_waited_for_for_ever(tmp_path: Path) -> None:
    with (
        master_that_says(b"", tmp_path, times=1),
        pytest.raises(controlsocket.Refused, match=r"does not answer within 0\.2 s"),
    ):
        controlsocket.ask(str(tmp_path), "status", timeout_s=0.2)
