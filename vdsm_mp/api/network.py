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
    """Add, change or remove networks and bonds in one transaction: all of it, or nothing.

    networks, bondings: {name: attributes, or {remove: true}}. options: `connectivityCheck` waits up to
    `connectivityTimeout` seconds for Host.confirmConnectivity, and undoes the change without it (10). Kept over a
    reboot with `commitOnSuccess`, or after Host.setSafeNetworkConfig.
    """

    networks: dict[str, Any]
    bondings: dict[str, Any]
    options: dict[str, Any]


@verb("Host.getNetworkCapabilities", owner="network", reply=dict[str, Any], safe=True, tier=3)
class GetNetworkCapabilities(Message, frozen=True, kw_only=True):
    """The network part of Host.getCapabilities: NICs, bonds, VLANs, bridges, networks."""


@verb("Host.getNetworkStatistics", owner="network", reply=dict[str, Any], safe=True, tier=3)
class GetNetworkStatistics(Message, frozen=True, kw_only=True):
    """The network part of Host.getStats: state, speed and counters of each device."""


@verb(
    "Host.getLldp",
    owner="network",
    reply=dict[str, Any],
    raises=(BadNetworkParameters,),
    safe=True,
    deadline_s=90,
    tier=3,
)
class GetLldp(Message, frozen=True, kw_only=True):
    """What switches tell of themselves by LLDP: {NIC: {enabled, tlvs}}.

    filter: {devices: [NIC, ...]}, without it all that are reported. Listens up to 32 seconds unless a neighbour spoke
    before and what it said still counts; `enabled` is option enable_lldp.
    """

    filter: dict[str, Any]


@verb("Host.confirmConnectivity", owner="network", lane=Lane.LOOP, safe=True, deadline_s=2, tier=1)
class ConfirmConnectivity(Message, frozen=True, kw_only=True):
    """Tell the host that it is still reached: a change of networks that waits for it is kept."""


@verb("Host.setSafeNetworkConfig", owner="network", safe=True, deadline_s=30, tier=1)
class SetSafeNetworkConfig(Message, frozen=True, kw_only=True):
    """Keep the networks as they are now over a reboot."""
