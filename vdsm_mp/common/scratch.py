# SPDX-License-Identifier: Apache-2.0
"""Folders for what programs leave behind while they work. One that a dead process has left goes with the next look.

Whoever uses a folder holds a lock on it, and the kernel lets go of that lock when its holder dies, however it dies. So
everybody may look at any time and remove what nobody holds.
"""

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from vdsm_mp.common import log

logger = log.named(__name__)

#: On a disk, kept when the host starts again: what is put there may be large.
PLACE = Path("/var/tmp")  # noqa: S108
#: Short: sockets are made in these folders.
_PREFIX = "vdsm-mp-w-"
_ATTEMPTS = 5


@contextmanager
def folder(below: Path = PLACE) -> Iterator[Path]:
    """One that only we enter; gone afterwards. Raises: OSError."""
    below.mkdir(parents=True, exist_ok=True)
    sweep(below)
    path, lock = _made(below)
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)
        os.close(lock)


def sweep(below: Path = PLACE) -> None:
    """Remove what dead processes of this user have left. Never raises; what cannot be removed stays, and is said."""
    for path in sorted(below.glob(f"{_PREFIX}*")):
        try:
            lock = _locked(path)
        except OSError as error:
            logger.warning("%s stays: %s", path, error)
            continue
        if lock is not None:
            shutil.rmtree(path, onerror=lambda _, what, why: logger.warning("%s stays: %s", what, why[1]))
            os.close(lock)


def _made(below: Path) -> tuple[Path, int]:
    for _ in range(_ATTEMPTS):
        path = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=below))
        # Somebody who sweeps may have come in between.
        lock = _locked(path)
        if lock is not None:
            return path, lock
    raise OSError(f"no folder in {below} could be kept")


def _locked(path: Path) -> int | None:
    """None when somebody else holds it, or it is gone, or another user's."""
    try:
        lock = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except (FileNotFoundError, PermissionError, NotADirectoryError):
        return None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        held = os.fstat(lock)
        if held.st_uid == os.geteuid() and os.path.samestat(held, os.lstat(path)):
            return lock
    except (BlockingIOError, FileNotFoundError):
        pass
    except BaseException:
        os.close(lock)
        raise
    os.close(lock)
    return None
