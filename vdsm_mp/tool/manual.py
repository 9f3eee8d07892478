# SPDX-License-Identifier: Apache-2.0
"""etc/vdsm.conf, made from the structs in `common/options.py`.

usage: python -m vdsm_mp.tool.manual [--check | --write]
"""

import argparse
import sys
from pathlib import Path

from vdsm_mp.common import config

VDSM_CONF = Path(__file__).resolve().parent.parent.parent / "etc" / "vdsm.conf"


def main() -> int:
    """Print, check or write the file. Exit code 1: it is not current."""
    parser = argparse.ArgumentParser(prog="manual", description=__doc__)
    group = parser.add_mutually_exclusive_group()
    group.add_argument("--check", action="store_true", help="fail when the file is not current")
    group.add_argument("--write", action="store_true", help="write the file")
    asked = parser.parse_args()
    if asked.write:
        VDSM_CONF.write_text(config.manual(), encoding="utf-8")
    elif not asked.check:
        print(config.manual())
    elif VDSM_CONF.read_text(encoding="utf-8") != config.manual():
        print(f"{VDSM_CONF} is not current: scripts/check --write", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
