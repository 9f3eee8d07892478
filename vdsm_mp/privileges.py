# SPDX-License-Identifier: Apache-2.0
"""What must be true before the first fork. Everything that is missing is found in one go; nothing is repaired.

Used by the master. No threads, no waiting beyond a few seconds for sudo, which is asked beside everything else.
"""

import contextlib
import grp
import json
import os
import pwd
import select
import subprocess
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import msgspec

from vdsm_mp import environment
from vdsm_mp.common.options import Config
from vdsm_mp.house import claim

SUDO_S = 10.0


class Missing(msgspec.Struct, frozen=True):
    """says: a sentence. may_pass: without anybody's doing; the others need somebody."""

    says: str
    may_pass: bool = False


def missing(config: Config) -> list[Missing]:
    """Each thing that is wrong, once; empty when the agent may start, if root's helper answers (`asking_root`)."""
    house = config.vdsm_mp
    sentences = (
        *_limits(),
        *_identity(house.user, house.group),
        *_home(),
        *_directories(house.run_dir, house.vdsm_run_dir, house.log_dir, house.state_dir, config.irs.repository),
        *_log_file(Path(house.log_dir) / "vdsm.log"),
    )
    return list(map(Missing, dict.fromkeys(sentences)))


def missing_below_run(config: Config) -> list[str]:
    """The directories that only an administrator makes again, in words; asked all the time.

    Those on disks are left out: a disk that hangs must not hang who asks.
    """
    return _directories(config.vdsm_mp.run_dir, config.vdsm_mp.vdsm_run_dir)


def _limits() -> list[str]:
    most, least = environment.descriptors(), environment.LEAST_DESCRIPTORS
    if most >= least:
        return []
    return [f"at most {most} files may be open in a process, at least {least} are needed: raise the limit (ulimit -n)"]


def _identity(user: str, group: str) -> list[str]:
    found = []
    try:
        wanted = pwd.getpwnam(user)
    except KeyError:
        return [f"there is no user {user} on this host"]
    if os.geteuid() != wanted.pw_uid:
        mine = _user_name(os.geteuid())
        found.append(f"the agent must run as user {user}, not as {mine}")
    try:
        gid = grp.getgrnam(group).gr_gid
    except KeyError:
        return [*found, f"there is no group {group} on this host"]
    if gid not in (os.getegid(), *os.getgroups()):
        found.append(f"user {user} is not a member of group {group} (in this process): usermod -a -G {group} {user}")
    return found


def _user_name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _home() -> list[str]:
    try:
        home = pwd.getpwuid(os.geteuid()).pw_dir
    except KeyError:
        return [f"uid {os.geteuid()} has no entry in the user database"]
    if not Path(home).is_dir():
        return [f"the home directory {home} does not exist"]
    if not os.access(home, os.R_OK | os.W_OK | os.X_OK):
        return [f"the home directory {home} is not readable, writable and searchable"]
    return []


def _directories(*paths: str) -> list[str]:
    found = []
    for path in paths:
        if not Path(path).is_dir():
            # What is below /run goes with a reboot.
            how = ": systemd-tmpfiles --create or scripts/provision makes it" if path.startswith("/run/") else ""
            found.append(f"the directory {path} does not exist{how}")
        elif not os.access(path, os.W_OK | os.X_OK):
            found.append(f"the directory {path} is not writable")
    return found


def _log_file(path: Path) -> list[str]:
    return [f"the log file {path} is not writable"] if path.exists() and not os.access(path, os.W_OK) else []


@contextlib.contextmanager
def asking_root(libexec_dir: str) -> Iterator[Callable[[], list[Missing]]]:
    """Does root's helper answer? A harmless question, asked the way it will be asked in earnest.

    sudo and the helper take a tenth of a second to start; until somebody calls what is given, they do so beside us.
    """
    helper = f"{libexec_dir}/helper-storage"
    if not os.access(helper, os.X_OK):
        yield lambda: [Missing(f"root's helper {helper} is not installed")]
        return
    try:
        asked = subprocess.Popen(
            ["/usr/bin/sudo", "-n", helper],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd="/",
        )
    except OSError as error:
        fault = Missing(f"sudo does not work: {error}", may_pass=error.errno in claim.MAY_PASS)
        yield lambda: [fault]
        return
    assert asked.stdin is not None and asked.stdout is not None and asked.stderr is not None
    request = json.dumps({"id": 1, "op": "ping", "params": {}, "deadline_s": SUDO_S}) + "\n"
    try:
        with contextlib.suppress(BrokenPipeError):
            asked.stdin.write(request.encode())
            asked.stdin.flush()
        yield partial(_answer, helper, asked)
    finally:
        with contextlib.suppress(BrokenPipeError):
            asked.stdin.close()  # which ends the helper
        # A sudo that hangs is root's, so it cannot be killed by us; it is left, and reaped when it ends.
        with contextlib.suppress(subprocess.TimeoutExpired):
            asked.wait(SUDO_S)
        asked.stdout.close()
        asked.stderr.close()


def _answer(helper: str, asked: subprocess.Popen[bytes]) -> list[Missing]:
    assert asked.stdout is not None and asked.stderr is not None
    there, _, _ = select.select([asked.stdout], [], [], SUDO_S)
    said = asked.stdout.readline(4096) if there else b""
    # Without an answer but with an end, sudo has said why.
    complaint = asked.stderr.read(4096) if there and not said else b""
    try:
        answer = json.loads(said)
    except ValueError:
        # A busy host may have been too slow; a rule that is missing is told by sudo.
        why = complaint.decode(errors="replace").strip().replace("\n", "; ")
        return [Missing(f"sudo does not let us run {helper}: {why or 'no answer'}", may_pass=not why)]
    return [Missing(f"root's helper refuses: {answer.get('detail', answer['error'])}")] if "error" in answer else []
