# SPDX-License-Identifier: Apache-2.0
"""The root side: reads one JSON request a line, checks it against the table, does that one thing, answers a line.

Started by `sudo -n <libexec>/helper-CLASS` without arguments and kept for its worker's life; EOF ends it and what it
started. Standard library only. The caller is assumed hostile: closed schema, bounded lines and concurrency, nothing
but root's own `helper.json` decides where anything lies. One audit line per start and call to syslog (auth facility).
"""

import json
import os
import pwd
import queue
import stat
import sys
import syslog
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from vdsm_mp.priv import (
    devices,
    dhcp,
    gluster,
    hardware,
    lldp,
    managed,
    mirror,
    mount,
    net,
    qemu,
    resolver,
    shape,
    vmdata,
)
from vdsm_mp.priv.child import Children, OperationFailed, OutOfTime, Refused
from vdsm_mp.priv.confine import confine
from vdsm_mp.priv.context import Context
from vdsm_mp.priv.fields import Operation
from vdsm_mp.priv.systemlog import SystemLog
from vdsm_mp.priv.table import ANSWER_LIMIT, GRACE_S, LINE_LIMIT, OPERATIONS

#: More than mounts of dead servers can take.
_THREADS = 20
_WAITING = 32
_CALLS_PER_S = 200
#: Three hundred years: more than any clock of a host shows.
_MOST_SECONDS = 1e10
_CONFIG_KEYS = frozenset({"user", "repository", "nvram_dir", "tpm_dir"})

Handler = Callable[[Context, Mapping[str, Any]], Any]

_HANDLERS: Mapping[str, Handler] = {
    "mount-nfs": mount.mount_nfs,
    "mount-posix": mount.mount_posix,
    "gluster-volume": gluster.volume_info,
    "umount": mount.umount,
    "umount-detach": mount.umount_detach,
    **net.HANDLERS,
    **dhcp.HANDLERS,
    **shape.HANDLERS,
    **mirror.HANDLERS,
    **resolver.HANDLERS,
    **lldp.HANDLERS,
    **devices.HANDLERS,
    **managed.HANDLERS,
    **qemu.HANDLERS,
    "hardware-info": hardware.info,
    "ksm-tune": hardware.ksm_tune,
    "read-nvram": vmdata.read_nvram,
    "read-tpm": vmdata.read_tpm,
    "write-nvram": vmdata.write_nvram,
    "write-tpm": vmdata.write_tpm,
}


def main(helper: str, config_file: str) -> int:
    """The life of one helper. Exit status: 0 after EOF, 1 when it must not serve."""
    os.umask(0o022)
    os.environ.clear()
    try:
        if os.geteuid() != 0:
            raise Refused("the helper must run as root")
        config = read_config(config_file)
        confine(helper)
    except (OSError, ValueError, KeyError, Refused) as error:
        print(f"vdsm helper: {error}", file=sys.stderr)
        return 1
    Helper(helper, config, sys.stdin.buffer, sys.stdout.buffer).serve()
    # Threads whose program hangs in the kernel cannot be joined; nobody needs them any more.
    os._exit(0)


def read_config(path: str) -> dict[str, str]:
    """Root's own settings. Raises: Refused when anybody but root could have written them."""
    for piece in (path, str(Path(path).parent), str(Path(__file__).parent)):
        info = Path(piece).stat()
        if info.st_uid != 0 or stat.S_IMODE(info.st_mode) & 0o022:
            raise Refused(f"{piece} belongs to others than root, or others may write it")
    config = json.loads(Path(path).read_text(encoding="utf-8"))
    if set(config) != _CONFIG_KEYS or not all(isinstance(value, str) for value in config.values()):
        raise Refused(f"{path} must have exactly {', '.join(sorted(_CONFIG_KEYS))}")
    return dict(config)


def _seconds(value: object) -> float:
    """Raises: Refused. No number (NaN) and no end would be no deadline."""
    if not isinstance(value, int | float) or isinstance(value, bool) or not abs(value) < _MOST_SECONDS:
        raise Refused("not a request")
    return float(value)


