# SPDX-License-Identifier: Apache-2.0
"""Cards that belong to no network: they are put on a bridge that leads nowhere, which the network worker makes."""

import xml.etree.ElementTree as ET
from collections.abc import Callable

from vdsm_mp.api.errors_virt import CannotCreateVm
from vdsm_mp.api.internal import EnsureDummyBridge
from vdsm_mp.api.ports import Caller
from vdsm_mp.common.errors import Error
from vdsm_mp.virt.domxml_host import DUMMY_BRIDGE

_DEADLINE_S = 15.0


class DummyNet:
    """Asks for the bridge where it is wanted. From pool threads only."""

    def __init__(self, caller: Caller) -> None:
        self._caller = caller

    def ensure(self, tree: ET.Element, failed: Callable[[str], Error] = CannotCreateVm) -> None:
        """tree: a domain, or one card. Raises: what `failed` makes."""
        if any(source.get("bridge") == DUMMY_BRIDGE for source in tree.iter("source")):
            try:
                self._caller.ask(EnsureDummyBridge(), deadline_s=_DEADLINE_S)
            except Error as error:
                raise failed(f"there is no bridge for a card without a network: {error}") from error
