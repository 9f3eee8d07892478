# SPDX-License-Identifier: Apache-2.0
"""Which program lies on the disk: what a process that starts now, or imports something for the first time, would load.

The master asks before it loads its rooms and hands the answer down; whoever finds another one later runs beside an
upgrade, and must not mix the two.
"""

import hashlib
import os
import sys
from pathlib import Path

import vdsm_mp

ROOT = str(Path(vdsm_mp.__file__).parent)


def build_id() -> str:
    """Version and a digest of the files' sizes and times. A tree that is just being replaced is none that runs."""
    try:
        files = sorted(_files())
    except OSError as error:
        return f"{vdsm_mp.__version__}-unreadable: {error}"
    digest = hashlib.blake2b("".join(files).encode(), digest_size=8)
    return f"{vdsm_mp.__version__}-{digest.hexdigest()}"


def missing() -> list[str]:
    """What another start would need and does not find, in words: nothing, unless somebody removed the program."""
    needed = (sys.executable, f"{ROOT}/__main__.py", f"{ROOT}/master.py")
    return [f"the program is gone: {path} is not there" for path in needed if not Path(path).exists()][:1]


def _files() -> list[str]:
    found: list[str] = []
    folders = [ROOT]
    while folders:  # every worker does this once: as little Python as possible, its pages stay shared
        with os.scandir(folders.pop()) as entries:
            for entry in entries:
                if entry.name.endswith(".py"):
                    facts = entry.stat()
                    found.append(f"{entry.path[len(ROOT) :]} {facts.st_size} {facts.st_mtime_ns}\n")
                elif entry.name != "__pycache__" and entry.is_dir():
                    folders.append(entry.path)
    return found
