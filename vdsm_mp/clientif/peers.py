# SPDX-License-Identifier: Apache-2.0
"""Whether a client's certificate lets it in from where it comes."""

import asyncio
import socket

from vdsm_mp.common import log
from vdsm_mp.wire.tls import Peer, ServerTls, matches_address

logger = log.named(__name__)

_LOOKUP_S = 5.0


async def check_peer(tls: ServerTls, peer: Peer, address: str, *, names: bool) -> None:
    """names: its certificate has to be of its address, or of a name that the resolver gives this address.

    Raises: PermissionError (with the reason, for the log).
    """
    if tls.revokes(peer):
        raise PermissionError(f"its certificate, of {peer.subject}, is revoked")
    if not names or matches_address(peer, address, ()):
        return
    known: list[str] = []
    try:
        async with asyncio.timeout(_LOOKUP_S):
            found = await asyncio.get_running_loop().run_in_executor(None, socket.gethostbyaddr, address)
        name, aliases, addresses = found
        known = [name, *aliases, *addresses]
    except (OSError, TimeoutError) as error:
        logger.debug("no name for %s: %s", address, error)
    if not matches_address(peer, address, known):
        raise PermissionError(f"its certificate is of {peer.subject}, which is not its name or address")
