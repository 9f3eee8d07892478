# SPDX-License-Identifier: Apache-2.0
"""The Host.setupNetworks family."""

from typing import Any

from vdsm_mp.api.errors_host import HostHookFailed
from vdsm_mp.api.errors_network import (
    BadAddress,
    BadBond,
    BadBridge,
    BadNetworkParameters,
    BadNic,
    BadVlan,
    ConnectivityLost,
    NetworkStepFailed,
    UsedBond,
    UsedNic,
)
from vdsm_mp.api.verb import Lane, Message, Status, verb


@verb(
    "Host.setupNetworks",
    owner="network",
    reply=Status,
    raises=(
        *(BadNetworkParameters, BadAddress, BadNic, UsedNic, BadBond, BadVlan, BadBridge, UsedBond),
        *(NetworkStepFailed, ConnectivityLost, HostHookFailed),
    ),
    deadline_s=660,
    tier=1,
)
class SetupNetworks(Message, frozen=True, kw_only=True):
    """Add, change or remove networks and bonds in one transaction, with optional connectivity check and rollback."""

    networks: dict[str, Any]
    bondings: dict[str, Any]
    options: dict[str, Any]


@verb("Host.getNetworkCapabilities", owner="network", reply=dict[str, Any], safe=True, tier=3)
class GetNetworkCapabilities(Message, frozen=True, kw_only=True):
    """Network part of the capabilities."""


@verb("Host.getNetworkStatistics", owner="network", reply=dict[str, Any], safe=True, tier=3)
class GetNetworkStatistics(Message, frozen=True, kw_only=True):
    """Network part of the statistics."""


@verb("Host.getLldp", owner="network", reply=dict[str, Any], safe=True, tier=3, planned=True)
class GetLldp(Message, frozen=True, kw_only=True):
    """LLDP TLVs per NIC."""

    filter: dict[str, Any]


@verb("Host.confirmConnectivity", owner="network", lane=Lane.LOOP, safe=True, deadline_s=2, tier=1)
class ConfirmConnectivity(Message, frozen=True, kw_only=True):
    """Confirms that the engine still reaches the host after setupNetworks."""


@verb("Host.setSafeNetworkConfig", owner="network", safe=True, deadline_s=30, tier=1)
class SetSafeNetworkConfig(Message, frozen=True, kw_only=True):
    """Make the current network configuration persistent."""
