# SPDX-License-Identifier: Apache-2.0
"""Completion as a person gets it: in a real bash on a terminal of its own."""

import os
import pty
import select
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.needs import needs_program
from vdsm_mp.cli import completion

CHECKOUT = Path(__file__).resolve().parents[3]

pytestmark = [needs_program("bash"), pytest.mark.timeout(120)]


class Terminal:
    """A bash that has loaded the completion, without the files of whoever runs the tests."""

    def __init__(self, bin_dir: Path) -> None:
        self.pid, self._fd = pty.fork()
        if self.pid == 0:  # pragma: no cover
            environment = {**os.environ, "PATH": f"{bin_dir}:{os.environ['PATH']}", "TERM": "dumb", "COLUMNS": "200"}
            os.execvpe("bash", ["bash", "--norc", "--noprofile", "-i"], environment)
        self.type("PS1='> '; bind 'set enable-bracketed-paste off'; source <(vdsm-mp completion); echo load''ed\n")
        self.shows("loaded\r\n")

    def type(self, text: str) -> None:
        os.write(self._fd, text.encode())

    def shows(self, wanted: str, within_s: float = 40) -> str:
        """All that came until the wanted text did; fails when it does not come."""
        seen, until = "", time.monotonic() + within_s
        while wanted not in seen:
            ready, _, _ = select.select([self._fd], [], [], max(0.0, until - time.monotonic()))
            assert ready, f"{wanted!r} does not come; seen is {seen!r}"
            seen += os.read(self._fd, 4096).decode(errors="replace")
        return seen

    def close(self) -> None:
        os.close(self._fd)
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)


@pytest.fixture
def terminal(tmp_path: Path) -> Iterator[Terminal]:
    program = tmp_path / "vdsm-mp"
    program.write_text(f'#!/bin/sh\nPYTHONPATH={CHECKOUT} exec {sys.executable} -m vdsm_mp.cli.main "$@"\n')
    program.chmod(0o755)
    opened = Terminal(tmp_path)
    yield opened
    opened.close()


def test_bash_completes_verbs_parameters_and_values(terminal: Terminal) -> None:
    terminal.type("vdsm-mp call Image.dele")
    terminal.shows("Image.dele")
    terminal.type("\t")
    terminal.shows("te")
    terminal.type(" im\t")
    terminal.shows("imageID=")
    terminal.type("1 postZ\t")
    terminal.shows("postZero=")
    terminal.type("t\t")
    terminal.shows("true ")
    terminal.type("pos\t")
    terminal.shows("pos\a")  # it is given already: only the bell comes


def test_options_and_sections_are_words_too() -> None:
    assert completion.candidates(["verbs", "--pl"]) == ["--planned"]
    assert completion.candidates(["call", "VM.pause", "--ti"]) == ["--timeout"]
    assert completion.candidates(["show-config", "ir"]) == ["irs"]
    assert completion.candidates(["call", "Image.delete", "--json", "postZero="]) == ["postZero=false", "postZero=true"]
    assert completion.candidates(["call", "Nope", ""]) == []


def test_ids_are_nobody_s_when_no_agent_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tmp_path / "vdsm.conf"
    config.write_text("[vars]\nssl = false\n[addresses]\nmanagement_port = 9\n")
    monkeypatch.setenv("VDSM_MP_CONFIG", str(config))
    assert completion.candidates(["call", "VM.pause", "vmID="]) == []
