# SPDX-License-Identifier: Apache-2.0
"""The environment of programs that look into disks by libguestfs: virt-sysprep, virt-sparsify, virt-v2v.

They make sockets and overlays in a folder for temporary files, and leave them there when they are killed. So each run
gets a folder of its own, and that goes with it, or with the next look when we are killed, too.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from vdsm_mp.common import scratch


@contextmanager
def environment(below: Path = scratch.PLACE) -> Iterator[dict[str, str]]:
    """What to add to the environment. below: where the folder is made, and `below` itself when it is not there.

    Raises: OSError.
    """
    with scratch.folder(below) as folder:
        yield {
            # Not through a libvirtd: it knows nothing of their machine, and could not look for it.
            "LIBGUESTFS_BACKEND": "direct",
            "TMPDIR": str(folder),
            "XDG_RUNTIME_DIR": str(folder),  # of its sockets
            # The machine itself is made once, not for every run.
            "LIBGUESTFS_CACHEDIR": os.environ.get("LIBGUESTFS_CACHEDIR", str(scratch.PLACE)),
        }
