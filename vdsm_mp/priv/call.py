# SPDX-License-Identifier: Apache-2.0
"""The worker's side of root: implements `ports.Root` over one `sudo -n <libexec>/helper-CLASS`.

The helper starts with the first call and again after it died; calls in flight at its death fail, none is repeated.
Any thread may call. Owns one reading thread per helper life; knows nothing of asyncio or the bus.
"""

import contextlib
import itertools
import json
import os
import select
import subprocess
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vdsm_mp.api.errors import DeadlineExceeded, PrivilegedFailed, RootHelperGone
from vdsm_mp.common import log
from vdsm_mp.priv.table import ANSWER_LIMIT, GRACE_S, LINE_LIMIT, OPERATIONS, helper_of

logger = log.named(__name__)

_SUDO = "/usr/bin/sudo"
#: Seconds between two starts of a helper that keeps dying (a wrong sudo rule): each start costs a PAM session.
_PAUSE_S = 1.0
#: Helpers that hang at once; each holds what it was doing, and may do it yet.
_MOST_STUCK = 5
#: From the end of its answers until its process has ended.
_LEAVES_S = 5.0
#: A helper that was not asked for so long is ended; the next call starts it again.
_IDLE_S = 60.0


class _Waiting:
    def __init__(self) -> None:
        self.done = threading.Event()
        self.answer: dict[str, Any] | None = None


class SudoRoot:
    """The port of one worker. `close` ends its helper; a later call would start it again."""

    def __init__(
        self, worker: str, libexec_dir: str, *, sudo: Sequence[str] = (_SUDO, "-n"), idle_s: float = _IDLE_S
    ) -> None:
        self._worker = worker
        self._helper = helper_of(worker)
        self._argv = [*sudo, str(Path(libexec_dir) / f"helper-{self._helper}")]
        self._idle_s = idle_s
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()
        self._life: _Life | None = None
        #: Lives that did not answer; each costs a process until it ends.
        self._stuck: list[_Life] = []
        self._not_before = 0.0
        self._last_words = ""

    def do(self, operation: str, /, *, deadline_s: float = 30.0, **params: Any) -> Any:
        """See `ports.Root.do`. A parameter that is None is the same as an absent one."""
        given = {name: value for name, value in params.items() if value is not None}
        row = OPERATIONS.get((self._helper or "", operation))
        if row is None:
            raise PrivilegedFailed(operation, f"the {self._worker} worker has no such operation")
        if (fault := row.fault(given)) is not None:
            raise PrivilegedFailed(operation, fault)
        number, waiting = next(self._numbers), _Waiting()
        asked_mono = time.monotonic()
        request = {"id": number, "op": operation, "params": given, "deadline_s": deadline_s, "asked_mono": asked_mono}
        line = json.dumps(request, separators=(",", ":")).encode() + b"\n"
        if len(line) > LINE_LIMIT:
            raise PrivilegedFailed(operation, "the request is too long")
        # A helper may end just when it is asked; that request has surely not run and goes to its successor.
        life = self._alive()
        if not life.send(number, waiting, line):
            life = self._alive()
            if not life.send(number, waiting, line):
                raise RootHelperGone(self._worker, operation)
        if not waiting.done.wait(asked_mono + deadline_s + GRACE_S - time.monotonic()):
            # It keeps deadlines itself; one that does not is stuck. sudo's processes are not ours to kill.
            logger.error("helper-%s does not answer, it is left alone and a new one started", self._helper)
            life.abandon()
            with self._lock:
                if life not in self._stuck:
                    self._stuck.append(life)
            raise DeadlineExceeded(f"{operation} as root", deadline_s)
        return self._result(operation, deadline_s, waiting.answer, life)

    def close(self) -> None:
        """End the helper and what it runs; returns within about three seconds."""
        with self._lock:
            lives, self._life, self._stuck = [self._life, *self._stuck], None, []
        for life in lives:
            if life is not None:
                life.end()

    def _result(self, operation: str, deadline_s: float, answer: dict[str, Any] | None, life: "_Life") -> Any:
        if answer is None:
            words = life.last_words()
            raise RootHelperGone(self._worker, f"{operation}: {words}" if words else operation)
        if answer.get("error") == "timeout":
            raise DeadlineExceeded(f"{operation} as root", deadline_s)
        if "error" in answer:
            raise PrivilegedFailed(operation, str(answer.get("detail", "")))
        return answer.get("result")

    def _alive(self) -> "_Life":
        with self._lock:
            if self._life is not None:
                if self._life.up:
                    return self._life
                self._last_words = self._life.last_words() or self._last_words
                if self._life.rested:
                    self._not_before = 0.0
                self._life = None
            self._stuck = [life for life in self._stuck if not life.has_ended()]
            if len(self._stuck) >= _MOST_STUCK:
                pids = ", ".join(str(life.pid) for life in self._stuck)
                raise RootHelperGone(self._worker, f"start: {len(self._stuck)} of them hang already, pids {pids}")
            if time.monotonic() < self._not_before:
                raise RootHelperGone(self._worker, f"start: {self._last_words or 'it ended at once'}")
            self._not_before = time.monotonic() + _PAUSE_S
            try:
                self._life = _Life(self._argv, self._idle_s)
            except OSError as error:  # sudo itself cannot be run: not there, damaged, or nothing more can be forked
                self._last_words = f"{error.strerror}: {self._argv[0]}"
                raise RootHelperGone(self._worker, f"start: {self._last_words}") from error
            return self._life


