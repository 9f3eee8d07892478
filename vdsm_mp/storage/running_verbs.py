# SPDX-License-Identifier: Apache-2.0
"""What the virt worker tells of images that running VMs have open. Served by any host, not by the SPM alone.

Only a live merge needs this: QEMU has changed the chain, and the metadata of its volumes must follow.
"""

from vdsm_mp.api.internal import SetRunningLegality, SyncRunningChain
from vdsm_mp.api.verb import handles
from vdsm_mp.storage import image_merge
from vdsm_mp.storage.volume_access import Volumes
from vdsm_mp.storage.volume_file import change_metadata, read_volume

#: A change of an image that hangs must not keep the merge of another; virt asks again.
_CLAIM_S = 30.0


@handles(SetRunningLegality)
def set_running_legality(volumes: Volumes, ask: SetRunningLegality) -> None:
    domain = volumes.domains.find(ask.sd_id)
    with volumes.changing(f"legality of {ask.volume_id}", domain, ask.image_id, within_s=_CLAIM_S):
        legality = "LEGAL" if ask.legal else "ILLEGAL"
        change_metadata(domain, ask.image_id, ask.volume_id, legality=legality)


@handles(SyncRunningChain)
def sync_running_chain(volumes: Volumes, ask: SyncRunningChain) -> list[str]:
    """The order keeps the image usable at every step: the size first, then the chain, the leaf's type last."""
    domain = volumes.domains.find(ask.sd_id)
    with volumes.changing(f"merge of {ask.merged_volume_id}", domain, ask.image_id, within_s=_CLAIM_S):
        merged, _ = read_volume(domain, ask.image_id, ask.merged_volume_id)
        base, _ = read_volume(domain, ask.image_id, ask.base_volume_id)
        if base.capacity < merged.capacity:
            change_metadata(domain, ask.image_id, ask.base_volume_id, capacity=merged.capacity)
        chain = image_merge.follow(domain, ask.image_id, ask.leaf_volume_id)
        if ask.merged_volume_id not in chain:
            change_metadata(domain, ask.image_id, ask.merged_volume_id, legality="ILLEGAL")
        image_merge.make_leaf(domain, ask.image_id, ask.leaf_volume_id)
        return chain
