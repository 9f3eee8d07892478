# SPDX-License-Identifier: Apache-2.0
"""`vdsm-mp restart | stop | stacks | profile | trace`: through the master's control socket."""

import argparse

from vdsm_mp.cli import numbers, render
from vdsm_mp.common import config, controlsocket

WORKERS = ("storage", "network", "virt", "scheduler", "clientif")
SAYS_NO = (controlsocket.NotRunning, controlsocket.Refused)


def arguments(parser: argparse.ArgumentParser, name: str) -> None:
    parser.set_defaults(do=name)
    if name != "stop":
        parser.add_argument("worker", metavar="WORKER", help=", ".join(WORKERS))
    parser.add_argument("--json", action="store_true", help="the answer as JSON")
    if name in ("profile", "trace"):
        longest = "a minute" if name == "profile" else "an hour"
        how_long = f"how long to look (5), at most {longest}"
        parser.add_argument("--seconds", type=numbers.seconds, default=5.0, help=how_long)


def run(asked: argparse.Namespace) -> int:
    run_dir = config.load_usable()[0].vdsm_mp.run_dir
    more = {key: getattr(asked, key) for key in ("worker", "seconds") if hasattr(asked, key)}
    result = controlsocket.ask(run_dir, asked.do, timeout_s=120.0, **more)
    if asked.json:
        print(render.as_json(result))
    elif asked.do == "restart":
        print(f"{result['worker']}: ready after {result['ready_after_s']} s")
    else:
        print(result if isinstance(result, str) else render.as_json(result))
    return 0
