# SPDX-License-Identifier: Apache-2.0
"""`vdsm-mp events`: what an engine would hear, as it comes."""

import argparse
import json
import sys
import time

from vdsm_mp.api.errors import DeadlineExceeded
from vdsm_mp.cli import door, numbers, render
from vdsm_mp.common.errors import Error

SAYS_NO = (*door.SAYS_NO, Error)


def arguments(parser: argparse.ArgumentParser, _name: str) -> None:
    parser.add_argument("--json", action="store_true", help="one object a line")
    parser.add_argument(
        "--for", dest="seconds", type=numbers.seconds, metavar="SECONDS", help="end after this time (never)"
    )
    door.arguments(parser)


def run(asked: argparse.Namespace) -> int:
    until = None if asked.seconds is None else time.monotonic() + asked.seconds
    with door.connect(asked) as client:
        client.subscribe()
        if sys.stderr.isatty():
            print(f"vdsm-mp: events of {client.address} as they come; Ctrl-C ends this", file=sys.stderr)
        while until is None or time.monotonic() < until:
            # In slices: the client takes silence of a whole heart-beat period for a dead server, and says so.
            try:
                for event in client.events(timeout_s=1.0):
                    print(_line(event.method, dict(event.params), as_json=asked.json), flush=True)
            except DeadlineExceeded:
                continue
    return 0


def _line(method: str, params: dict[str, object], *, as_json: bool) -> str:
    ascii_only = not render.has_all_letters()
    if as_json:
        return json.dumps({"method": method, "params": params}, ensure_ascii=ascii_only)
    shown = {key: value for key, value in params.items() if key != "notify_time"}
    return f"{time.strftime('%H:%M:%S')} {method} {json.dumps(shown, ensure_ascii=ascii_only)}"