class _Life:
    """One helper process, from start to EOF."""

    def __init__(self, argv: Sequence[str], idle_s: float) -> None:
        self._idle_s = idle_s
        self._process = subprocess.Popen(
            argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd="/"
        )
        self._lock = threading.Lock()
        self._writing = threading.Lock()
        self._ending = threading.Lock()
        self._words = ""
        self._waiting: dict[int, _Waiting] = {}
        self.up = True
        self.rested = False
        self._left_alone = False
        self._reader = threading.Thread(target=self._read, name="root-answers", daemon=True)
        self._reader.start()

    def send(self, number: int, waiting: _Waiting, line: bytes) -> bool:
        """False: the helper has ended, nothing was sent."""
        with self._lock:
            if not self.up:
                return False
            self._waiting[number] = waiting
        stdin = self._process.stdin
        assert stdin is not None
        # A broken pipe is the helper's death, which the reader notices and answers for all.
        with self._writing, contextlib.suppress(OSError, ValueError):
            stdin.write(line)
            stdin.flush()
        return True

    def abandon(self) -> None:
        """Ask nothing more of it; what else was in flight fails. EOF ends it, should it ever look."""
        self._left_alone = True
        self._over()
        self._close_stdin()

    def _read(self) -> None:
        stdout = self._process.stdout
        assert stdout is not None
        fd, buffer = stdout.fileno(), bytearray()
        poll = select.poll()
        poll.register(fd, select.POLLIN)
        while True:
            if not poll.poll(self._idle_s * 1000):
                if self._left_alone:
                    return
                self._rest()
                continue
            data = os.read(fd, 1 << 16)
            buffer += data
            if not data or len(buffer) > ANSWER_LIMIT:
                break
            *lines, rest = buffer.split(b"\n")
            buffer = rest
            for line in lines:
                self._answer(line)
        self._over()
        # Nobody may ask again for a long time, and until then it would stay a zombie.
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_LEAVES_S)

    def _rest(self) -> None:
        """Idle: let the helper go, it costs as much memory as a worker. Its EOF ends the reading."""
        with self._lock:
            if self._waiting:
                return
            self.up, self.rested = False, True
        self._close_stdin()

    def _answer(self, line: bytearray) -> None:
        try:
            answer = json.loads(line)
        except ValueError:
            return
        with self._lock:
            waiting = self._waiting.pop(answer.get("id"), None)
        if waiting is not None:
            waiting.answer = answer
            waiting.done.set()

    def _over(self) -> None:
        with self._lock:
            self.up = False
            waiting, self._waiting = list(self._waiting.values()), {}
        for one in waiting:
            one.done.set()

    def last_words(self) -> str:
        """The end of stderr of a helper that is gone, such as sudo's reason; closes what is left of it. Any thread."""
        if self._left_alone:
            return "it did not answer"
        stderr = self._process.stderr
        with self._ending:
            if stderr is not None and not stderr.closed:
                os.set_blocking(stderr.fileno(), False)
                text = stderr.read(4096) or b""
                self._words = text.decode(errors="replace").strip().replace("\n", "; ")[-400:]
                self._close()
            return self._words

    @property
    def pid(self) -> int:
        """Of sudo."""
        return self._process.pid

    def has_ended(self) -> bool:
        """Has it ended after all? Then nothing of it is left."""
        if self._process.poll() is None or self._reader.is_alive():
            return False
        self._close()
        return True

    def end(self) -> None:
        self._close_stdin()
        try:
            # sudo hands no signal of ours on to a root process in time; EOF is what ends it.
            self._process.wait(3)
        except subprocess.TimeoutExpired:
            return
        self._reader.join(1)
        self._close()

    def _close(self) -> None:
        self._close_stdin()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(1)
        self._reader.join(1)
        for stream in (self._process.stdout, self._process.stderr):
            if stream is not None:
                stream.close()

    def _close_stdin(self) -> None:
        stdin = self._process.stdin
        if stdin is not None:
            with self._writing, contextlib.suppress(OSError):
                stdin.close()
