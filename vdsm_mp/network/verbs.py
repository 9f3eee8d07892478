# SPDX-License-Identifier: Apache-2.0
"""Verbs of the network worker."""

from pathlib import Path
from typing import Any

from msgspec.structs import replace

from vdsm_mp.api.errors_host import HostHookFailed
from vdsm_mp.api.errors_network import BadNetworkParameters
from vdsm_mp.api.host import Ping
from vdsm_mp.api.internal import EnsureDummyBridge, GetNetworkCounters, GetNetworkFacts, MirrorNetworks, WatchNetwork
from vdsm_mp.api.network import (
    ConfirmConnectivity,
    GetLldp,
    GetNetworkCapabilities,
    GetNetworkStatistics,
    SetSafeNetworkConfig,
    SetupNetworks,
)
from vdsm_mp.api.verb import DONE, Status, handles
from vdsm_mp.api.vm_host import ChangeNumvfs
from vdsm_mp.common.errors import Error
from vdsm_mp.common.hooks import HookFailed, Hooks
from vdsm_mp.common.options import Vars
from vdsm_mp.network import caps, stats
from vdsm_mp.network.commit import Networks
from vdsm_mp.network.connectivity import Connectivity
from vdsm_mp.network.details import nameservers, shapes
from vdsm_mp.network.dummy import DummyBridge
from vdsm_mp.network.mirrors import Mirrors
from vdsm_mp.network.neighbours import Neighbours
from vdsm_mp.network.sriov import VirtualFunctions
from vdsm_mp.network.upkeep import Upkeep
from vdsm_mp.network.watch import Watch

#: There as long as the kernel has IPv6.
_IPV6 = "/proc/self/net/if_inet6"


@handles(SetupNetworks)
def setup_networks(networks: Networks, hooks: Hooks, ask: SetupNetworks) -> Status:
    request: dict[str, Any] = {
        "request": {"networks": ask.networks, "bondings": ask.bondings, "options": ask.options},
    }
    try:
        wanted = hooks.json("before_network_setup", request)["request"]
        networks.setup(wanted["networks"], wanted["bondings"], wanted["options"])
    except HookFailed as error:
        raise HostHookFailed(str(error)) from error
    except (KeyError, TypeError) as error:
        raise HostHookFailed("what the hooks of before_network_setup left is no request") from error
    except Error as error:
        hooks.json("after_network_setup_fail", {**request, "error": str(error)}, raises=False)
        raise
    hooks.json("after_network_setup", request, raises=False)
    return DONE


@handles(ConfirmConnectivity)
def confirm_connectivity(networks: Networks, ask: ConfirmConnectivity) -> None:
    networks.confirm()


@handles(Ping)
def ping(networks: Networks, ask: Ping) -> None:
    networks.confirm()


@handles(SetSafeNetworkConfig)
def set_safe_network_config(networks: Networks, functions: VirtualFunctions, ask: SetSafeNetworkConfig) -> None:
    networks.keep_safe()
    functions.keep_safe()


@handles(ChangeNumvfs)
def change_numvfs(functions: VirtualFunctions, ask: ChangeNumvfs) -> None:
    functions.set(ask.device_name, ask.numvfs)


@handles(GetNetworkFacts)
def get_network_facts(watch: Watch, networks: Networks, options: Vars, ask: GetNetworkFacts) -> dict[str, Any]:
    return _facts(watch, networks, options)


@handles(GetNetworkCounters)
def get_network_counters(watch: Watch, options: Vars, ask: GetNetworkCounters) -> dict[str, Any]:
    return stats.counters(watch.now(), options, stats.read_table())


@handles(EnsureDummyBridge)
def ensure_dummy_bridge(bridge: DummyBridge, ask: EnsureDummyBridge) -> None:
    bridge.ensure()


@handles(MirrorNetworks)
def mirror_networks(watch: Watch, mirrors: Mirrors, ask: MirrorNetworks) -> dict[str, str]:
    return mirrors.want(watch.now(), ask.cards)


@handles(WatchNetwork)
def watch_network(
    watch: Watch, connectivity: Connectivity, upkeep: Upkeep, mirrors: Mirrors, ask: WatchNetwork
) -> None:
    state = watch.now()
    connectivity.look(state)
    upkeep.look(state)
    mirrors.look(state)


@handles(GetNetworkCapabilities)
def get_network_capabilities(
    watch: Watch, networks: Networks, options: Vars, ask: GetNetworkCapabilities
) -> dict[str, Any]:
    return {**_facts(watch, networks, options), "netConfigDirty": "False"}


@handles(GetLldp)
def get_lldp(watch: Watch, neighbours: Neighbours, options: Vars, ask: GetLldp) -> dict[str, Any]:
    wanted = ask.filter.get("devices", [])
    if not isinstance(wanted, list):
        raise BadNetworkParameters(f"devices {wanted!r} is no list")
    state = watch.now()
    nics = [name for name, link in state.links.items() if link.is_nic and not caps.hidden(link, options)]
    return neighbours.tell(state, [nic for nic in nics if nic in wanted] if wanted else nics)


@handles(GetNetworkStatistics)
def get_network_statistics(watch: Watch, options: Vars, ask: GetNetworkStatistics) -> dict[str, Any]:
    return {"network": stats.counters(watch.now(), options, stats.read_table())}


def _facts(watch: Watch, networks: Networks, options: Vars) -> dict[str, Any]:
    state, config = watch.now(), networks.config
    if any(network.host_qos for network in config.networks.values()):
        # Queues tell nobody when they change.
        state = replace(state, shaped=shapes(state))
    return {**caps.facts(state, config, options, nameservers()), "supportsIPv6": Path(_IPV6).exists()}
