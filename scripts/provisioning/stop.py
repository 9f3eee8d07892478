# SPDX-License-Identifier: Apache-2.0
"""The end of the agent, in a time that is known, whoever started it. Guests are libvirtd's: nothing looks at them."""

import os
import pwd
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from provisioning.say import Failure, say

#: What setproctitle makes of the names of all processes of the agent; the master's comes first.
_TITLE, _MASTER = b"vdsm-mp: ", b"vdsm-mp: master"
#: Longer than all stages of leaving together (stopwaitsecs of supervisor/vdsm.conf).
_LEAVES_S = 90.0
_KILLED_S = 15.0
#: How soon a supervisor has started another, with its title, and how long until it takes that for started.
_AGAIN_S, _STARTED_S = 10.0, 2.0


def ensure_stopped(ask: Callable[[], None]) -> None:
    """Ask, then tell the master, then kill it: its children die with it. Raises Failure when one is there all the same.

    ask: has whoever started the agent stop it, and not start it again.
    """
    if not processes():
        return
    ask()
    known = set(processes())
    # Who has not heard us takes a kill for a death and starts another, which leaves for good when it is told to.
    if _end_masters() and (another := _started_again(known)) and _end_masters() and _started_again(known | another):
        why = "whoever runs it does not hear `supervisorctl stop vdsm` and starts it again and again: stop it there"
        raise Failure(f"stopping the agent: {why}; nothing was removed")
    for pid in processes():
        _tell(pid, signal.SIGKILL)
    _wait(_KILLED_S)
    if left := processes():
        raise Failure(f"stopping the agent: {left} cannot be killed (they hang in the kernel?); nothing was removed")


def _started_again(known: set[int]) -> set[int]:
    """The masters that came after these."""
    until = time.monotonic() + _AGAIN_S
    while not (another := set(processes(_MASTER)) - known):
        if time.monotonic() > until:
            return set()
        time.sleep(0.1)
    time.sleep(_STARTED_S)
    return another


def _end_masters() -> bool:
    """True: there was one."""
    return _tell_masters(signal.SIGTERM, _LEAVES_S) | _tell_masters(signal.SIGKILL, _KILLED_S)


def _tell_masters(number: signal.Signals, within_s: float) -> bool:
    """True: there was one."""
    masters = processes(_MASTER)
    for pid in masters:
        say(f"the agent still runs: {number.name} to its master ({pid})")
        _tell(pid, number)
    _wait(within_s)
    return bool(masters)


def processes(title: bytes = _TITLE) -> list[int]:
    """Of the agent: by their user, their title, and that they live in this root and not in some container's."""
    try:
        uid = pwd.getpwnam("vdsm").pw_uid
    except KeyError:
        return []
    return sorted(_ours(uid, title))


def _ours(uid: int, title: bytes) -> Iterator[int]:
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if (
                folder.stat().st_uid in (uid, 0)  # a process that may not dump its memory belongs to root there
                and (folder / "cmdline").read_bytes().startswith(title)
                and f"\nUid:\t{uid}\t" in (folder / "status").read_text()
                and (folder / "root").samefile("/")
            ):
                yield int(folder.name)
        except OSError:
            continue  # gone


def _tell(pid: int, number: signal.Signals) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return


def _wait(within_s: float) -> None:
    until = time.monotonic() + within_s
    while processes() and time.monotonic() < until:
        time.sleep(0.1)


def supervisorctl(program: Path, *words: str, timeout_s: float = 120) -> subprocess.CompletedProcess[str] | None:
    """None: there is no such program, or it did not answer in time."""
    try:
        return subprocess.run(
            [str(program), *words], capture_output=True, text=True, check=False, timeout=timeout_s,
            stdin=subprocess.DEVNULL, cwd="/",
        )  # fmt: skip
    except (FileNotFoundError, subprocess.TimeoutExpired):
        return None
