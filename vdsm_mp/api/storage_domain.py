# SPDX-License-Identifier: Apache-2.0
"""StorageDomain.*"""

from typing import Any

from msgspec import field

from vdsm_mp.api.errors_storage import (
    DOMAIN_UNREADABLE,
    NEW_MASTER,
    SPM_ON_DOMAIN,
    SPM_ROLE,
    BlockSizeMismatch,
    DomainAttached,
    DomainAttachedElsewhere,
    DomainClassWrong,
    DomainExists,
    DomainMetadataRefused,
    DomainNotActive,
    DomainNotEmpty,
    DomainNotFound,
    DomainNotInPool,
    DomainNotMounted,
    DomainPoolConnected,
    DomainStateWrong,
    DomainTargetUnsupported,
    DomainTypeUnsupported,
    DomainVersionsMixed,
    DomainVersionUnsupported,
    LockInitFailed,
    MasterCannotBeDetached,
    MasterNotFound,
    NotAscii,
    RemotePathIllegal,
    TooManyDomains,
)
from vdsm_mp.api.errors_task import TaskInProgress
from vdsm_mp.api.types import MasterVersion, Uuid
from vdsm_mp.api.verb import Lane, Message, verb


@verb(
    "StorageDomain.activate",
    owner="storage",
    lane=Lane.KEYED,
    key="sd_id",
    tier=1,
    deadline_s=180,
    raises=(*SPM_ON_DOMAIN, MasterNotFound),
)
class ActivateStorageDomain(Message, frozen=True, kw_only=True):
    """Take an attached domain of the pool into use: from then on this host monitors it.

    An active domain stays as it is. When it fails the domain stays attached and out of use.
    """

    sd_id: Uuid = field(name="storagedomainID")
    pool_id: Uuid = field(name="storagepoolID")


@verb(
    "StorageDomain.attach",
    owner="storage",
    lane=Lane.KEYED,
    key="sd_id",
    tier=1,
    deadline_s=180,
    raises=(*SPM_ROLE, DomainNotFound, MasterNotFound, TooManyDomains, DomainVersionsMixed, DomainAttachedElsewhere),
)
class AttachStorageDomain(Message, frozen=True, kw_only=True):
    """Add a domain to the pool, out of use until it is activated.

    The domain's own metadata say so before the pool's do; asked again after a failure, it goes on from there.
    """

    sd_id: Uuid = field(name="storagedomainID")
    pool_id: Uuid = field(name="storagepoolID")


@verb(
    "StorageDomain.create",
    owner="storage",
    lane=Lane.KEYED,
    key="sd_id",
    tier=1,
    deadline_s=180,
    raises=(
        DomainTypeUnsupported,
        DomainClassWrong,
        DomainVersionUnsupported,
        DomainNotMounted,
        DomainExists,
        DomainNotEmpty,
        DomainTargetUnsupported,
        BlockSizeMismatch,
        DomainMetadataRefused,
        NotAscii,
        LockInitFailed,
        RemotePathIllegal,
    ),
)
class CreateStorageDomain(Message, frozen=True, kw_only=True):
    """Format a new domain on a connected server: its directories, metadata and locks.

    typeArgs: the path as it was connected. domainClass: 1 data, 2 ISO, 3 export. What is begun is removed when it
    fails.
    """

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


@verb(
    "StorageDomain.deactivate",
    owner="storage",
    lane=Lane.KEYED,
    key="sd_id",
    tier=1,
    deadline_s=180,
    raises=(*SPM_ROLE, DomainNotFound, DomainNotInPool, DomainNotActive, MasterNotFound, *NEW_MASTER),
)
class DeactivateStorageDomain(Message, frozen=True, kw_only=True):
    """Put an active domain out of use; it stays in the pool. One that is out of use already stays so.

    masterSdUUID: the domain that becomes master first, when this one is the master; blank for any other. When the move
    fails the old master stays, and stays active.
    """

    sd_id: Uuid = field(name="storagedomainID")
    pool_id: Uuid = field(name="storagepoolID")
    master_sd_id: Uuid = field(name="masterSdUUID")
    master_version: MasterVersion = field(name="masterVersion")


@verb(
    "StorageDomain.detach",
    owner="storage",
    lane=Lane.KEYED,
    key="sd_id",
    tier=1,
    deadline_s=180,
    raises=(
        *SPM_ROLE,
        DomainNotFound,
        DomainNotInPool,
        DomainStateWrong,
        MasterCannotBeDetached,
        MasterNotFound,
        TaskInProgress,
    ),
)
class DetachStorageDomain(Message, frozen=True, kw_only=True):
    """Remove a domain from the pool: it may be formatted, or attached elsewhere. It must be out of use.

    What tasks have begun there is finished, or undone, before. One that waits for its turn then does nothing there.

    force: on any host and without the pool, for a domain whose pool is gone; only its own metadata are changed. A host
    that is in that pool forgets the domain, and refuses for its master.
    """

    sd_id: Uuid = field(name="storagedomainID")
    pool_id: Uuid = field(name="storagepoolID")
    master_sd_id: Uuid | None = field(default=None, name="masterSdUUID")
    master_version: int | None = field(default=None, name="masterVersion")
    force: bool | None = None


