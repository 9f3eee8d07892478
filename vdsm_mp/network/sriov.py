# SPDX-License-Identifier: Apache-2.0
"""How many virtual functions SR-IOV cards have: set on demand, kept over a reboot like the networks.

running: in the run directory, which a reboot empties; safe: in the state directory, written when the networks are.
The kernel removes all functions of a card before it makes another number of them.
"""

import re
import threading
from collections.abc import Callable, Collection, Mapping
from pathlib import Path

import msgspec

from vdsm_mp.api.errors import Busy
from vdsm_mp.api.errors_network import BadNetworkParameters, NetworkStepFailed, UsedNic
from vdsm_mp.api.ports import Root
from vdsm_mp.common import files, log
from vdsm_mp.common.clock import mono_s
from vdsm_mp.common.errors import Error

logger = log.named(__name__)

_NAME = re.compile(r"pci_([0-9a-f]{4})_([0-9a-f]{2})_([0-9a-f]{2})_([0-7])", re.ASCII)
_VFIO = "vfio-pci"
#: A driver may take seconds for each of many functions.
_SET_S = 60.0
_TURN_S = 5.0
#: The functions are there when it is set, their network devices when udev has found a driver.
_DEVICES_S = 5.0
_LOOK_S = 0.1
_FILE = "virtual-functions.json"


class VirtualFunctions:
    """in_use: NICs of the host's own networks. sysfs: where the kernel tells of its devices."""

    def __init__(
        self,
        root: Root,
        run_dir: str,
        state_dir: str,
        in_use: Callable[[], Collection[str]] = tuple,
        sysfs: Path = Path("/sys"),
    ) -> None:
        self._root = root
        self._in_use = in_use
        self._running = Path(run_dir) / "network" / _FILE
        self._safe = Path(state_dir) / "network" / _FILE
        self._cards = sysfs / "bus/pci/devices"
        self._turn = threading.Lock()

    def set(self, device_name: str, number: int) -> None:
        """Idempotent. Raises: BadNetworkParameters, UsedNic, Busy (nothing has changed), NetworkStepFailed."""
        card = self._card(device_name, number)
        if not self._turn.acquire(timeout=_TURN_S):
            raise Busy("SR-IOV (another change is under way)")
        try:
            self._set(card, number)
            self._keep(self._running, {**_read(self._running), card: number})
        finally:
            self._turn.release()

    def keep_safe(self) -> None:
        """The numbers outlive a reboot from now on."""
        self._keep(self._safe, _read(self._running))

    def start(self) -> None:
        """After a boot: the numbers that were kept. A card that is gone, or refuses, costs only itself."""
        if self._running.exists():
            return
        safe = _read(self._safe)
        for card, number in safe.items():
            try:
                self._set(card, number)
            except Error as error:
                logger.warning("card %s does not get its %d virtual functions: %s", card, number, error)
        self._keep(self._running, safe)

    def _card(self, device_name: str, number: int) -> str:
        parts = _NAME.fullmatch(device_name)
        card = "{}:{}:{}.{}".format(*parts.groups()) if parts else ""
        if not card or not (self._cards / card).exists():
            raise BadNetworkParameters(f"there is no PCI device {device_name[:40]!r}")
        most = _number(self._cards / card / "sriov_totalvfs")
        if most is None:
            raise BadNetworkParameters(f"{device_name} has no virtual functions")
        if not 0 <= number <= most:
            raise BadNetworkParameters(f"{device_name} can have 0 to {most} virtual functions, not {number}")
        return card

    def _set(self, card: str, number: int) -> None:
        folder = self._cards / card
        if _number(folder / "sriov_numvfs") != number:
            # The kernel would wait for the guest to let it go.
            used = [one.resolve().name for one in self._functions(card) if _link(one / "driver") == _VFIO]
            if used:
                raise UsedNic(card, f"guests have its functions {', '.join(sorted(used))}")
            nics = {nic for one in self._functions(card) for nic in _names(one / "net")} & {*self._in_use()}
            if nics:
                raise UsedNic(card, f"networks of this host are on its functions {', '.join(sorted(nics))}")
            began = mono_s()
            try:
                self._root.do("vfs-set", card=card, number=number, deadline_s=_SET_S)
            except Error as error:
                raise NetworkStepFailed(f"virtual functions of {card}: {error}") from error
            logger.info("card %s has %d virtual functions, took=%dms", card, number, (mono_s() - began) * 1000)
        own = _names(folder / "net")
        if own and number:
            self._await_devices(card)
        for nic in own:
            try:
                self._root.do("link-up", name=nic)
            except Error as error:
                raise NetworkStepFailed(f"{nic}: {error}") from error

    def _await_devices(self, card: str) -> None:
        """Who lists devices next should see them; a function without a driver never has one."""
        pause, until = threading.Event(), mono_s() + _DEVICES_S
        while mono_s() < until and not all(
            _names(one / "net") or _link(one / "driver") == _VFIO for one in self._functions(card)
        ):
            pause.wait(_LOOK_S)

    def _functions(self, card: str) -> list[Path]:
        return list((self._cards / card).glob("virtfn*"))

    def _keep(self, path: Path, numbers: Mapping[str, int]) -> None:
        path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        files.replace(path, msgspec.json.encode(dict(numbers)))


def _read(path: Path) -> dict[str, int]:
    try:
        return msgspec.json.decode(path.read_bytes(), type=dict[str, int])
    except FileNotFoundError:
        return {}
    except (msgspec.DecodeError, msgspec.ValidationError) as error:
        logger.error("%s is not readable and is left alone: %s", path, error)
        return {}


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None


def _link(path: Path) -> str:
    try:
        return path.readlink().name
    except OSError:
        return ""


def _names(folder: Path) -> list[str]:
    try:
        return sorted(entry.name for entry in folder.iterdir())
    except OSError:
        return []
