# SPDX-License-Identifier: Apache-2.0
"""Give back the space that file systems in a disk do not use: virt-sparsify, in place.

It starts a small machine of its own that looks into the disk, so it needs more than most hosts have installed (a
kernel for that machine, too); a host without it says so before anything is begun.
"""

import re
import shutil

from vdsm_mp.api.errors_volume import ImageActionFailed, InternalVolumeNotWritable, SharedVolumeNotWritable
from vdsm_mp.common import command, libguestfs
from vdsm_mp.storage.qemuimg import LONG_S, NICE
from vdsm_mp.storage.volume_file import ImageFiles
from vdsm_mp.tasks.progress import Progress

PROGRAM = "virt-sparsify"

_STEP = re.compile(rb"^(\d{1,3})/(\d{1,3})$", re.MULTILINE)


def require_program(image_id: str) -> None:
    """Raises: ImageActionFailed (250)."""
    if shutil.which(PROGRAM) is None:
        raise ImageActionFailed(image_id, f"{PROGRAM} is not installed on this host")


def check_leaf(image: ImageFiles, volume_id: str) -> None:
    """What this volume's file system has free may be in use above it. Raises: SharedVolumeNotWritable (219),
    InternalVolumeNotWritable (220)."""
    metadata, children = image.metadata(volume_id), image.children(volume_id)
    if metadata.shared:
        raise SharedVolumeNotWritable(volume_id)
    if children or metadata.voltype == "INTERNAL":
        raise InternalVolumeNotWritable(volume_id, ", ".join(children) or "its metadata says so")


def sparsify(image_id: str, path: str, fmt: str, progress: Progress) -> None:
    """Cut short, the disk is as good as before, with some of its space given back.

    Raises: ImageActionFailed (what the program says), TaskAborted.
    """

    def take(output: bytes) -> None:
        for done, of in _STEP.findall(output):
            progress.at(100.0 * int(done) / max(int(of), 1))

    try:
        with libguestfs.environment() as env:
            command.run(
                [*NICE, PROGRAM, "--machine-readable", "--in-place", "--format", fmt, path],
                deadline_s=LONG_S,
                env=env,
                on_output=take,
                abort=lambda: progress.interrupted,
                end_group=True,
            )
    except command.CommandAborted:
        progress.check()
        raise
    except (command.CommandFailed, command.CommandOverdue, OSError) as e:
        raise ImageActionFailed(image_id, str(e)) from e
