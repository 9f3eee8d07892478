# SPDX-License-Identifier: Apache-2.0
"""The real door with limits for a crowd, so that the cost of a connection can be measured."""

from vdsm_mp.api.ports import Ports
from vdsm_mp.clientif.limits import MIB, Limits
from vdsm_mp.common.options import Config
from vdsm_mp.workers import clientif
from vdsm_mp.workers.base import Room

_CROWD = 12_000


def build(config: Config, ports: Ports) -> Room:
    limits = Limits(
        connections=_CROWD,
        connections_per_address=_CROWD,
        arrivals=_CROWD // 2,
        handshake_s=600.0,
        unread_all_bytes=256 * MIB,
    )
    return clientif.build(config, ports, limits)
