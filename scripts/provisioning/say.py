# SPDX-License-Identifier: Apache-2.0
"""Progress on the terminal and programs run with a deadline. Standard library only: nothing is installed yet."""

import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

#: A program started by another of these goes on with its clock.
_STARTED = float(os.environ.setdefault("VDSM_MP_SAY_STARTED", str(time.monotonic())))


class Failure(Exception):
    """A step did not succeed. The text names the step, the reason and where to look."""


def say(text: str) -> None:
    """One line of progress, with the seconds since the start."""
    print(f"[{time.monotonic() - _STARTED:6.1f}s] {text}", flush=True)


def run(
    argv: Sequence[str | Path],
    *,
    why: str,
    log: Path | None = None,
    timeout_s: float = 900,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    stdin: str | None = None,
    check: bool = True,
) -> str:
    """Run a program and return what it printed. Raises Failure with the end of it when it fails (`check`) or hangs.

    why: what the program is run for, in the words of the user. log: everything it printed is appended there.
    """
    try:
        done = subprocess.run(
            [str(word) for word in argv],
            input=stdin,
            stdin=None if stdin is not None else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=timeout_s,
            env=None if env is None else {**os.environ, **env},
            cwd=cwd,
            check=False,
        )
    except FileNotFoundError as error:
        raise Failure(f"{why}: {argv[0]} is not installed") from error
    except subprocess.TimeoutExpired as error:
        raise Failure(f"{why}: {argv[0]} was not done after {timeout_s:.0f} s") from error
    if log is not None:
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("a") as file:
            file.write(f"$ {' '.join(map(str, argv))}\n{done.stdout}\n")
    if done.returncode and check:
        tail = "\n    ".join(done.stdout.strip().splitlines()[-12:])
        where = f"\n  log: {log}" if log else ""
        raise Failure(f"{why}: {argv[0]} ended with {done.returncode}:\n    {tail}{where}")
    return done.stdout


def main(work: object) -> int:
    """Call `work()`; print a Failure as a person wants to read it. Returns the exit code."""
    try:
        work()  # type: ignore[operator]
    except Failure as failure:
        print(f"\nFAILED: {failure}", file=sys.stderr, flush=True)
        return 1
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
        return 130
    return 0
