# SPDX-License-Identifier: Apache-2.0
"""`supervisorctl vdsm status|restart WORKER|stop`: a thin plug-in that talks to the master's control socket.

Runs inside supervisorctl, as whoever calls it; nothing of ours runs inside supervisord.
"""

from typing import Any

from supervisor.supervisorctl import ControllerPluginBase

from vdsm_mp.common import config, controlanswers
from vdsm_mp.common import controlsocket as control

_USAGE = "vdsm status | vdsm restart WORKER | vdsm stop"


class VdsmController(ControllerPluginBase):  # type: ignore[misc]
    """The command `vdsm` of supervisorctl."""

    name = "vdsm"

    def __init__(self, controller: Any, **_: Any) -> None:
        self.ctl = controller

    def do_vdsm(self, arg: str) -> None:
        """Carry one command out and print its outcome; supervisorctl's exit status tells of failure."""
        words = arg.split()
        try:
            run_dir = config.load_usable()[0].vdsm_mp.run_dir
            match words:
                case ["status"]:
                    self._status(controlanswers.status(run_dir))
                case ["restart", worker]:
                    done = controlanswers.restart(run_dir, worker)
                    self.ctl.output(f"{worker}: ready after {done['ready_after_s']} s")
                case ["stop"]:
                    self.ctl.output(controlanswers.stop(run_dir))
                case _:
                    self._fail(f"usage: {_USAGE}")
        except (control.NotRunning, control.Refused, OSError) as error:
            self._fail(f"vdsm: {error}")

    def help_vdsm(self) -> None:
        self.ctl.output(f"{_USAGE}\n\nLook at and restart the agent's workers, each alone.")

    def _status(self, status: controlanswers.House) -> None:
        self.ctl.output(f"vdsm-mp {status['version']} pid {status['pid']}: {status['verdict']}")
        for name, worker in status["workers"].items():
            runs = f"pid {worker['pid']}, up {worker['uptime_s']} s" if worker["pid"] else "no process"
            last = f", last death: {worker['last_death']}" if worker["last_death"] else ""
            self.ctl.output(f"{name:<12} {worker['state']:<9} {runs}, restarts {worker['restarts']}{last}")

    def _fail(self, sentence: str) -> None:
        self.ctl.output(sentence)
        self.ctl.exitstatus = 1


def make_controller(controller: Any, **settings: Any) -> VdsmController:
    """What `supervisor.ctl_factory` in the configuration names."""
    return VdsmController(controller, **settings)
