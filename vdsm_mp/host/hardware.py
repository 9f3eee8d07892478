# SPDX-License-Identifier: Apache-2.0
"""Host.getHardwareInfo: the DMI identity. Root reads the serial numbers; what everybody may read stands in for them."""

from collections.abc import Mapping

from vdsm_mp.api.ports import Root
from vdsm_mp.common import log
from vdsm_mp.common.errors import Error
from vdsm_mp.host.machine import Machine

logger = log.named(__name__)

_DEADLINE_S = 10.0
_READABLE: Mapping[str, str] = {
    "systemManufacturer": "sys_vendor",
    "systemProductName": "product_name",
    "systemVersion": "product_version",
    "systemFamily": "product_family",
}


class Hardware:
    """Asked once: hardware does not change under a running kernel."""

    def __init__(self, root: Root, machine: Machine) -> None:
        self._root = root
        self._machine = machine
        self._known: dict[str, str] | None = None

    def known(self) -> dict[str, str]:
        """{key: text}; what the firmware does not tell is absent. Asks root again next time when it did not answer."""
        if self._known is None:
            try:
                self._known = {str(key): str(value) for key, value in self._ask().items()}
            except Error as error:
                logger.warning("root does not tell the hardware's identity: %s", error)
                return self._without_root()
        return self._known

    def _ask(self) -> Mapping[str, object]:
        answer = self._root.do("hardware-info", deadline_s=_DEADLINE_S)
        return answer if isinstance(answer, dict) else {}

    def _without_root(self) -> dict[str, str]:
        texts = {key: self._machine.text(f"/sys/class/dmi/id/{name}") for key, name in _READABLE.items()}
        return {key: text for key, text in texts.items() if text}
