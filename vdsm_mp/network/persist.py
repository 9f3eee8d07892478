# SPDX-License-Identifier: Apache-2.0
"""Which networks are ours: what runs, what outlives a reboot, and what must be undone if we die half way.

running: in the run directory, which a reboot empties; safe: in the state directory, written by
Host.setSafeNetworkConfig; journal: in the run directory while a change is under way. What VDSM has left there counts as
long as we have written nothing since (`netconf.py`).
"""

import errno
import os
from collections.abc import Iterable
from pathlib import Path
from typing import TypeVar

import msgspec

from vdsm_mp.common import files, log
from vdsm_mp.network.netconf import Netconf
from vdsm_mp.network.steps import Operation
from vdsm_mp.network.wanted import Config

logger = log.named(__name__)

T = TypeVar("T")


class Journal(msgspec.Struct, frozen=True, kw_only=True):
    """before: what was in force, None = nothing. undo: operations that bring it back, in their order."""

    before: Config | None
    undo: tuple[Operation, ...]


class _Head(msgspec.Struct, frozen=True, kw_only=True):
    """First line of the journal's file; each line after it has the undo of one step."""

    format: int = 2
    before: Config | None


class Store:
    def __init__(self, run_dir: str, state_dir: str) -> None:
        self._running = Path(run_dir) / "network" / "running.json"
        self._journal = Path(run_dir) / "network" / "journal.json"
        self._safe = Path(state_dir) / "network" / "safe.json"
        self._vdsms = Netconf(run_dir, state_dir)

    def open(self) -> None:
        """Without its folders the worker starts all the same: others ask it what there is, and nothing is touched."""
        for path in (self._running, self._safe):
            try:
                _make_folder(path)
            except OSError as error:
                logger.error("%s: %s; no change can be kept until this is mended", path.parent, error.strerror)

    def running(self) -> Config | None:
        """None after a reboot."""
        return self._vdsms.applied(than=self._running) or _read(self._running, Config)

    def keep_running(self, config: Config | None) -> None:
        if config is None:
            files.remove(self._running)
        else:
            _make_folder(self._running)
            files.replace(self._running, msgspec.json.encode(config))

    def safe(self) -> Config | None:
        return self._vdsms.safe(than=self._safe) or _read(self._safe, Config)

    def keep_safe(self, config: Config) -> None:
        _make_folder(self._safe)
        files.replace(self._safe, msgspec.json.encode(config))

    def journal(self) -> Journal | None:
        """None when no change was cut short."""
        try:
            head, *steps = self._journal.read_bytes().split(b"\n")
            before = msgspec.json.decode(head, type=_Head).before
            # What follows the last newline was not written to its end, so its step has not run.
            undos = [msgspec.json.decode(line, type=list[Operation]) for line in steps[:-1]]
        except FileNotFoundError:
            return None
        except (msgspec.DecodeError, msgspec.ValidationError) as error:
            logger.error("%s is not readable and is left alone: %s", self._journal, error)
            return None
        return Journal(before=before, undo=tuple(operation for undo in reversed(undos) for operation in undo))

    def begin_journal(self, before: Config | None) -> None:
        _make_folder(self._journal)
        files.replace(self._journal, msgspec.json.encode(_Head(before=before)) + b"\n")

    def append_journal(self, undo: Iterable[Operation]) -> None:
        """On disk when it returns."""
        line = msgspec.json.encode(list(undo)) + b"\n"
        fd = os.open(self._journal, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
        try:
            if os.write(fd, line) != len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self._journal))
            os.fsync(fd)
        finally:
            os.close(fd)

    def drop_journal(self) -> None:
        files.remove(self._journal)


def _make_folder(of: Path) -> None:
    of.parent.mkdir(mode=0o755, parents=True, exist_ok=True)


def _read(path: Path, kind: type[T]) -> T | None:
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.DecodeError, msgspec.ValidationError) as error:
        # Guessing would cut the host off; as if it were absent, nothing of the host's network is touched.
        logger.error("%s is not readable and is left alone: %s", path, error)
        return None
