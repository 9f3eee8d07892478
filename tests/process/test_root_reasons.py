# SPDX-License-Identifier: Apache-2.0
"""Why root could not be asked is told by every call that fails for it, in sudo's own words."""

import errno
import os
import re
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.support.eventually import eventually
from vdsm_mp.api.errors import DeadlineExceeded, RootHelperGone
from vdsm_mp.priv import call
from vdsm_mp.priv.call import SudoRoot


def refusing(says: str) -> SudoRoot:
    """Ends as sudo does that does not let us; a moment later, so that the request has been sent."""
    return SudoRoot("scheduler", "/nowhere", sudo=("sh", "-c", f"read line; echo '{says}' >&2; exit 1", "sudo"))


def test_each_call_tells_what_sudo_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(call, "_PAUSE_S", 0.0)
    root = refusing("sudo: a password is required")
    for _ in range(3):
        with pytest.raises(RootHelperGone, match="ksm-tune: sudo: a password is required"):
            root.do("ksm-tune", run=0)
    root.close()


def test_a_sudo_that_cannot_be_run_is_told_by_name_and_the_next_one_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(call, "_PAUSE_S", 0.0)
    sudo = tmp_path / "sudo"
    sudo.write_bytes(b"\x7fELF, and nothing more")
    sudo.chmod(0o755)
    root = SudoRoot("scheduler", "/nowhere", sudo=(str(sudo),))
    with pytest.raises(RootHelperGone, match=rf"start: Exec format error: {re.escape(str(sudo))}"):
        root.do("ksm-tune", run=0)
    sudo.write_text("#!/bin/sh\nread line\necho 'sudo: here again' >&2\nexit 1\n")
    with pytest.raises(RootHelperGone, match="here again"):
        root.do("ksm-tune", run=0)
    root.close()


def test_want_of_what_a_start_takes_is_told_with_the_name_of_what_was_not_started(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def nothing_more(*_: object, **__: object) -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr("subprocess.Popen", nothing_more)
    with pytest.raises(RootHelperGone, match=r"start: Too many open files: /usr/bin/sudo$"):
        SudoRoot("scheduler", "/nowhere").do("ksm-tune", run=0)


def test_all_who_waited_are_told_and_so_is_who_comes_before_the_next_start() -> None:
    root = refusing("sudo: unable to resolve host")

    def told(_: int) -> str:
        with pytest.raises(RootHelperGone) as caught:
            root.do("ksm-tune", run=0)
        return str(caught.value)

    with ThreadPoolExecutor(4) as pool:
        assert all("sudo: unable to resolve host" in said for said in pool.map(told, range(4)))
    assert "sudo: unable to resolve host" in told(0)
    root.close()


def test_helpers_that_hang_are_few_and_a_place_is_free_when_one_has_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(call, "_PAUSE_S", 0.0)
    monkeypatch.setattr(call, "GRACE_S", 0.0)
    root = SudoRoot("scheduler", "/nowhere", sudo=("sh", "-c", "exec sleep 300", "sudo"))

    def hangs() -> bool:
        try:
            root.do("ksm-tune", deadline_s=0.05, run=0)
        except DeadlineExceeded:
            return True
        except RootHelperGone:
            return False
        raise AssertionError

    try:
        for _ in range(call._MOST_STUCK):
            assert hangs()
        with pytest.raises(RootHelperGone, match=r"5 of them hang already, pids \d+, ") as caught:
            root.do("ksm-tune", run=0)
        first = int(re.findall(r"\d+", str(caught.value).partition("pids ")[2])[0])
        os.kill(first, signal.SIGKILL)
        assert eventually(hangs)
        assert not hangs()
    finally:
        for life in root._stuck:
            os.kill(life.pid, signal.SIGKILL)
        root.close()
