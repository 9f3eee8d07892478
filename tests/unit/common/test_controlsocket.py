# SPDX-License-Identifier: Apache-2.0
"""Asking the master: answers that cannot be used are sentences, too."""

import contextlib
import json
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from vdsm_mp import supervisorplugin
from vdsm_mp.cli import status
from vdsm_mp.common import controlsocket
from vdsm_mp.common.options import Config, House

WORKER = {"state": "ready", "pid": 3}


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
    (tmp_path / "vdsm.conf").write_text(f"[vdsm_mp]\nrun_dir = {tmp_path}\n")
    monkeypatch.setenv("VDSM_MP_CONFIG", str(tmp_path / "vdsm.conf"))
    worker = {
        "pid": None, "state": "waiting", "uptime_s": None, "restarts": 2, "degraded": False, "last_death": "exit 1",
        "rss_kib": 0, "pss_kib": 0, "last_heartbeat_ago_s": None, "vitals": {},
    }  # fmt: skip
    house = {
        "version": "1", "pid": 7, "state": "running", "verdict": "degraded", "uptime_s": 9.0, "rss_kib": 1,
        "pss_kib": 1, "children": [], "lost": [], "workers": {"virt": worker},
    }  # fmt: skip
    ctl = Supervisorctl()
    plugin = supervisorplugin.make_controller(ctl)
    with master_that_says(json.dumps({"ok": True, "result": house}).encode() + b"\n", tmp_path, times=1):
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
        json.dumps({"ok": True, "result": {"version": "0", "workers": {"virt": WORKER}}}).encode() + b"\n",
    ],
)
def test_an_agent_of_another_version_is_named_as_that(answer: bytes, tmp_path: Path) -> None:
    with master_that_says(answer, tmp_path, times=2):
        with pytest.raises(controlsocket.Refused, match="of another version than this program"):
            controlsocket.status(str(tmp_path))
        gathered: dict[str, Any] = status.gather(Config(vdsm_mp=House(run_dir=str(tmp_path))))
    assert (gathered["exit_code"], gathered["house"]) == (2, None)
    assert status.screen(gathered).startswith("cannot be asked: the agent's answer is not understood")


def test_an_agent_that_says_nothing_is_not_waited_for_for_ever(tmp_path: Path) -> None:
    with (
        master_that_says(b"", tmp_path, times=1),
        pytest.raises(controlsocket.Refused, match=r"does not answer within 0\.2 s"),
    ):
        controlsocket.ask(str(tmp_path), "status", timeout_s=0.2)
