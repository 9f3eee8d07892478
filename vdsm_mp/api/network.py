# SPDX-License-Identifier: Apache-2.0
"""The Host.setupNetworks family."""

from typing import Any

from vdsm_mp.api.verb import Message, Status, verb


@verb("Host.setupNetworks", owner="network", reply=Status, tier=1)
class SetupNetworks(Message, frozen=True, kw_only=True):
    """Add, change or remove networks and bonds in one transaction, with optional connectivity check and rollback."""

    networks: dict[str, Any]
    bondings: dict[str, Any]
    options: dict[str, Any]


@verb("Host.getNetworkCapabilities", owner="network", reply=dict[str, Any], safe=True, tier=3, planned=True)
class GetNetworkCapabilities(Message, frozen=True, kw_only=True):
    """Network part of the capabilities."""


@verb("Host.getNetworkStatistics", owner="network", reply=dict[str, Any], safe=True, tier=3, planned=True)
class GetNetworkStatistics(Message, frozen=True, kw_only=True):
    """Network part of the statistics."""


@verb("Host.getLldp", owner="network", reply=dict[str, Any], safe=True, tier=3, planned=True)
class GetLldp(Message, frozen=True, kw_only=True):
    """LLDP TLVs per NIC."""

    filter: dict[str, Any]


@verb("Host.confirmConnectivity", owner="network", tier=1)
class ConfirmConnectivity(Message, frozen=True, kw_only=True):
    """Confirms that the engine still reaches the host after setupNetworks."""


@verb("Host.setSafeNetworkConfig", owner="network", tier=1)
class SetSafeNetworkConfig(Message, frozen=True, kw_only=True):
    """Make the current network configuration persistent."""