@verb("StorageDomain.extend", owner="storage", lane=Lane.KEYED, key="sd_id", tier=2, planned=True)
class ExtendStorageDomain(Message, frozen=True, kw_only=True):
    """Add LUNs to a block domain."""

    sd_id: Uuid = field(name="storagedomainID")
    pool_id: Uuid = field(name="storagepoolID")
    devlist: list[str]
    force: bool | None = None


@verb("StorageDomain.resizePV", owner="storage", reply=int, lane=Lane.KEYED, key="sd_id", tier=2, planned=True)
class ResizeStorageDomainPv(Message, frozen=True, kw_only=True):
    """Let a block domain use what its LUN has grown by. Returns the new size in bytes."""

    sd_id: Uuid = field(name="storagedomainID")
    pool_id: Uuid = field(name="storagepoolID")
    guid: str


@verb(
    "StorageDomain.format",
    owner="storage",
    lane=Lane.KEYED,
    key="sd_id",
    tier=1,
    deadline_s=180,
    raises=(DomainNotFound, DomainAttached, DomainPoolConnected),
)
class FormatStorageDomain(Message, frozen=True, kw_only=True):
    """Destroy a domain and everything on it. It must be in no pool, or `autoDetach` must be true.

    A failure may leave a part of its files; asked again, it removes the rest.
    """

    sd_id: Uuid = field(name="storagedomainID")
    auto_detach: bool = field(name="autoDetach")


@verb(
    "StorageDomain.getFileStats",
    owner="storage",
    reply=dict[str, Any],
    safe=True,
    tier=2,
    raises=(DomainNotFound, DomainClassWrong),
)
class GetStorageDomainFileStats(Message, frozen=True, kw_only=True):
    """Files of an ISO domain whose path fits a shell pattern: {path: size and ctime as text, status}.

    status: 0, or 469 for a file that QEMU may not read.
    """

    sd_id: Uuid = field(name="storagedomainID")
    pattern: str = "*"
    case_sensitive: bool = field(default=False, name="caseSensitive")


@verb("StorageDomain.getImages", owner="storage", reply=list[Uuid], safe=True, tier=2, raises=(DomainNotFound,))
class GetStorageDomainImages(Message, frozen=True, kw_only=True):
    """Ids of the images on a domain."""

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


@verb(
    "StorageDomain.getInfo",
    owner="storage",
    reply=StorageDomainInfo,
    safe=True,
    tier=1,
    raises=(DomainNotFound, *DOMAIN_UNREADABLE),
)
class GetStorageDomainInfo(Message, frozen=True, kw_only=True):
    """Name, class, role, version and pools of a domain, read anew from its metadata."""

    sd_id: Uuid = field(name="storagedomainID")


class StorageDomainStats(Message, frozen=True, kw_only=True):
    """disktotal, diskfree: bytes as text; an engine reads a number as nothing."""

    disktotal: str
    diskfree: str
    mdasize: int = 0
    mdafree: int = 0
    mdavalid: bool = True
    mdathreshold: bool = True


@verb("StorageDomain.getStats", owner="storage", reply=StorageDomainStats, safe=True, tier=1, raises=(DomainNotFound,))
class GetStorageDomainStats(Message, frozen=True, kw_only=True):
    """Size and free space of a domain in bytes, as text."""

    sd_id: Uuid = field(name="storagedomainID")


@verb("StorageDomain.getVolumes", owner="storage", reply=list[Uuid], safe=True, tier=2, raises=(DomainNotFound,))
class GetStorageDomainVolumes(Message, frozen=True, kw_only=True):
    """Ids of the volumes of an image; of all volumes of the domain when `imageID` is blank or absent.

    An image that is not there has none. The pool is not looked at.
    """

    sd_id: Uuid = field(name="storagedomainID")
    pool_id: Uuid | None = field(default=None, name="storagepoolID")
    image_id: Uuid | None = field(default=None, name="imageID")


@verb(
    "StorageDomain.setDescription",
    owner="storage",
    lane=Lane.KEYED,
    key="sd_id",
    tier=2,
    raises=(*SPM_ROLE, DomainNotFound, NotAscii, DomainMetadataRefused),
)
class SetStorageDomainDescription(Message, frozen=True, kw_only=True):
    """Rename a domain. The old name stays when it fails."""

    sd_id: Uuid = field(name="storagedomainID")
    description: str


@verb("StorageDomain.validate", owner="storage", safe=True, tier=3, raises=(DomainNotFound, *DOMAIN_UNREADABLE))
class ValidateStorageDomain(Message, frozen=True, kw_only=True):
    """Read a domain's metadata and ask its file system for its size: `true` when both work."""

    sd_id: Uuid = field(name="storagedomainID")


@verb(
    "StorageDomain.dump",
    owner="storage",
    reply=dict[str, Any],
    safe=True,
    tier=3,
    raises=(DomainNotFound, *DOMAIN_UNREADABLE),
)
class DumpStorageDomain(Message, frozen=True, kw_only=True):
    """What a domain holds: its metadata and those of all of its volumes.

    metadata: as getInfo. volumes: {volume id: what is known of it, status OK, INVALID or REMOVED}. full: also leases
    and lockspace (rows with offset, lockspace, resource, timestamp, own, gen; leases lver), xleases {lease id: offset,
    updating} where the domain has them, errors {part: sentence} of what cannot be read.
    """

    sd_id: Uuid
    full: bool | None = None
