# SPDX-License-Identifier: Apache-2.0
"""Live merges as they stand in a VM's metadata, in VDSM's form, so that either agent takes up what the other began.

`block_jobs` is JSON: {job id: {id, drive, disk: {poolID, domainID, imageID, volumeID}, base, top, bandwidth, state,
extend, pivot}}. disk.volumeID is the leaf at the beginning; top is the same one when the merge is active. VDSM's states
are EXTEND (of a block volume, QEMU is not asked yet), COMMIT and CLEANUP; we do not believe them, QEMU's chain tells
more, and write COMMIT, from which VDSM looks for itself. extend and pivot are its own notes.

This agent had a form of its own before, under `jobs`: {job id: {id, drive, image_id, sd_id, base, top, bandwidth,
active}}. It is read, so that an upgrade loses no merge, and goes with the next write.
"""

import json
from collections.abc import Mapping
from typing import Any

import msgspec

from vdsm_mp.virt.metadata import Metadata
from vdsm_mp.virt.records import VolumeIds

KEY, _BEFORE = "block_jobs", "jobs"


class Merge(msgspec.Struct, frozen=True):
    """drive: target dev. leaf: the volume that was the leaf when it began; base, top: volume ids."""

    id: str
    drive: str
    leaf: VolumeIds
    base: str
    top: str
    bandwidth: int = 0

    @property
    def active(self) -> bool:
        return self.top == self.leaf.volume_id

    def entry(self, cur: int, end: int) -> dict[str, Any]:
        """As the statistics carry it."""
        return {
            "id": self.id, "jobType": "block", "blockJobType": "commit", "drive": self.drive,
            "imgUUID": self.leaf.image_id, "bandwidth": self.bandwidth, "cur": str(cur), "end": str(end),
        }  # fmt: skip


def read(metadata: Metadata) -> dict[str, Merge]:
    """{job id: merge}. Raises: ValueError, of what cannot be read."""
    found: dict[str, Merge] = {}
    for key, leaf_of in ((_BEFORE, _leaf_of_before), (KEY, _leaf)):
        text = metadata.get(key)
        if not isinstance(text, str) or not text:
            continue
        try:
            found |= {merge_id: _merge(one, leaf_of(one)) for merge_id, one in json.loads(text).items()}
        except (TypeError, KeyError, AttributeError) as error:
            raise ValueError(f"{error!r} in {text[:200]}") from error
    return found


def write(merges: Mapping[str, Merge]) -> dict[str, str | None]:
    """The values for the metadata; None removes one."""
    text = json.dumps({merge_id: _written(merge) for merge_id, merge in merges.items()}) if merges else None
    return {KEY: text, _BEFORE: None}


def _leaf(one: Mapping[str, Any]) -> VolumeIds:
    return VolumeIds.of(one["disk"])


def _leaf_of_before(one: Mapping[str, Any]) -> VolumeIds:
    """The pool was not noted, nor the leaf of a merge below it; nothing of ours asks for them."""
    return VolumeIds("", str(one["sd_id"]), str(one["image_id"]), str(one["top"]) if one["active"] else "")


def _merge(one: Mapping[str, Any], leaf: VolumeIds) -> Merge:
    return Merge(
        id=str(one["id"]),
        drive=str(one["drive"]),
        leaf=leaf,
        base=str(one["base"]),
        top=str(one["top"]),
        bandwidth=max(0, int(one.get("bandwidth") or 0)),
    )


def _written(merge: Merge) -> dict[str, Any]:
    return {
        "id": merge.id, "drive": merge.drive, "disk": merge.leaf.named(), "base": merge.base, "top": merge.top,
        "bandwidth": merge.bandwidth, "state": "COMMIT", "extend": None, "pivot": None,
    }  # fmt: skip
