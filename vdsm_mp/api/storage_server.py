# SPDX-License-Identifier: Apache-2.0
"""StoragePool.connectStorageServer and disconnectStorageServer: file systems that are mounted."""

from typing import Any

from msgspec import field

from vdsm_mp.api.errors_storage import DomainTypeUnsupported
from vdsm_mp.api.types import Uuid
from vdsm_mp.api.verb import Lane, Message, verb


class ServerStatus(Message, frozen=True, kw_only=True):
    """id: of the connection asked for. status: 0, or the number of the error."""

    id: str
    status: int


@verb(
    "StoragePool.connectStorageServer",
    owner="storage",
    reply=list[ServerStatus],
    lane=Lane.READ,
    tier=1,
    deadline_s=180,
    raises=(DomainTypeUnsupported,),
)
class ConnectStorageServer(Message, frozen=True, kw_only=True):
    """Mount file systems, one for each entry; returns id and status for each, 0 or the number of its error.

    Entries have `id`, `connection` (SERVER:/PATH, a directory, a device) and options such as `mnt_options`, `vfs_type`,
    `protocol_version`. One that hangs holds up neither the others nor the pool; a mounted one is as good as done.
    Statuses: 451 no connection, 453 wrong parameters, 469 not usable by the agent, 470 unknown file system, 477 mount
    failed.
    """

    pool_id: Uuid = field(name="storagepoolID")
    domain_type: int = field(name="domainType")
    connection_params: list[dict[str, Any]] = field(name="connectionParams")


@verb(
    "StoragePool.disconnectStorageServer",
    owner="storage",
    reply=list[ServerStatus],
    lane=Lane.READ,
    tier=1,
    deadline_s=180,
    raises=(DomainTypeUnsupported,),
)
class DisconnectStorageServer(Message, frozen=True, kw_only=True):
    """Unmount file systems, one for each entry; returns id and status for each, 0 or the number of its error.

    One that is not mounted is as good as done. One whose domain is monitored stays mounted: status 452.
    """

    pool_id: Uuid = field(name="storagepoolID")
    domain_type: int = field(name="domainType")
    connection_params: list[dict[str, Any]] = field(name="connectionParams")
