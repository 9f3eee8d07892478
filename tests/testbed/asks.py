# SPDX-License-Identifier: Apache-2.0
"""A scenario that runs inside one testbed host has commands run in the others: by files in the folder that all see.

Inside: `ask(1, "exportfs -ua")` returns when host1 has done it. On the machine: `Play` runs the scenario's program in
its host and does what it asks for, until it has ended and said what it saw (a line `SEEN {json}`).
"""

import contextlib
import itertools
import json
import socket
import sys
import threading
from pathlib import Path
from typing import Any

from tests.support.eventually import eventually
from tests.testbed.channel import Result
from tests.testbed.host import Host
from tests.testbed.testbed import Testbed

_FOLDER = Path("/testbed")
_numbers = itertools.count(1)


def ask(host: int, command: str) -> None:
    """Inside a host: have `command` run in host number `host`. Raises: AssertionError (it failed)."""
    stem = f"{socket.gethostname()}-{next(_numbers)}"
    fresh = _FOLDER / f"{stem}.new"
    fresh.write_text(json.dumps({"host": host, "command": command}))
    fresh.rename(_FOLDER / f"{stem}.ask")
    answer = _FOLDER / f"{stem}.done"
    eventually(answer.exists, within_s=120, every_s=0.1)
    found = json.loads(answer.read_text())
    assert found["status"] == 0, (command, found["output"])


def folders() -> list[str]:
    """Of the interpreter and its packages: the machine's own, seen in a host through the host file system."""
    found = {str(Path(sys.prefix)), str(Path(sys.executable).resolve().parents[1])}
    return sorted(folder for folder in found if folder != "/usr")


def must(result: Result) -> None:
    assert result.status == 0, result.output[-6000:]


class Play:
    """One program in one host; several may run at a time."""

    def __init__(self, host: Host, module: str, *words: str, timeout_s: float) -> None:
        line = f"cd /project && PYTHONDONTWRITEBYTECODE=1 {sys.executable} -m {module} {' '.join(words)} 2>&1"
        self._results: list[Result] = []
        self._thread = threading.Thread(
            target=lambda: self._results.append(host.run(line, timeout=timeout_s)), daemon=True
        )
        self._thread.start()

    @property
    def over(self) -> bool:
        return bool(self._results)

    def seen(self) -> dict[str, Any]:
        """What it said at its end. Raises: AssertionError (it failed)."""
        self._thread.join(60)
        [result] = self._results
        must(result)
        print(result.output[-3000:], file=sys.stderr)
        line = next(line for line in result.output.splitlines() if line.startswith("SEEN "))
        found: dict[str, Any] = json.loads(line[5:])
        return found


def serve(bed: Testbed, *plays: Play, within_s: float) -> None:
    """Do what the plays ask for until all are over."""
    shared = Path(bed.folder) / "testbed"

    def over() -> bool:
        for path in sorted(shared.glob("*.ask")):
            _answer(bed, path)
        return all(play.over for play in plays)

    eventually(over, within_s=within_s, every_s=0.1)


def _answer(bed: Testbed, path: Path) -> None:
    asked = json.loads(path.read_text())
    result = bed.hosts[asked["host"] - 1].run(asked["command"], timeout=90)
    fresh = path.with_suffix(".new")
    fresh.write_text(json.dumps({"status": result.status, "output": result.output[-2000:]}))
    fresh.rename(path.with_suffix(".done"))
    with contextlib.suppress(FileNotFoundError):
        path.unlink()
