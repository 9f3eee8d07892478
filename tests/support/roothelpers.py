# SPDX-License-Identifier: Apache-2.0
"""Root's helpers installed under a prefix of their own, with their own sudo rules, asked by user vdsm. Needs root."""

import contextlib
import grp
import json
import pwd
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.eventually import eventually
from vdsm_mp.priv import install, sudoers
from vdsm_mp.priv.call import SudoRoot


class Place:
    """An installation of the helpers under its own prefix, with its own sudo rules."""

    def __init__(self) -> None:
        # Not pytest's own folder: user vdsm must be able to reach the programs.
        self.root = Path(tempfile.mkdtemp(prefix="vdsm-mp-root-", dir="/tmp"))
        self.root.chmod(0o755)
        self.libexec = self.root / "libexec"
        self.repository = self.root / "repo"
        self.repository.mkdir()
        shutil.chown(self.repository, "vdsm", "kvm")
        self._empty_stores()
        install.install(
            self.libexec,
            repository=str(self.repository),
            nvram_dir=str(self.root / "nvram"),
            tpm_dir=str(self.root / "tpm"),
        )
        self._rules = Path(f"/etc/sudoers.d/{self.root.name}")
        fresh = self._rules.with_name(f".{self._rules.name}.new")
        fresh.write_text(sudoers.rules(str(self.libexec), "vdsm"))
        fresh.chmod(0o440)
        fresh.rename(self._rules)
        self._open: list[SudoRoot] = []

    def root_of(self, worker: str, **more: Any) -> SudoRoot:
        """As user vdsm through the real sudo. The step down is `setpriv`'s, because the tests are root."""
        argv = [*as_vdsm(), "sudo", "-n"]
        root = SudoRoot(worker, str(self.libexec), sudo=argv, **more)
        self._open.append(root)
        return root

    def helper(self, name: str) -> "subprocess.Popen[bytes]":
        """A raw helper for lines that no honest caller would send."""
        argv = [*as_vdsm(), "sudo", "-n", str(self.libexec / f"helper-{name}")]
        return subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    def _empty_stores(self) -> None:
        for store in (self.root / "nvram", self.root / "tpm"):
            shutil.rmtree(store, ignore_errors=True)
            store.mkdir()

    def reset(self) -> None:
        """As it was made: no helper that runs, and nothing of any VM."""
        while self._open:
            self._open.pop().close()
        self._empty_stores()

    def close(self) -> None:
        self._rules.unlink()
        shutil.rmtree(self.root)


def as_vdsm() -> list[str]:
    user = pwd.getpwnam("vdsm")
    return ["setpriv", "--reuid", str(user.pw_uid), "--regid", str(user.pw_gid), "--init-groups", "--"]


@contextlib.contextmanager
def installed_helpers() -> Iterator[Place]:
    try:
        grp.getgrnam("kvm")
        pwd.getpwnam("vdsm")
    except KeyError:
        pytest.skip("not installed: user vdsm")
    made = Place()
    try:
        yield made
    finally:
        made.close()


def talk(helper: "subprocess.Popen[bytes]", *lines: bytes) -> list[dict[str, Any]]:
    """Send lines, read as many answers (fewer when the helper ends), then EOF."""
    assert helper.stdin is not None and helper.stdout is not None
    writer = threading.Thread(target=_write, args=(helper.stdin, b"".join(lines)))
    writer.start()
    answers = []
    while len(answers) < len(lines) and (line := helper.stdout.readline()):
        answers.append(json.loads(line))
    writer.join()
    helper.communicate(timeout=20)
    return answers


def _write(stdin: Any, data: bytes) -> None:
    with contextlib.suppress(BrokenPipeError):
        stdin.write(data)
        stdin.flush()


def request(op: str, params: Any, number: Any = 1, **more: Any) -> bytes:
    return json.dumps({"id": number, "op": op, "params": params, "deadline_s": 5, **more}).encode() + b"\n"


def pids(place: Place, name: str) -> list[int]:
    """Helpers of this installation that run."""
    wanted = str(place.libexec / f"helper-{name}")
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                words = (entry / "cmdline").read_bytes().decode(errors="replace").split("\0")
                if wanted in words[1:3] and words[0].endswith("python3"):
                    found.append(int(entry.name))
    return found


def parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def helper_pid(place: Place, name: str) -> int:
    return eventually(lambda: pids(place, name))[0]
