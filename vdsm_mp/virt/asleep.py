# SPDX-License-Identifier: Apache-2.0
"""Which memory volumes are prepared for a VM that falls asleep or wakes, noted in its domain before they are.

Whoever dies meanwhile: the next life finds the note and gives them back. Doing so twice is harmless.
"""

from functools import partial

from vdsm_mp.common import log
from vdsm_mp.common.errors import Error
from vdsm_mp.virt.drives import Drives
from vdsm_mp.virt.keeping import Keeper
from vdsm_mp.virt.machine import VmStatus
from vdsm_mp.virt.metadata import Metadata
from vdsm_mp.virt.records import VolumeIds
from vdsm_mp.virt.registry import Vms

logger = log.named(__name__)

_KEY = "memory_volumes"
#: Its memory is written or read, or soon will be.
UNDER_WAY = (VmStatus.SAVING, VmStatus.RESTORING, VmStatus.WAIT_FOR_LAUNCH)


def noted(metadata: Metadata, *volumes: VolumeIds) -> Metadata:
    """For a VM that is to be defined."""
    return metadata.with_values(**{_KEY: _text(volumes)})


def note(keeper: Keeper, vm_id: str, *volumes: VolumeIds) -> None:
    """Raises: as `Keeper.remember`."""
    keeper.remember(vm_id, **{_KEY: _text(volumes)})


def held(metadata: Metadata) -> list[VolumeIds]:
    """What the note says; what cannot be read is nobody's volume."""
    parts = [part.split(",") for part in str(metadata.get(_KEY, "")).split(";")]
    return [VolumeIds(*part) for part in parts if len(part) == 4 and all(part)]


def was_written(metadata: Metadata) -> bool:
    """Was it falling asleep? Then two volumes are noted, its memory and the parameters; of one that wakes only one."""
    return len(held(metadata)) > 1


def give_back(keeper: Keeper, drives: Drives, vms: Vms, vm_id: str, volumes: list[VolumeIds]) -> None:
    """To storage, and the note goes. A VM that is gone has none. This may come late: what a later life of it has noted
    stays, it may be reading it, or about to.
    """
    for ids in volumes:
        drives.teardown(ids, unless=partial(_needed_anew, vms, vm_id, volumes, ids))
    if _noted_anew(vms, vm_id, volumes):
        return
    try:
        keeper.remember(vm_id, **{_KEY: None})
    except Error as error:
        logger.info("vm=%s the note of its memory volumes stays: %s", vm_id, error)


def _needed_anew(vms: Vms, vm_id: str, volumes: list[VolumeIds], ids: VolumeIds) -> bool:
    return ids in _noted_anew(vms, vm_id, volumes)


def _noted_anew(vms: Vms, vm_id: str, volumes: list[VolumeIds]) -> list[VolumeIds]:
    """What it needs now, when that is not what is to be given back: it wakes, say, while its sleep is not over yet."""
    record = vms.get(vm_id)
    noted = held(record.metadata) if record is not None else []
    return noted if noted != volumes or (record is not None and record.life.status in UNDER_WAY) else []


def _text(volumes: tuple[VolumeIds, ...]) -> str:
    return ";".join(",".join((ids.pool_id, ids.sd_id, ids.image_id, ids.volume_id)) for ids in volumes)
