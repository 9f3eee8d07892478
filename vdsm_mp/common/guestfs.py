# SPDX-License-Identifier: Apache-2.0
"""The environment of programs that look into disks by libguestfs: virt-sysprep, virt-sparsify, virt-v2v.

They make sockets and overlays in a folder for temporary files, and leave them there when they are killed. So each run
gets a folder of its own, and that goes with it.
"""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def environment(below: Path | None = None) -> Iterator[dict[str, str]]:
    """What to add to the environment. below: where the folder is made, and `below` itself when it is not there.

    A short name: sockets are made in it. Raises: OSError.
    """
    if below is not None:
        below.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="w-", dir=below or "/var/tmp", ignore_cleanup_errors=True) as folder:  # noqa: S108
        yield {
            # Not through a libvirtd: it knows nothing of their machine, and could not look for it.
            "LIBGUESTFS_BACKEND": "direct",
            "TMPDIR": folder,
            "XDG_RUNTIME_DIR": folder,  # of its sockets
            # The machine itself is made once, not for every run.
            "LIBGUESTFS_CACHEDIR": os.environ.get("LIBGUESTFS_CACHEDIR", "/var/tmp"),  # noqa: S108
        }
