# SPDX-License-Identifier: Apache-2.0
"""Run as a program, in a time namespace of its own: a whole house is asked, killed and frozen; what came of it as JSON.

unshare --time --monotonic OFFSET --boottime OFFSET --fork python -m tests.support.clockedhouse
"""

import json
import os
import signal
import sys
import time
from functools import partial

from tests.support.eventually import eventually
from tests.support.house import RunningHouse, forget_program
from vdsm_mp.common.errors import Error

ASKED = ("Host.ping2", "Host.getCapabilities", "Host.getStats", "Host.getAllVmStats")


def answered(house: RunningHouse, verb: str) -> bool:
    """Not 99, which is said until everything was read once."""
    try:
        house.call(verb)
    except Error as error:
        if error.code == 99:
            return False
        raise
    return True


def main() -> None:
    began = time.monotonic()
    with RunningHouse.start(tls=True, wait=False) as house:
        house.wait_ready(60)
        for verb in ASKED:
            eventually(partial(answered, house, verb), within_s=30)
        killed, frozen = house.pid_of("storage"), house.pid_of("network")
        os.kill(killed, signal.SIGKILL)
        house.wait_other_pid("storage", killed)
        os.kill(frozen, signal.SIGSTOP)
        house.wait_other_pid("network", frozen)
        status = house.status()
        found = {
            "began_mono": began,
            "up_s": status["uptime_s"],
            "verdict": status["verdict"],
            "deaths": {name: worker["last_death"] for name, worker in status["workers"].items()},
            "log": house.log_text(),
        }
    print(json.dumps(found))


if __name__ == "__main__":
    try:
        main()
    finally:
        forget_program()
        sys.stdout.flush()
