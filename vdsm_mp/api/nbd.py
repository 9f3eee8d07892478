# SPDX-License-Identifier: Apache-2.0
"""NBD.*: volumes exported over a local socket."""

from msgspec import field

from vdsm_mp.api.errors_storage import DomainNotFound
from vdsm_mp.api.errors_volume import VOLUME_UNKNOWN, VOLUME_UNREADABLE, BitmapDoesNotExist, ImageIsNotLegalChain
from vdsm_mp.api.types import Uuid
from vdsm_mp.api.verb import Lane, Message, verb


class NbdConfig(Message, frozen=True, kw_only=True):
    """What is exported and how. backing_chain: with all below the volume. bitmap: its extents may be asked for."""

    sd_id: Uuid
    image_id: Uuid = field(name="img_id")
    volume_id: Uuid = field(name="vol_id")
    readonly: bool = False
    discard: bool = False
    detect_zeroes: bool = False
    backing_chain: bool = True
    bitmap: str | None = None


@verb(
    "NBD.start_server",
    owner="storage",
    reply=str,
    lane=Lane.KEYED,
    key="server_id",
    tier=2,
    raises=(DomainNotFound, *VOLUME_UNKNOWN, *VOLUME_UNREADABLE, ImageIsNotLegalChain, BitmapDoesNotExist),
)
class StartNbdServer(Message, frozen=True, kw_only=True):
    """Export a volume over a local NBD socket; returns its URL. Asked again with the same id, it returns the same.

    It goes on when the agent dies, until NBD.stop_server.
    """

    server_id: Uuid
    config: NbdConfig


@verb("NBD.stop_server", owner="storage", lane=Lane.KEYED, key="server_id", tier=2)
class StopNbdServer(Message, frozen=True, kw_only=True):
    """End an NBD server; one that is not there is fine."""

    server_id: Uuid
