# SPDX-License-Identifier: Apache-2.0
"""Mediated devices (vGPUs): root makes one on a card that has room for its type, for as long as its VM lives."""

import re
from collections.abc import Callable
from pathlib import Path

from vdsm_mp.api.ports import Root
from vdsm_mp.common import log
from vdsm_mp.common.errors import Error
from vdsm_mp.virt.hostdev_xml import Mdev

logger = log.named(__name__)

#: Its cards have one type of vGPU at a time.
_NVIDIA = "0x10de"
_SEPARATE = "separate"
#: Names of types, as root's table has them: one component of a path.
_KIND = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,79}", re.ASCII)


class Mdevs:
    """sysfs: where the kernel tells of its devices."""

    def __init__(self, root: Root, sysfs: Path = Path("/sys")) -> None:
        self._root = root
        self._sysfs = sysfs

    def there(self, number: str) -> bool:
        return (self._sysfs / "bus/mdev/devices" / number).exists()

    def make(self, wanted: Mdev, failed: Callable[[str], Error]) -> None:
        """Raises: what `failed` makes; then there is none."""
        card = self.place(wanted.kind, wanted.placement)
        if card is None:
            raise failed(f"no card has room for a mediated device of type {wanted.kind or '(not told)'}")
        try:
            self._root.do(
                "mdev-create", card=card, type=wanted.kind, uuid=wanted.uuid, parameters=wanted.parameters or None
            )
        except Error as error:
            raise failed(f"mediated device {wanted.uuid}: {error}") from error
        logger.info("mediated device %s of type %s is on %s", wanted.uuid, wanted.kind, card)

    def remove(self, number: str) -> None:
        """Idempotent. Raises: what ports.Root says."""
        if self.there(number):
            self._root.do("mdev-remove", uuid=number)

    def place(self, kind: str, placement: str) -> str | None:
        """The card (a PCI address) for one more of a type; compact: the first with room, separate: an unused one
        if there is any.
        """
        bus = self._sysfs / "class/mdev_bus"
        try:
            cards = sorted(entry.name for entry in bus.iterdir()) if _KIND.fullmatch(kind) else []
        except OSError:
            return None
        roomy = [card for card in cards if self._has_room(bus / card, kind)]
        unused = [card for card in roomy if not _devices(bus / card / "mdev_supported_types" / kind)]
        chosen = (unused or roomy) if placement == _SEPARATE else roomy
        return chosen[0] if chosen else None

    def _has_room(self, card: Path, kind: str) -> bool:
        types = card / "mdev_supported_types"
        if not _text(types / kind / "available_instances").isdigit():
            return False
        others = [entry for entry in types.iterdir() if entry.name != kind and _devices(entry)]
        if others and _text(card / "vendor") == _NVIDIA:
            return False
        return int(_text(types / kind / "available_instances")) > 0


def _devices(kind: Path) -> list[Path]:
    try:
        return list((kind / "devices").iterdir())
    except OSError:
        return []


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        return ""
