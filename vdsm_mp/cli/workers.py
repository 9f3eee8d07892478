# SPDX-License-Identifier: Apache-2.0
"""`vdsm-mp restart | stop | stacks | profile | trace`: through the master's control socket."""

import argparse
import sys

from vdsm_mp.cli import numbers, render
from vdsm_mp.common import config, controlanswers, controlsocket

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
    match asked.do:
        case "restart":
            done = controlanswers.restart(run_dir, asked.worker)
            result: object = done
            said = f"{done['worker']}: ready after {done['ready_after_s']} s"
        case "stop":
            result = said = controlanswers.stop(run_dir)
        case _:
            if asked.do == "profile" and sys.stderr.isatty():
                print(f"vdsm-mp: looking at {asked.worker} for {asked.seconds:g} s", file=sys.stderr)
            more = {key: getattr(asked, key) for key in ("worker", "seconds") if hasattr(asked, key)}
            result = said = controlanswers.look(run_dir, asked.do, **more)
    print(render.as_json(result) if asked.json else said)
    return 0
