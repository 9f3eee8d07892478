# SPDX-License-Identifier: Apache-2.0
"""Make the disks of a template anonymous: virt-sysprep takes out keys, logs, addresses, whatever tells whose it was.

It looks into all disks together, in a small machine of its own, so it needs more than most hosts have installed (a
kernel for that machine, too); a host without it says so before anything is begun. The volumes are ILLEGAL meanwhile:
the engine makes them LEGAL when the job is done, and throws them away when it fails.
"""

import shutil
from collections.abc import Mapping
from typing import Any

from vdsm_mp.api.errors_virt import SealFailed
from vdsm_mp.api.verb import handles
from vdsm_mp.api.vm_guest import SealVm
from vdsm_mp.common import command, libguestfs, log
from vdsm_mp.common.command import CommandAborted, CommandFailed, CommandOverdue
from vdsm_mp.tasks.jobs import Jobs
from vdsm_mp.tasks.progress import Progress
from vdsm_mp.virt.domxml_parse import volume_ids
from vdsm_mp.virt.drives import Drives
from vdsm_mp.virt.records import VolumeIds

logger = log.named(__name__)

_PROGRAM = "virt-sysprep"
_NICE = ("nice", "-n", "19", "ionice", "-c", "3")
_LONG_S = 24 * 3600.0


@handles(SealVm)
def seal_vm(drives: Drives, jobs: Jobs, ask: SealVm) -> None:
    """Returns when the job is begun. images: [{sd_id, img_id, vol_id}]."""
    images = [_ids(ask.sp_id, image) for image in ask.images]
    if not images:
        raise SealFailed("no disk is named")
    if shutil.which(_PROGRAM) is None:
        raise SealFailed(f"{_PROGRAM} is not installed on this host")
    jobs.start(ask.job_id, "seal_vm", lambda progress: _seal(drives, ask.vm_id, images, progress))


def _ids(pool_id: str, image: Mapping[str, Any]) -> VolumeIds:
    named = {"poolID": pool_id} | {
        to: image.get(key) for to, key in (("domainID", "sd_id"), ("imageID", "img_id"), ("volumeID", "vol_id"))
    }
    ids = volume_ids(named)
    if ids is None:
        raise SealFailed("a disk is not named by sd_id, img_id and vol_id")
    return ids


def _seal(drives: Drives, vm_id: str, images: list[VolumeIds], progress: Progress) -> None:
    held: list[VolumeIds] = []
    words: list[str] = []
    try:
        for ids in images:
            held.append(ids)
            prepared = drives.prepare(ids, allow_illegal=True)
            # Its format is told: one that is looked for in the disk is what the guest wrote there.
            words += ["--format", "qcow2" if prepared.format == "cow" else "raw", "--add", prepared.path]
        with libguestfs.environment() as env:
            command.run(
                [*_NICE, _PROGRAM, *words],
                deadline_s=_LONG_S,
                env=env,
                abort=lambda: progress.interrupted,
                end_group=True,
            )
    except CommandAborted:
        progress.check()
        raise
    except (CommandFailed, CommandOverdue, OSError) as error:
        raise SealFailed(str(error)) from error
    finally:
        for ids in held:
            drives.teardown(ids)
    logger.info("template %s: %d disks are sealed", vm_id, len(images))
