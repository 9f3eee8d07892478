# SPDX-License-Identifier: Apache-2.0
"""Chains: which volume stands on which. Pure; what is on storage comes in as records.

A chain is base first, leaf last. Its first volume may be a SHARED one (a template), which belongs to another image
and never has a parent. Parents are those of the metadata, which any owner of the volume may change.
"""

from collections.abc import Mapping

from vdsm_mp.api.errors_volume import ImageDoesNotExist, ImageIsNotLegalChain, VolumeDoesNotExist
from vdsm_mp.storage.volume_metadata import VolumeMetadata

Volumes = Mapping[str, VolumeMetadata]


def children_of(volumes: Volumes, volume_id: str) -> list[str]:
    """Volumes of the same image that stand on this one."""
    return sorted(one for one, metadata in volumes.items() if metadata.parent == volume_id)


def chain_to(volumes: Volumes, image_id: str, leaf_id: str) -> list[str]:
    """From the base to `leaf_id`, which need not be a leaf. Raises: VolumeDoesNotExist, ImageIsNotLegalChain."""
    if leaf_id not in volumes:
        raise VolumeDoesNotExist(leaf_id)
    chain = [leaf_id]
    while True:
        metadata = volumes[chain[-1]]
        if not metadata.has_parent or (metadata.shared and len(chain) > 1):
            return chain[::-1]
        parent = metadata.parent
        if parent not in volumes:
            raise ImageIsNotLegalChain(image_id, f"volume {parent}, parent of {chain[-1]}, is not there")
        if parent in chain:
            raise ImageIsNotLegalChain(image_id, f"volume {parent} is its own ancestor")
        chain.append(parent)


def chain_of(volumes: Volumes, image_id: str, sd_id: str) -> list[str]:
    """The whole chain of an image. Raises: ImageDoesNotExist (no volumes), ImageIsNotLegalChain (no or two leaves)."""
    own = {one: metadata for one, metadata in volumes.items() if metadata.image_id == image_id}
    if not own:
        raise ImageDoesNotExist(image_id, sd_id)
    if len(own) == 1:
        only = next(iter(own))
        if own[only].shared:
            return [only]
    leaves = [one for one, metadata in own.items() if metadata.voltype == "LEAF" and not children_of(own, one)]
    if len(leaves) != 1:
        raise ImageIsNotLegalChain(image_id, f"it has {len(leaves)} leaves")
    return chain_to(volumes, image_id, leaves[0])
