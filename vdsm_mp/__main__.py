# SPDX-License-Identifier: Apache-2.0
"""`python -m vdsm_mp` runs the agent; everything else is `vdsm-mp COMMAND` (`cli/main.py`)."""

import gc
import sys

# What is loaded stays: looking for garbage in it takes a tenth of the start. `spawn.collect_freely` ends this.
gc.disable()

from vdsm_mp.master import main  # noqa: E402

if __name__ == "__main__":
    sys.exit(main())
