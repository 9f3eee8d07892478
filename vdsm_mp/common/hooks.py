# SPDX-License-Identifier: Apache-2.0
"""Hook scripts of an administrator: VDSM's file and environment protocol, with limits it never had.

`<hooks_dir>/<point>/` holds executables, run in the order of their names. A hook gets its document (XML in the file
named by `_hook_domxml`, or JSON in `_hook_json`), changes the file in place, and what the last one leaves is the
result. Exit status 0: fine; 1: an error, the next hooks still run; anything else: an error, and no more hooks run.

Called from pool threads of any room. Hooks run as the agent's user, so a file that others than root or this user could
have written is skipped and named in the log, and so is a symbolic link.
"""

import contextlib
import hashlib
import json
import logging
import os
import re
import stat
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from vdsm_mp.common import clock, command, log
from vdsm_mp.common.command import CommandFailed, CommandOverdue
from vdsm_mp.common.errors import Failed

logger = log.named(__name__)

#: Seconds one hook may take. A hook that asks another host is slow; one that hangs must not hold a VM's key for long.
DEADLINE_S = 60.0
_OUTPUT_LIMIT = 64 << 10
_DOCUMENT_LIMIT = 16 << 20
_STOP = 2
_POINT = re.compile(r"\A[a-z][a-z0-9_]*\Z")
_NAME = re.compile(r"\A[A-Za-z_][A-Za-z0-9_]*\Z")
#: Names by which a document of a client would change what program runs, or how.
_NEVER = re.compile(
    r"\A(LD_.*|PYTHON.*|PERL.*|RUBY.*|BASH.*|PATH|ENV|IFS|SHELL.*|HOME|PS4|_hook_.*|GCONV_PATH|MALLOC_.*)\Z"
)
_MODULES = Path(__file__).resolve().parents[1] / "hookapi"


class HookFailed(Failed):
    """A hook said no; the operation has not begun, or its message says what stays."""

    code = 78
    msg = "Hook {self.point} failed: {self.detail}"

    def __init__(self, point: str, detail: str) -> None:
        super().__init__(point, detail)
        self.point = point
        self.detail = detail


class Hooks(msgspec.Struct, frozen=True):
    """directory: holds a folder for each point. work_dir: for documents; ours, and not readable by others."""

    directory: str
    work_dir: str
    deadline_s: float = DEADLINE_S
    #: For a group of hooks that have so much time together; what is not begun by then does not run.
    until_mono: float = float("inf")

    def prepare(self) -> None:
        """Make the folder for documents. Called once by each worker that runs hooks."""
        Path(self.work_dir).mkdir(mode=0o700, parents=True, exist_ok=True)

    def installed(self) -> dict[str, dict[str, dict[str, str]]]:
        """{point: {name: {"checksum": SHA-256}}} of the hooks that would run."""
        found: dict[str, dict[str, dict[str, str]]] = {}
        with contextlib.suppress(OSError):
            for folder in sorted(Path(self.directory).iterdir()):
                hooks = self._of(folder.name)
                if hooks:
                    found[folder.name] = {hook.name: {"checksum": _checksum(hook)} for hook in hooks}
        return found

    def has(self, point: str) -> bool:
        """Would any hook of this point run? For documents that cost something to make. One look where there is none."""
        return bool(self._of(point))

    def xml(self, point: str, document: str, env: Mapping[str, str] | None = None, *, raises: bool = True) -> str:
        """Run a point whose document is XML; the document as the hooks left it. Raises: HookFailed, if `raises`."""
        return self._run(point, "_hook_domxml", document, env or {}, raises)

    def json(self, point: str, document: Any, env: Mapping[str, str] | None = None, *, raises: bool = True) -> Any:
        """The same for JSON. Without hooks nothing is encoded: `document` itself comes back."""
        if not self._of(point):
            return document
        text = self._run(point, "_hook_json", json.dumps(document), env or {}, raises)
        try:
            return json.loads(text)
        except ValueError as error:
            if raises:
                raise HookFailed(point, f"what it left is not JSON: {error}") from error
            logger.warning("hook %s left something that is not JSON; it is not used", point)
            return document

    def _run(self, point: str, variable: str, document: str, env: Mapping[str, str], raises: bool) -> str:
        hooks = self._of(point)
        if not hooks:
            return document
        fd, path = tempfile.mkstemp(prefix=f"hook-{point}-", dir=self.work_dir)
        try:
            with os.fdopen(fd, "w", encoding="utf-8") as file:
                file.write(document)
            error = self._each(point, hooks, {**_allowed(env), variable: path})
            left = _read(path)
        except (OSError, UnicodeError) as failure:
            error, left = str(failure), document
        finally:
            with contextlib.suppress(OSError):
                Path(path).unlink()
        if error and raises:
            raise HookFailed(point, error)
        return left

    def _each(self, point: str, hooks: list[Path], env: Mapping[str, str]) -> str:
        """Run them; the last error, "" when all went well."""
        error = ""
        for hook in hooks:
            left_s = min(self.deadline_s, self.until_mono - clock.mono_s())
            if left_s <= 0:
                return f"{hook.name}: no time is left"
            try:
                done = command.run(
                    [str(hook)],
                    deadline_s=left_s,
                    env={"PYTHONPATH": str(_MODULES), **env},
                    cwd="/",
                    accept=range(-64, 256),
                    max_output_bytes=_OUTPUT_LIMIT,
                    end_group=True,
                )
                status, said = done.status, done.err.decode(errors="replace").strip()
            except (CommandFailed, CommandOverdue) as failure:
                status, said = _STOP, str(failure)
            logger.log(
                logging.INFO if status == 0 else logging.WARNING,
                "hook %s/%s status=%d %s", point, hook.name, status, said[-500:],
            )  # fmt: skip
            if status:
                error = f"{hook.name}: {said[-500:] or f'status {status}'}"
            if status not in (0, 1):
                break
        return error

    def _of(self, point: str) -> list[Path]:
        if not _POINT.match(point):
            return []
        try:
            names = os.listdir(f"{self.directory}/{point}")
        except OSError:
            return []
        folder = Path(self.directory) / point
        entries = [folder / name for name in sorted(names)]
        if entries and not _trusted(folder):
            logger.warning("%s may be written by others; no hook of it runs", folder)
            return []
        return [entry for entry in entries if _runnable(entry)]


def _runnable(path: Path) -> bool:
    try:
        info = path.lstat()
    except OSError:
        return False
    if not stat.S_ISREG(info.st_mode):
        if stat.S_ISLNK(info.st_mode):
            logger.warning("hook %s is a symbolic link and does not run", path)
        return False
    if not os.access(path, os.X_OK):
        return False
    if not _trusted(path):
        logger.warning("hook %s may be written by others and does not run", path)
        return False
    return True


def _trusted(path: Path) -> bool:
    info = path.stat()
    return info.st_uid in (0, os.geteuid()) and not stat.S_IMODE(info.st_mode) & 0o022


def _allowed(env: Mapping[str, str]) -> dict[str, str]:
    """Custom properties come from clients: those that would change the program that runs are left out."""
    fine = {n: str(v) for n, v in env.items() if _NAME.match(n) and not _NEVER.match(n) and "\0" not in str(v)}
    if left_out := env.keys() - fine.keys():
        logger.warning("not given to hooks: %s", ", ".join(sorted(left_out)))
    return fine


def _read(path: str) -> str:
    if Path(path).stat().st_size > _DOCUMENT_LIMIT:
        raise OSError(f"a hook left more than {_DOCUMENT_LIMIT} bytes")
    return Path(path).read_text(encoding="utf-8")


def _checksum(path: Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError:
        return ""
