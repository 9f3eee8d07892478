# SPDX-License-Identifier: Apache-2.0
"""The scheduler worker: the beats of the house, and the host's vital signs.

Owns: the timetable, the host's samples and capabilities, the memory policy. Blocks: in lanes and in the background.
"""

from functools import partial

from vdsm_mp.api.ports import Ports
from vdsm_mp.common.hooks import Hooks
from vdsm_mp.common.options import Config
from vdsm_mp.host import fencing, health, jobs, status, verbs
from vdsm_mp.host.balloon import Balloons
from vdsm_mp.host.caps import Capabilities
from vdsm_mp.host.fencing import Fencing
from vdsm_mp.host.hardware import Hardware
from vdsm_mp.host.loglevels import LogLevels
from vdsm_mp.host.machine import Machine
from vdsm_mp.host.owners import Owners
from vdsm_mp.host.policy import Policy
from vdsm_mp.host.stats import HostStats
from vdsm_mp.host.status import BeatStatus
from vdsm_mp.ipc.handlers import read
from vdsm_mp.schedule.player import Player
from vdsm_mp.schedule.timetable import timetable
from vdsm_mp.workers.base import Room

#: Read here, so before the fork.
HANDLERS = (fencing, verbs, jobs, status)
read("scheduler", HANDLERS)


def build(config: Config, ports: Ports) -> Room:
    machine = Machine()
    house = config.vdsm_mp
    hardware = Hardware(ports.root, machine)
    hooks = Hooks(house.hooks_dir, f"{house.vdsm_run_dir}/hooks")
    capabilities = Capabilities(config, ports.call, hardware, machine, hooks)
    stats = HostStats(ports.call, machine, (house.vdsm_run_dir, house.log_dir, house.state_dir, "/tmp"))  # noqa: S108
    policy = Policy(ports.root, machine, house.state_dir)
    player = Player(
        timetable(config),
        ports.call,
        ports.background,
        {
            "learn the hypervisor": capabilities.learn,
            "read the host": capabilities.gather,
            "sample the host": stats.sample,
            "merge memory": policy.apply,
            "balance memory": Balloons(ports.call, policy, machine).beat,
        },
    )
    return Room(
        state=(
            LogLevels(ports.publish),
            Fencing(ports.call, ports.background),
            hooks,
            hardware,
            capabilities,
            stats,
            policy,
            Owners(ports.call),
            BeatStatus(player.status, stats.free_mib),
        ),
        handlers=HANDLERS,
        before_ready=(hooks.prepare, policy.load, stats.first_sample, player.start),
        peer_changed=partial(_peer_changed, player),
        on_drain=(player.stop,),
        vitals=lambda: (
            player.vitals()
            | {"problems": health.problems(player.status(), {}, {}, stats.free_mib()) + policy.problems()}
        ),
    )


def _peer_changed(player: Player, worker: str, up: bool) -> None:
    if worker == "virt" and up:
        player.hurry("learn the hypervisor")
