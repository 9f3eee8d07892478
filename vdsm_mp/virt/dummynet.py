# SPDX-License-Identifier: Apache-2.0
"""Cards that belong to no network: they are put on a bridge that leads nowhere, which the network worker makes."""

import xml.etree.ElementTree as ET
from collections.abc import Callable

from vdsm_mp.api.errors_virt import CannotCreateVm
from vdsm_mp.api.internal import EnsureDummyBridge
from vdsm_mp.api.ports import Background, Caller
from vdsm_mp.common.errors import Error
from vdsm_mp.virt.domxml_host import DUMMY_BRIDGE
from vdsm_mp.virt.patience import COMES_BACK_S, PEER_AWAY, patiently

_DEADLINE_S = 15.0


class DummyNet:
    """Asks for the bridge where it is wanted. From pool threads only."""

    def __init__(self, caller: Caller, background: Background) -> None:
        self._caller = caller
        self._background = background

    def ensure(self, tree: ET.Element, failed: Callable[[str], Error] = CannotCreateVm) -> None:
        """tree: a domain, or one card. Raises: what `failed` makes."""
        if any(source.get("bridge") == DUMMY_BRIDGE for source in tree.iter("source")):
            try:
                patiently(
                    lambda: self._caller.ask(EnsureDummyBridge(), deadline_s=_DEADLINE_S),
                    COMES_BACK_S,
                    away=PEER_AWAY,
                    hurry=lambda: self._background.draining,
                )
            except Error as error:
                raise failed(f"there is no bridge for a card without a network: {error}") from error
