# SPDX-License-Identifier: Apache-2.0
"""The network worker: links, addresses, the networks of the engine.

Owns: the running network configuration and its transactions. Blocks: in lanes only; root does the changes.
"""

from vdsm_mp.api.ports import Ports
from vdsm_mp.common.hooks import Hooks
from vdsm_mp.common.options import Config
from vdsm_mp.ipc.handlers import read
from vdsm_mp.network import verbs
from vdsm_mp.network.commit import Networks
from vdsm_mp.network.connectivity import Connectivity
from vdsm_mp.network.dummy import DummyBridge
from vdsm_mp.network.mirrors import Mirrors
from vdsm_mp.network.neighbours import Neighbours
from vdsm_mp.network.persist import Store
from vdsm_mp.network.sriov import VirtualFunctions
from vdsm_mp.network.upkeep import Upkeep
from vdsm_mp.network.watch import Watch
from vdsm_mp.workers.base import Room

#: Read here, so before the fork.
HANDLERS = (verbs,)
read("network", HANDLERS)


def build(config: Config, ports: Ports) -> Room:
    house = config.vdsm_mp
    hooks = Hooks(house.hooks_dir, f"{house.vdsm_run_dir}/hooks")
    watch = Watch()
    store = Store(house.vdsm_run_dir, house.state_dir)
    networks = Networks(ports.root, watch, store, lambda: ports.background.draining)
    upkeep, mirrors = Upkeep(networks), Mirrors(ports.root)
    functions = VirtualFunctions(ports.root, house.vdsm_run_dir, house.state_dir, lambda: networks.nics)
    return Room(
        state=(
            *(
                config.vars,
                hooks,
                watch,
                networks,
                upkeep,
                mirrors,
                Connectivity(ports.publish),
                DummyBridge(ports.root),
            ),
            Neighbours(ports.root, enabled=config.vars.enable_lldp),
            functions,
        ),
        handlers=HANDLERS,
        before_ready=(hooks.prepare, watch.open, functions.start, upkeep.start),
        on_drain=(watch.close,),
        vitals=lambda: {"problems": [*upkeep.problems(), *mirrors.problems()]},
    )