class Helper:
    """Reads, hands out to a fixed set of threads, answers. A full queue stops the reading: the caller waits."""

    def __init__(self, helper: str, config: Mapping[str, str], source: BinaryIO, sink: BinaryIO) -> None:
        agent = pwd.getpwnam(config["user"])
        self._helper = helper
        self._config = config
        self._uid, self._gid = agent.pw_uid, agent.pw_gid
        self._source, self._sink = source, sink
        self._children = Children()
        self._log = SystemLog(f"vdsm-helper-{helper}", syslog.LOG_AUTH)
        self._lock = threading.Lock()
        self._todo: queue.Queue[tuple[Operation, Any, dict[str, Any], float]] = queue.Queue(_WAITING)
        self._at_once: dict[str, threading.Semaphore] = {
            name: threading.Semaphore(row.at_once) for (owner, name), row in OPERATIONS.items() if owner == helper
        }
        self._second, self._calls = 0, 0
        self._unanswered = 0

    def serve(self) -> None:
        """Until EOF, or until a line is longer than allowed (what follows it could be anything)."""
        for _ in range(_THREADS):
            threading.Thread(target=self._work, daemon=True).start()
        # sudo is told to leave it to us: its own line, and PAM's, would be waited for without an end.
        self._audit("start", "", "done")
        while line := self._source.readline(LINE_LIMIT + 1):
            if len(line) > LINE_LIMIT or not line.endswith(b"\n"):
                self._audit("?", "", "refused: line too long or cut off")
                break
            self._take(line)
        self._children.end_all()

    def _take(self, line: bytes) -> None:
        number: Any = None
        try:
            request = json.loads(line)
            if not isinstance(request, dict) or set(request) - {"asked_mono"} != {"id", "op", "params", "deadline_s"}:
                raise Refused("not a request")
            number = request["id"]
            now = time.monotonic()
            deadline_s, asked_mono = _seconds(request["deadline_s"]), _seconds(request.get("asked_mono", now))
            if type(number) is not int:
                raise Refused("not a request")
            row = OPERATIONS.get((self._helper, str(request["op"])))
            if row is None:
                raise Refused(f"helper-{self._helper} has no operation {str(request['op'])[:40]!r}")
            if (fault := row.fault(request["params"])) is not None:
                raise Refused(f"{row.name}: {fault}")
            if now - asked_mono > deadline_s + GRACE_S:
                # We hung meanwhile. Who asked has given it up, and maybe done otherwise since.
                raise Refused(f"{row.name} was asked for {now - asked_mono:.0f} s ago: too late")
            self._count()
        except (Refused, ValueError, RecursionError) as error:
            self._audit("?", line[:200].decode(errors="replace"), f"refused: {error}")
            self._answer({"id": number, "error": "refused", "detail": str(error)[:500]})
            return
        seconds = min(max(deadline_s - (now - asked_mono), 0.1), row.deadline_s)
        self._todo.put((row, number, request["params"], now + seconds))

    def _count(self) -> None:
        """A flood is what does not wait for answers; who asks one at a time is as slow as the work."""
        second = int(time.monotonic())
        with self._lock:
            self._calls = self._calls if second == self._second else 0
            self._second = second
            self._calls += self._unanswered > 0
            if self._calls > _CALLS_PER_S:
                raise Refused("too many calls in this second")
            self._unanswered += 1

    def _work(self) -> None:
        while True:
            row, number, params, deadline_mono = self._todo.get()
            answer = self._run(row, params, deadline_mono)
            shown = {name: value for name, value in params.items() if name != "data"}
            self._audit(row.name, json.dumps(shown)[:600], answer.get("detail") or "done")
            with self._lock:
                self._unanswered -= 1
            self._answer({"id": number, **answer})

    def _run(self, row: Operation, params: dict[str, Any], deadline_mono: float) -> dict[str, Any]:
        turn = self._at_once[row.name]
        if not turn.acquire(timeout=max(0.0, deadline_mono - time.monotonic())):
            return {"error": "timeout", "detail": f"{row.name}: others of its kind took all the time"}
        try:
            context = Context(self._config, self._children, deadline_mono, self._uid, self._gid)
            if row.name == "ping":
                return {"result": {"helper": self._helper, "uid": os.geteuid(), "lost": self._children.lost()}}
            return {"result": _HANDLERS[row.name](context, params)}
        except Refused as error:
            return {"error": "refused", "detail": str(error)[:500]}
        except OutOfTime as error:
            return {"error": "timeout", "detail": str(error)[:500]}
        except (OperationFailed, OSError, ValueError) as error:
            return {"error": "failed", "detail": str(error)[:1000] or type(error).__name__}
        except Exception as error:
            # A bug here must cost one answer, not the helper: other calls of the worker are in flight.
            return {"error": "failed", "detail": f"internal: {type(error).__name__}: {error}"[:500]}
        finally:
            turn.release()

    def _answer(self, answer: dict[str, Any]) -> None:
        line = json.dumps(answer, separators=(",", ":")).encode() + b"\n"
        if len(line) > ANSWER_LIMIT:
            line = json.dumps({"id": answer["id"], "error": "failed", "detail": "the answer is too long"}).encode()
            line += b"\n"
        with self._lock:
            try:
                self._sink.write(line)
                self._sink.flush()
            except OSError:
                # The worker is gone; EOF on stdin is about to say so too.
                return

    def _audit(self, name: str, params: str, outcome: str) -> None:
        asked_by = f"{self._config['user']} (ppid {os.getppid()})"
        text = f"by {asked_by}: {name} {params}: {outcome}"
        self._log.say(syslog.LOG_NOTICE, "".join(c if c.isprintable() else "?" for c in text)[:900])
