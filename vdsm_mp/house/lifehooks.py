# SPDX-License-Identifier: Apache-2.0
"""Hooks of the agent's own life: before_vdsm_start when no worker runs yet, after_vdsm_stop when none runs any more.

Run by the master, before its first fork and after its last child, when there is nobody whom waiting could hurt. They
refuse nothing: what a hook says is logged. Their document is empty.
"""

from vdsm_mp.common import clock, log
from vdsm_mp.common.hooks import Hooks
from vdsm_mp.common.options import Config

logger = log.named(__name__)

#: Seconds for all hooks of a point together. A stop has fewer: whoever asked for it waits.
START_S = 60.0
STOP_S = 5.0


def run(config: Config, point: str, within_s: float) -> None:
    """point: "before_vdsm_start" or "after_vdsm_stop". Never raises."""
    house = config.vdsm_mp
    hooks = Hooks(house.hooks_dir, f"{house.vdsm_run_dir}/hooks", until_mono=clock.mono_s() + within_s)
    if not hooks.has(point):
        return
    try:
        hooks.prepare()
    except OSError as error:
        logger.warning("the hooks of %s do not run: %s", point, error)
        return
    hooks.xml(point, "", raises=False)
