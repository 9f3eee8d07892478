# SPDX-License-Identifier: Apache-2.0
"""Which memory volumes are prepared for a VM that falls asleep or wakes, noted in its domain before they are.

Whoever dies meanwhile: the next life finds the note and gives them back. Doing so twice is harmless.
"""

from vdsm_mp.common import log
from vdsm_mp.common.errors import Error
from vdsm_mp.virt.drives import Drives
from vdsm_mp.virt.keeping import Keeper
from vdsm_mp.virt.metadata import Metadata
from vdsm_mp.virt.records import VmRecord, VolumeIds

logger = log.named(__name__)

_KEY = "memory_volumes"


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


def give_back(
    keeper: Keeper, drives: Drives, vm_id: str, volumes: list[VolumeIds], now: VmRecord | None = None
) -> None:
    """To storage, and the note goes. A VM that is gone has none. now: of who may be late; what a later life of it has
    noted stays, it may be reading it.
    """
    used = held(now.metadata) if now is not None else []
    later = used not in ([], volumes)
    for ids in volumes:
        if not later or ids not in used:
            drives.teardown(ids)
    if later:
        return
    try:
        keeper.remember(vm_id, **{_KEY: None})
    except Error as error:
        logger.info("vm=%s the note of its memory volumes stays: %s", vm_id, error)


def _text(volumes: tuple[VolumeIds, ...]) -> str:
    return ";".join(",".join((ids.pool_id, ids.sd_id, ids.image_id, ids.volume_id)) for ids in volumes)
