# SPDX-License-Identifier: Apache-2.0
"""`python -m vdsm_mp` runs the agent; everything else is `vdsm-mp COMMAND` (`cli/main.py`)."""

import gc
import signal
import sys

# What is loaded stays: looking for garbage in it takes a tenth of the start. `spawn.collect_freely` ends this.
gc.disable()

from vdsm_mp.house.spawn import MEANT_FOR_THE_MASTER  # noqa: E402
from vdsm_mp.master import main  # noqa: E402

if __name__ == "__main__":
    code = main()
    for number in MEANT_FOR_THE_MASTER:  # the interpreter forgets its own handlers first, and would end by the next one
        signal.signal(number, signal.SIG_IGN)
    sys.exit(code)
