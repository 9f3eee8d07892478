# SPDX-License-Identifier: Apache-2.0
"""Host.*_image_ticket: authorising ovirt-imageio."""

from typing import Any

import msgspec
from msgspec import UNSET, UnsetType

from vdsm_mp.api.errors_volume import ImageDaemonRefused, ImageDaemonUnreachable
from vdsm_mp.api.types import Uuid
from vdsm_mp.api.verb import Lane, Message, verb


class Ticket(Message, frozen=True, kw_only=True):
    """What may be done with which URL. timeout: seconds. size: bytes. ops: read, write, and what newer daemons know."""

    uuid: Uuid
    url: str
    size: int
    ops: list[str]
    timeout: int
    transfer_id: str | UnsetType = UNSET
    filename: str | UnsetType = UNSET
    sparse: bool | UnsetType = UNSET
    dirty: bool | UnsetType = UNSET
    inactivity_timeout: int | UnsetType = UNSET

    def whole(self) -> dict[str, Any]:
        """As the daemon reads it."""
        found: dict[str, Any] = msgspec.to_builtins(self)
        return found


@verb(
    "Host.add_image_ticket",
    owner="storage",
    lane=Lane.READ,
    tier=2,
    raises=(ImageDaemonUnreachable, ImageDaemonRefused),
)
class AddImageTicket(Message, frozen=True, kw_only=True):
    """Allow a client of ovirt-imageio to read or write one image, for `timeout` seconds."""

    ticket: Ticket


@verb(
    "Host.get_image_ticket",
    owner="storage",
    reply=dict[str, Any],
    safe=True,
    tier=2,
    raises=(ImageDaemonUnreachable, ImageDaemonRefused),
)
class GetImageTicket(Message, frozen=True, kw_only=True):
    """What ovirt-imageio says of a ticket: what was transferred, whether anybody uses it."""

    uuid: Uuid


@verb("Host.remove_image_ticket", owner="storage", tier=2, raises=(ImageDaemonUnreachable, ImageDaemonRefused))
class RemoveImageTicket(Message, frozen=True, kw_only=True):
    """Take a ticket back; a transfer under way ends."""

    uuid: Uuid


@verb("Host.extend_image_ticket", owner="storage", tier=2, raises=(ImageDaemonUnreachable, ImageDaemonRefused))
class ExtendImageTicket(Message, frozen=True, kw_only=True):
    """Let a ticket live for `timeout` seconds from now."""

    uuid: Uuid
    timeout: int
