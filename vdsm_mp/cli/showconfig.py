# SPDX-License-Identifier: Apache-2.0
"""`vdsm-mp show-config`: what would be in force if the agent started now, and which file says so."""

import argparse
from pathlib import Path

from vdsm_mp.common import config

SAYS_NO = (config.ConfigError,)


def arguments(parser: argparse.ArgumentParser, _name: str) -> None:
    parser.add_argument("--config", type=Path, help="instead of /etc/vdsm/vdsm.conf and its drop-ins")


def run(asked: argparse.Namespace) -> int:
    loaded = config.load(asked.config)
    print(config.in_force(loaded))
    for note in loaded.notes:
        print(f"# {note}")
    return 0
