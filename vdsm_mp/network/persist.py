# SPDX-License-Identifier: Apache-2.0
"""Which networks are ours: what runs, what outlives a reboot, and what must be undone if we die half way.

running: in the run directory, which a reboot empties; safe: in the state directory, written by
Host.setSafeNetworkConfig; journal: in the run directory while a change is under way.
"""

from pathlib import Path
from typing import TypeVar

import msgspec

from vdsm_mp.common import files, log
from vdsm_mp.network.plan import Operation
from vdsm_mp.network.wanted import Config

logger = log.named(__name__)

T = TypeVar("T")


class Journal(msgspec.Struct, frozen=True, kw_only=True):
    """undo: operations that bring back what was before, in the order in which they have to run."""

    format: int = 1
    undo: tuple[Operation, ...]


class Store:
    def __init__(self, run_dir: str, state_dir: str) -> None:
        self._running = Path(run_dir) / "network" / "running.json"
        self._journal = Path(run_dir) / "network" / "journal.json"
        self._safe = Path(state_dir) / "network" / "safe.json"

    def open(self) -> None:
        for path in (self._running, self._safe):
            path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)

    def running(self) -> Config | None:
        """None after a reboot."""
        return _read(self._running, Config)

    def keep_running(self, config: Config) -> None:
        files.replace(self._running, msgspec.json.encode(config))

    def safe(self) -> Config | None:
        return _read(self._safe, Config)

    def keep_safe(self, config: Config) -> None:
        files.replace(self._safe, msgspec.json.encode(config))

    def journal(self) -> Journal | None:
        return _read(self._journal, Journal)

    def keep_journal(self, undo: list[Operation]) -> None:
        files.replace(self._journal, msgspec.json.encode(Journal(undo=tuple(undo))))

    def drop_journal(self) -> None:
        files.remove(self._journal)


def _read(path: Path, kind: type[T]) -> T | None:
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except FileNotFoundError:
        return None
    except (msgspec.DecodeError, msgspec.ValidationError) as error:
        # Guessing would cut the host off; as if it were absent, nothing of the host's network is touched.
        logger.error("%s is not readable and is left alone: %s", path, error)
        return None
