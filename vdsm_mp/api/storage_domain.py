# SPDX-License-Identifier: Apache-2.0
"""StorageDomain.*"""

from typing import Any

from msgspec import field

from vdsm_mp.api.types import Uuid
from vdsm_mp.api.verb import Lane, Message, verb


@verb("StorageDomain.activate", owner="storage", lane=Lane.KEYED, key="sd_id", tier=1, deadline_s=180)
class ActivateStorageDomain(Message, frozen=True, kw_only=True):
    """Attached -> active.

    Needs the SPM role (654).
    """

    sd_id: Uuid = field(name="storagedomainID")
    pool_id: Uuid = field(name="storagepoolID")


@verb("StorageDomain.attach", owner="storage", lane=Lane.KEYED, key="sd_id", tier=1, deadline_s=180)
class AttachStorageDomain(Message, frozen=True, kw_only=True):
    """Add a domain to the pool.

    Needs the SPM role (654).
    """

    sd_id: Uuid = field(name="storagedomainID")
    pool_id: Uuid = field(name="storagepoolID")


@verb("StorageDomain.create", owner="storage", lane=Lane.KEYED, key="sd_id", tier=1, deadline_s=180)
class CreateStorageDomain(Message, frozen=True, kw_only=True):
    """Format a new domain on a connected target."""

    sd_id: Uuid = field(name="storagedomainID")
    domain_type: int = field(name="domainType")
    type_args: str | dict[str, Any] = field(name="typeArgs")
    name: str
    domain_class: int = field(name="domainClass")
    version: int | str | None = None
    block_size: int | None = field(default=None, name="blockSize")
    max_hosts: int | None = field(default=None, name="maxHosts")

    def remote_path(self) -> str:
        """Of a file domain: engines send it bare, the schema wraps it."""
        if isinstance(self.type_args, str):
            return self.type_args
        return str(self.type_args.get("remotePath", ""))


@verb("StorageDomain.deactivate", owner="storage", lane=Lane.KEYED, key="sd_id", tier=1, deadline_s=180)
class DeactivateStorageDomain(Message, frozen=True, kw_only=True):
    """Active -> attached; may move the master role.

    Needs the SPM role (654).
    """

    sd_id: Uuid = field(name="storagedomainID")
    pool_id: Uuid = field(name="storagepoolID")
    master_sd_id: Uuid = field(name="masterSdUUID")
    master_version: int = field(name="masterVersion")


@verb("StorageDomain.detach", owner="storage", lane=Lane.KEYED, key="sd_id", tier=1, deadline_s=180)
class DetachStorageDomain(Message, frozen=True, kw_only=True):
    """Remove a domain from the pool."""

    sd_id: Uuid = field(name="storagedomainID")
    pool_id: Uuid = field(name="storagepoolID")
    master_sd_id: Uuid | None = field(default=None, name="masterSdUUID")
    master_version: int | None = field(default=None, name="masterVersion")
    force: bool | None = None


@verb("StorageDomain.extend", owner="storage", lane=Lane.KEYED, key="sd_id", tier=2, planned=True)
class ExtendStorageDomain(Message, frozen=True, kw_only=True):
    """Add LUNs to a block domain.

    Needs the SPM role (654).
    """

    sd_id: Uuid = field(name="storagedomainID")
    pool_id: Uuid = field(name="storagepoolID")
    devlist: list[str]
    force: bool | None = None


@verb("StorageDomain.resizePV", owner="storage", reply=int, lane=Lane.KEYED, key="sd_id", tier=2, planned=True)
class ResizeStorageDomainPv(Message, frozen=True, kw_only=True):
    """Use a grown LUN.

    Needs the SPM role (654).
    """

    sd_id: Uuid = field(name="storagedomainID")
    pool_id: Uuid = field(name="storagepoolID")
    guid: str


@verb("StorageDomain.format", owner="storage", lane=Lane.KEYED, key="sd_id", tier=1, deadline_s=180)
class FormatStorageDomain(Message, frozen=True, kw_only=True):
    """Destroy a detached domain."""

    sd_id: Uuid = field(name="storagedomainID")
    auto_detach: bool = field(name="autoDetach")


@verb("StorageDomain.getFileStats", owner="storage", reply=dict[str, Any], safe=True, tier=2)
class GetStorageDomainFileStats(Message, frozen=True, kw_only=True):
    """Files of an ISO domain."""

    sd_id: Uuid = field(name="storagedomainID")
    pattern: str = "*"
    case_sensitive: bool = field(default=False, name="caseSensitive")


@verb("StorageDomain.getImages", owner="storage", reply=list[Uuid], safe=True, tier=2)
class GetStorageDomainImages(Message, frozen=True, kw_only=True):
    """Image ids of a domain."""

    sd_id: Uuid = field(name="storagedomainID")


class StorageDomainInfo(Message, frozen=True, kw_only=True):
    """pool: ids of the pools it is attached to, empty = none; an engine cannot do without the list."""

    uuid: str
    type: str
    domain_class: str = field(name="class")
    name: str
    role: str
    pool: list[str]
    version: str
    block_size: int
    alignment: int
    remote_path: str = field(name="remotePath")


@verb("StorageDomain.getInfo", owner="storage", reply=StorageDomainInfo, safe=True, tier=1)
class GetStorageDomainInfo(Message, frozen=True, kw_only=True):
    """Identity of a domain."""

    sd_id: Uuid = field(name="storagedomainID")


class StorageDomainStats(Message, frozen=True, kw_only=True):
    """disktotal, diskfree: bytes as text; an engine reads a number as nothing."""

    disktotal: str
    diskfree: str
    mdasize: int = 0
    mdafree: int = 0
    mdavalid: bool = True
    mdathreshold: bool = True


@verb("StorageDomain.getStats", owner="storage", reply=StorageDomainStats, safe=True, tier=1)
class GetStorageDomainStats(Message, frozen=True, kw_only=True):
    """Sizes and alerts of a domain."""

    sd_id: Uuid = field(name="storagedomainID")


@verb("StorageDomain.getVolumes", owner="storage", reply=list[Uuid], safe=True, tier=2)
class GetStorageDomainVolumes(Message, frozen=True, kw_only=True):
    """Volume ids of a domain or image."""

    sd_id: Uuid = field(name="storagedomainID")
    pool_id: Uuid | None = field(default=None, name="storagepoolID")
    image_id: Uuid | None = field(default=None, name="imageID")


@verb("StorageDomain.setDescription", owner="storage", lane=Lane.KEYED, key="sd_id", tier=2)
class SetStorageDomainDescription(Message, frozen=True, kw_only=True):
    """Rename a domain.

    Needs the SPM role (654).
    """

    sd_id: Uuid = field(name="storagedomainID")
    description: str


@verb("StorageDomain.validate", owner="storage", safe=True, tier=3)
class ValidateStorageDomain(Message, frozen=True, kw_only=True):
    """Self check."""

    sd_id: Uuid = field(name="storagedomainID")


@verb("StorageDomain.dump", owner="storage", reply=dict[str, Any], safe=True, tier=3)
class DumpStorageDomain(Message, frozen=True, kw_only=True):
    """Metadata of all volumes and leases.

    metadata: as getInfo. volumes: {volume id: what is known of it, status OK, INVALID or REMOVED}.
    full: also leases and lockspace (rows with offset, lockspace, resource, timestamp, own, gen; leases lver), xleases
    {lease id: offset, updating} where the domain has them, errors {part: sentence} of what cannot be read.
    """

    sd_id: Uuid
    full: bool | None = None
