# SPDX-License-Identifier: Apache-2.0
"""Networks that VDSM has set up on this host, from where it keeps them: one JSON file for each network and each bond.

`STATE/staging/netconf/{nets,bonds}/NAME` is what it has applied, `STATE/persistence/netconf/…` what outlives a reboot
(a link to a folder that it replaces as a whole). The attributes are those of Host.setupNetworks. `RUN/nets_restored`
is there as soon as VDSM has brought them up in this boot. Only read: VDSM writes them as root.
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from vdsm_mp.api.errors_network import BadNetworkParameters
from vdsm_mp.common import files, log
from vdsm_mp.common.errors import Error
from vdsm_mp.network import wanted
from vdsm_mp.network.wanted import Config

logger = log.named(__name__)

T = TypeVar("T")

_MOST = 4096


class Netconf:
    """What VDSM has left; `applied` and `safe` are None when there is nothing, or when ours in `than` is younger."""

    def __init__(self, vdsm_run_dir: str, state_dir: str) -> None:
        self._restored = Path(vdsm_run_dir) / "nets_restored"
        self._staging = Path(state_dir) / "staging/netconf"
        self._persistence = Path(state_dir) / "persistence/netconf"

    def applied(self, than: Path) -> Config | None:
        """Also None when this host has booted since."""
        return _younger(self._staging, than) if self._restored.exists() else None

    def safe(self, than: Path) -> Config | None:
        return _younger(self._persistence, than)


def _younger(folder: Path, than: Path) -> Config | None:
    try:
        if _changed_at(folder) <= _time_of(than):
            return None
        found = Config(
            networks=_read_all(folder / "nets", wanted.network), bonds=_read_all(folder / "bonds", wanted.bond)
        )
    except OSError as error:
        logger.error("the networks that VDSM has left in %s are not read: %s", folder, error)
        return None
    if not found.networks and not found.bonds:
        return None
    logger.info("%s: networks %s, bonds %s are VDSM's", folder, sorted(found.networks), sorted(found.bonds))
    return found


def _changed_at(folder: Path) -> float:
    """It makes both folders anew when it saves; 0.0 when there are none."""
    return max(_time_of(folder / "nets"), _time_of(folder / "bonds"))


def _time_of(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return 0.0


def _read_all(folder: Path, meaning: Callable[[str, Mapping[str, Any]], T]) -> dict[str, T]:
    """What cannot be read, or is not for us, is left out and told: the others must be known all the same."""
    found: dict[str, T] = {}
    try:
        paths = sorted(folder.iterdir())[:_MOST]
    except FileNotFoundError:
        return found
    for path in paths:
        try:
            given = json.loads(files.read(path))
            if not isinstance(given, dict):
                raise BadNetworkParameters(f"{path.name} has no attributes")
            found[path.name] = meaning(path.name, given)
        except (OSError, ValueError, RecursionError, Error) as error:
            logger.warning("%s of VDSM's is left alone: %s", path, error)
    return found
