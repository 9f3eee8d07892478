# SPDX-License-Identifier: Apache-2.0
"""Host.*_image_ticket: authorising ovirt-imageio."""

from typing import Any

from vdsm_mp.api.types import Uuid
from vdsm_mp.api.verb import Message, verb


@verb("Host.add_image_ticket", owner="storage", tier=2, planned=True)
class AddImageTicket(Message, frozen=True, kw_only=True):
    """Authorise an image transfer in ovirt-imageio."""

    ticket: dict[str, Any]


@verb("Host.get_image_ticket", owner="storage", reply=dict[str, Any], safe=True, tier=2, planned=True)
class GetImageTicket(Message, frozen=True, kw_only=True):
    """State of a transfer ticket."""

    uuid: Uuid


@verb("Host.remove_image_ticket", owner="storage", tier=2, planned=True)
class RemoveImageTicket(Message, frozen=True, kw_only=True):
    """Revoke a ticket."""

    uuid: Uuid


@verb("Host.extend_image_ticket", owner="storage", tier=2, planned=True)
class ExtendImageTicket(Message, frozen=True, kw_only=True):
    """Prolong a ticket by seconds."""

    uuid: Uuid
    timeout: int
