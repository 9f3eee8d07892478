# SPDX-License-Identifier: Apache-2.0
"""NBD.*: volumes exported over a local socket."""

from typing import Any

from vdsm_mp.api.types import Uuid
from vdsm_mp.api.verb import Message, verb


@verb("NBD.start_server", owner="storage", reply=str, tier=2, planned=True)
class StartNbdServer(Message, frozen=True, kw_only=True):
    """Export a volume over a local NBD socket."""

    server_id: Uuid
    config: dict[str, Any]


@verb("NBD.stop_server", owner="storage", tier=2, planned=True)
class StopNbdServer(Message, frozen=True, kw_only=True):
    """Stop it."""

    server_id: Uuid
