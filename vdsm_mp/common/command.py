# SPDX-License-Identifier: Apache-2.0
"""Run a program: an argv list, a deadline, bounded output, and one translated error when it goes wrong.

Called from pool threads. Never uses a shell, and never waits for a child that even SIGKILL does not end (state D):
that one is put aside and reaped later. A program runs in a process group of its own inside the worker's session.
Killing it takes its children along, also those that have gone into sessions of their own, and the master sweeps the
worker's session when that dies. `setpriv`, where there is one, makes the kernel kill the program together with the
thread that waits for it.
"""

import contextlib
import os
import shlex
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from functools import cache

import msgspec

from vdsm_mp.common import family, log
from vdsm_mp.common.errors import Failed, Unavailable
from vdsm_mp.common.talk import Talk

logger = log.named(__name__)

#: Output of reports (lvm, qemu-img --output json) of a large host fits; more is a program gone mad.
MAX_OUTPUT_BYTES = 32 << 20
#: What a program is run through that reads an image which others had in their hands: it may be made to hurt its reader,
#: whose core would then be as large as all this memory.
UNTRUSTED = ("prlimit", "--core=0", "--cpu=30", "--as=1073741824")
#: How long a killed child may take to vanish before it is put aside.
_AFTER_KILL_S = 0.5
_TICK_S = 0.2
#: CPUs for programs where the agent itself is bound to fewer ([vars] cpu_affinity); empty: as ours.
free_cpus: frozenset[int] = frozenset()


class CommandFailed(Failed):
    """A program ended badly. `err` is the tail of its stderr."""

    code = 100
    msg = "{self.command} failed with status {self.status}: {self.err}"

    def __init__(self, command: str, status: int, err: str) -> None:
        super().__init__(command, status, err)
        self.command = command
        self.status = status
        self.err = err


class CommandOverdue(Unavailable):
    """A program was killed at its deadline. What it did until then is done; `survived`: even SIGKILL failed."""

    code = -32603
    msg = "{self.command} did not end within {self.seconds:g} s and was killed"

    def __init__(self, command: str, seconds: float, survived: bool = False) -> None:
        super().__init__(command, seconds, survived)
        self.command = command
        self.seconds = seconds
        self.survived = survived


class CommandAborted(Failed):
    """A program was killed because its job was aborted."""

    code = -32603
    msg = "{self.command} was aborted"

    def __init__(self, command: str) -> None:
        super().__init__(command)
        self.command = command


class Result(msgspec.Struct, frozen=True):
    """status: exit status, negative = killed by that signal. err: the last 16 KiB of stderr."""

    status: int
    out: bytes
    err: bytes
    took_s: float


def run(
    argv: Sequence[str],
    *,
    deadline_s: float,
    stdin: bytes = b"",
    env: Mapping[str, str] | None = None,
    cwd: str = "/",
    accept: Sequence[int] = (0,),
    max_output_bytes: int = MAX_OUTPUT_BYTES,
    on_output: Callable[[bytes], None] | None = None,
    abort: Callable[[], bool] | None = None,
    pass_fds: Sequence[int] = (),
    end_group: bool = False,
) -> Result:
    """Run a program to its end and return what it said.

    env: added to our environment (LC_ALL is C.UTF-8 anyway). cwd: not ours, where cores are kept (`environment.py`) of
    the agent alone. accept: exit statuses that are no error.
    on_output: gets stdout piece by piece instead of it being collected (progress of long copies).
    abort: asked five times a second; True kills the program. end_group: also kill what it left in its process group.
    Raises: CommandFailed (not found, bad status, too much output), CommandOverdue, CommandAborted.
    """
    reap_leftovers()
    name = " ".join(shlex.quote(word) for word in argv[:6]) + (" …" if len(argv) > 6 else "")
    began = time.monotonic()
    child = _start(name, argv, stdin=bool(stdin), env=env, cwd=cwd, pass_fds=pass_fds)
    talk = Talk(child, stdin, max_output_bytes, on_output)
    try:
        while not talk.step(min(_TICK_S, max(0.0, began + deadline_s - time.monotonic()))):
            if abort is not None and abort():
                raise CommandAborted(name)
            if time.monotonic() >= began + deadline_s:
                raise CommandOverdue(name, deadline_s)
            if talk.too_much:
                raise CommandFailed(name, -signal.SIGKILL, f"more than {max_output_bytes} bytes of output; killed")
        status = child.returncode
    except BaseException as error:
        survived = not _kill(child)
        if isinstance(error, CommandOverdue):
            logger.warning("%s: killed after %g s%s", name, deadline_s, "; it hangs in the kernel" if survived else "")
            raise CommandOverdue(name, deadline_s, survived) from None
        raise
    finally:
        talk.close()
    if end_group:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(child.pid, signal.SIGKILL)
    took_s = time.monotonic() - began
    logger.debug("%s status=%d took=%dms", name, status, took_s * 1000)
    if status not in accept:
        raise CommandFailed(name, status, talk.err_text())
    return Result(status, b"".join(talk.out), bytes(talk.err), took_s)


def _start(
    name: str, argv: Sequence[str], *, stdin: bool, env: Mapping[str, str] | None, cwd: str, pass_fds: Sequence[int]
) -> subprocess.Popen[bytes]:
    """In a process group of its own. name: for people. stdin: whether it is told anything. Raises: CommandFailed."""
    try:
        child = subprocess.Popen(
            [*_die_with_us(), *argv],
            stdin=subprocess.PIPE if stdin else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, "LC_ALL": "C.UTF-8", **(env or {})},
            cwd=cwd,
            pass_fds=pass_fds,
            process_group=0,
        )
    except OSError as error:
        raise CommandFailed(name, 127, str(error)) from error
    if free_cpus:
        with contextlib.suppress(OSError):  # it has ended already, or runs with other rights
            os.sched_setaffinity(child.pid, free_cpus)
    return child


def _kill(child: subprocess.Popen[bytes]) -> bool:
    """SIGKILL the child's whole group and its descendants. False when it is still there after a moment: then it is put
    aside."""
    if child.poll() is None:
        family.kill_below(child.pid)
        try:
            os.killpg(child.pid, signal.SIGKILL)
        except ProcessLookupError:
            child.kill()  # it had not become a group leader yet
        except PermissionError:
            # sudo runs it as root: its end of file and our death signal are all we have.
            logger.warning("pid %d runs with other rights and cannot be killed", child.pid)
        try:
            child.wait(_AFTER_KILL_S)
        except subprocess.TimeoutExpired:
            with _leftovers_lock:
                _leftovers.append(child)
            return False
    return True


# A lock, because pool threads share the list; it is never held across a wait.
_leftovers_lock = threading.Lock()
_leftovers: list[subprocess.Popen[bytes]] = []


def reap_leftovers() -> int:
    """Collect killed children that have come out of the kernel since. Returns how many still hang."""
    with _leftovers_lock:
        _leftovers[:] = [child for child in _leftovers if child.poll() is None]
        return len(_leftovers)


@cache
def _die_with_us() -> tuple[str, ...]:
    setpriv = shutil.which("setpriv")
    return (setpriv, "--pdeathsig", "KILL", "--") if setpriv else ()
