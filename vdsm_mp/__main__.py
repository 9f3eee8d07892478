# SPDX-License-Identifier: Apache-2.0
"""`python -m vdsm_mp` runs the agent; everything else is `vdsm-mp COMMAND` (`cli/main.py`)."""

import sys

from vdsm_mp.master import main

if __name__ == "__main__":
    sys.exit(main())
