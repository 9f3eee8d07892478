# SPDX-License-Identifier: Apache-2.0
"""Fork. The only place where processes of the house begin; the parent half returns at once, the child half never.

Between fork and the worker's main the child forgets everything of the master: its signals, its pipes, its sockets.
"""

import ctypes
import gc
import importlib
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterable
from typing import NoReturn

import setproctitle

from vdsm_mp import environment
from vdsm_mp.common import kernel, log
from vdsm_mp.house.members import Process
from vdsm_mp.ipc import control

logger = log.named("master")

#: A worker whose start failed for good; see docs/processes.md for all codes.
CANNOT_START = 3
#: The program on the disk is not the one that the master runs.
OTHER_PROGRAM = 4
#: Somebody who sends these to all processes of the agent (pkill, a rule for logs) must not end those that have no use
#: for them.
MEANT_FOR_THE_MASTER = (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)


def fork(
    name: str,
    main: Callable[[socket.socket, int], int],
    keep: Iterable[int],
    *,
    with_pipe: bool = True,
    ends_with_us: signal.Signals = signal.SIGKILL,
) -> Process:
    """Fork a process called `vdsm-mp: NAME` that runs `main(its end of the pipe, fd for stacks)` and exits with it.

    keep: descriptors besides stdin, stdout, stderr that the child inherits. ends_with_us: what it gets when the master
    ends. Raises OSError (EAGAIN: no more processes, EMFILE: no more descriptors).
    """
    ours, theirs = control.pair()
    stacks_fd = os.memfd_create(f"stacks-{name}")
    parent = os.getpid()
    sys.stdout.flush()
    sys.stderr.flush()
    # A signal between the fork and the reset below would run the master's handler in the child.
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    pid = -1
    try:
        pid = os.fork()
        if pid == 0:
            _live(name, main, parent, blocked, theirs, stacks_fd, keep, ends_with_us)
        pidfd = os.pidfd_open(pid)
    except BaseException:
        ours.close()
        os.close(stacks_fd)
        if pid > 0:
            os.kill(pid, signal.SIGKILL)  # nobody would look after it, and its successor comes soon
        raise
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        theirs.close()
    if not with_pipe:
        ours.close()
    return Process(name, pid, pidfd, time.monotonic(), ours if with_pipe else None, stacks_fd)


def _live(
    name: str,
    main: Callable[[socket.socket, int], int],
    parent: int,
    mask: Iterable[int],
    pipe: socket.socket,
    stacks_fd: int,
    keep: Iterable[int],
    ends_with_us: signal.Signals,
) -> NoReturn:
    code = 1
    try:
        for number in (signal.SIGTERM, signal.SIGCHLD):
            signal.signal(number, signal.SIG_DFL)
        for number in MEANT_FOR_THE_MASTER:
            signal.signal(number, _nothing)  # not SIG_IGN, which programs that it runs would inherit
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C belongs to the master
        signal.set_wakeup_fd(-1)
        _close_all_but({0, 1, 2, pipe.fileno(), stacks_fd, *keep, *log.descriptors()})
        # A session of its own: programs it runs can be swept when it dies, and a panic kills only them.
        os.setsid()
        if not kernel.die_with_parent(parent, ends_with_us):
            os._exit(1)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        setproctitle.setproctitle(f"vdsm-mp: {name}")
        log.call_in(name.partition(" ")[0])
        log.catch_uncaught(logging.getLogger(name.partition(" ")[0]))
        environment.start_coverage()
        code = main(pipe, stacks_fd)
    except BaseException:
        logging.getLogger(name).critical("%s ends: uncaught exception", name, exc_info=True)
    finally:
        environment.save_coverage()
        logging.shutdown()
        # Not sys.exit: what the master registered to run at exit is not ours to run.
        os._exit(code)


def _nothing(*_: object) -> None: ...


def _close_all_but(keep: set[int]) -> None:
    for entry in os.listdir("/proc/self/fd"):
        fd = int(entry)
        if fd not in keep:
            try:
                os.close(fd)
            except OSError:
                continue  # the listing's own descriptor


def child_main(module: str) -> Callable[[socket.socket, int], int]:
    """The main of a child kind: `module.main(sock)`, imported after the fork."""

    def main(sock: socket.socket, stacks_fd: int) -> int:
        faulthandler = importlib.import_module("faulthandler")
        faulthandler.enable(stacks_fd)
        code = importlib.import_module(module).main(sock)
        return int(code)

    return main


def collect_freely() -> None:
    """Before the first fork: give freed memory back and keep what was loaded from being written to later.

    The collector was off (`vdsm_mp/__main__.py`) and begins now. What was loaded leaves nearly nothing for it.
    """
    if sys.version_info < (3, 12):
        # The cache of attribute names counts references to them. Each entry that a worker replaced would cost it a
        # copy of the page where the old name lies; later interpreters do not count those.
        sys._clear_type_cache()
    ctypes.CDLL(None).malloc_trim(0)
    gc.freeze()
    gc.enable()
