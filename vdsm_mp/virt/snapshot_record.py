# SPDX-License-Identifier: Apache-2.0
"""A snapshot job as it stands in a VM's metadata, in VDSM's form, so that either agent ends what the other began.

`snapshot_job` is JSON. From the beginning: jobUUID, startTime (monotonic), timeout and freezeTimeout (seconds; these
three as text), abort, completed, frozen (by the caller, who thaws it), memoryParams ({} or {dst, dstparams}, names of
both volumes). As soon as the volumes are prepared: newDrives {target dev: names, path and more of the new leaf},
vmDrives {target dev: [its <disk> of before, the volume of before]}, memoryVol and memoryVolPath. VDSM takes a job
without one of the later four for one that never came to QEMU.

This agent had a form of its own before, under the same key: newDrives {target dev: volume id}, memoryParams the text
that names both volumes, "" without memory, and none of the others. It is read, so that an upgrade loses no job.
"""

import json
from collections.abc import Mapping
from typing import Any

import msgspec

from vdsm_mp.api.errors_virt import InvalidVmParameter
from vdsm_mp.api.internal import PreparedDrive
from vdsm_mp.virt import hibernation
from vdsm_mp.virt.metadata import Metadata
from vdsm_mp.virt.records import Drive, VolumeIds

KEY = "snapshot_job"


class SnapshotNote(msgspec.Struct, frozen=True):
    """new: {target dev: volume id of its new leaf}. memory: of a snapshot with memory, its two volumes.

    ours_to_thaw: who began it may have frozen the guest's file systems.
    """

    job_id: str
    new: Mapping[str, str]
    memory: tuple[VolumeIds, ...] = ()
    ours_to_thaw: bool = False


class Terms(msgspec.Struct, frozen=True):
    """What a snapshot was asked with. began_mono, timeout_s, freeze_s: seconds; memory as in `SnapshotNote`."""

    job_id: str
    began_mono: float
    timeout_s: float
    freeze_s: int
    frozen: bool
    memory: tuple[VolumeIds, ...] = ()


def read(metadata: Metadata) -> SnapshotNote | None:
    """None when no snapshot is under way. Raises: ValueError, of what cannot be read."""
    text = metadata.get(KEY)
    job = json.loads(text) if isinstance(text, str) and text else None
    if not job:
        return None
    try:
        memory = job.get("memoryParams") or {}
        return SnapshotNote(
            job_id=str(job["jobUUID"]),
            new={str(name): _volume(leaf) for name, leaf in (job.get("newDrives") or {}).items()},
            memory=_memory(memory) if memory else (),
            ours_to_thaw=not memory and not job.get("frozen"),
        )
    except (TypeError, KeyError, AttributeError, InvalidVmParameter) as error:
        raise ValueError(f"{error!r} in {text[:200]}") from error


def write(
    terms: Terms,
    wanted: list[tuple[Drive, VolumeIds]],
    prepared: Mapping[str, PreparedDrive],
    disks: Mapping[str, str],
    memory_path: str | None = None,
) -> str:
    """prepared, disks (their XML): by target dev. memory_path: None as long as it is not known."""
    memory = dict(zip(("dst", "dstparams"), (_names(ids) for ids in terms.memory), strict=False))
    job: dict[str, Any] = {
        "jobUUID": terms.job_id,
        "startTime": str(terms.began_mono),
        "timeout": str(int(terms.timeout_s)),
        "freezeTimeout": str(terms.freeze_s),
        "abort": False,
        "completed": False,
        "frozen": terms.frozen,
        "memoryParams": memory,
        "newDrives": {drive.name: _leaf(drive, leaf, prepared[drive.name]) for drive, leaf in wanted},
        "vmDrives": {
            drive.name: [disks[drive.name], drive.ids.volume_id] for drive, _ in wanted if drive.ids is not None
        },
    }
    if not memory or memory_path is not None:
        job |= {"memoryVol": memory.get("dst"), "memoryVolPath": memory_path}
    return json.dumps(job)


def _volume(leaf: Mapping[str, Any] | str) -> str:
    return leaf if isinstance(leaf, str) else str(leaf["volumeID"])


def _memory(params: Mapping[str, Any] | str) -> tuple[VolumeIds, ...]:
    if isinstance(params, str):
        return hibernation.volumes(params)
    return tuple(VolumeIds.of(params[key]) for key in ("dst", "dstparams"))


def _names(ids: VolumeIds) -> dict[str, str]:
    return {"device": "disk"} | ids.named()


def _leaf(drive: Drive, leaf: VolumeIds, ready: PreparedDrive) -> dict[str, str]:
    kind = "block" if ready.block else "file"
    return {
        **_names(leaf), "type": "disk", "diskType": kind, "name": drive.name, "format": "cow", "path": ready.path,
    }  # fmt: skip
