# SPDX-License-Identifier: Apache-2.0
"""Runs inside a testbed host: a whole house with the SPM role, while somebody sets this host's clock, forth and back.

    python -m tests.testbed.clock_room

Says `SEEN {"setting": …}`: for each setting of the clock the slowest answer of clients that were connected before, what
new clients met, the age of the domain's last check, and whose process was another one afterwards.
"""

import contextlib
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.support.eventually import eventually
from tests.support.house import RunningHouse, forget_program
from tests.system import test_storage_house as storage
from vdsm_mp.cli import status
from vdsm_mp.common.errors import Error
from vdsm_mp.wire.client import Client

HOUR_S, DAY_S = 3600.0, 86400.0
#: What the clock is set to, from the true time. The certificates of the house are good for thirty days.
SETTINGS = {
    "six hours later": 6 * HOUR_S,
    "half a day earlier": -12 * HOUR_S,
    "half a year later": 180 * DAY_S,
    "true again": 0.0,
}
#: How long one looks after each: several checks of the domain, which are 2 s apart, and every beat but the slowest.
LOOK_S = 25.0
ASKED = ("Host.ping2", "Host.getStats", "Host.getAllVmStats", "StoragePool.getSpmStatus")


@contextlib.contextmanager
def place() -> Iterator[tuple[RunningHouse, Path]]:
    data = Path(tempfile.mkdtemp(prefix="vdsm-mp-data-", dir="/var/tmp"))
    shutil.chown(data, "vdsm", "kvm")
    data.chmod(0o755)
    options = {"irs": {"sd_health_check_delay": 2}, "sanlock": {"io_timeout": 2}}
    try:
        with RunningHouse.start(options, tls=True, wait=False) as house:
            house.wait_ready(120)
            storage.make(house, data)
            yield house, data
    finally:
        forget_program()


def look(house: RunningHouse, old: Client) -> dict[str, Any]:
    """What clients meet for LOOK_S seconds."""
    slowest_s, refused, checked_s = 0.0, [], 0.0
    until = time.monotonic() + LOOK_S
    while time.monotonic() < until:
        for verb in ASKED:
            began = time.monotonic()
            params = {"storagepoolID": storage.POOL} if verb == "StoragePool.getSpmStatus" else {}
            answer = old.call(verb, params, timeout_s=20)
            slowest_s = max(slowest_s, time.monotonic() - began)
            if verb == "Host.getStats":
                domain = answer["storageDomains"][storage.SD]
                checked_s = max(checked_s, float(domain["lastCheck"]))
                assert domain["valid"] is True, domain
            if verb == "StoragePool.getSpmStatus":
                assert answer["spmStatus"] == "SPM", answer
        try:
            house.call("Host.ping2", timeout_s=20)
        except (Error, OSError) as error:
            refused.append(str(error)[:200])
        time.sleep(0.5)
    return {"slowest_s": slowest_s, "checked_s": checked_s, "refused": sorted(set(refused))}


def problems(house: RunningHouse) -> list[str]:
    """What `status` says of the workers and the certificate; the door is asked by `look`."""
    assert house.files is not None
    return [*status.house_problems(house.status()), *status.certificate_problems(house.files)]


def main() -> None:
    seen = {}
    with place() as (house, _data), contextlib.closing(house.client()) as old:
        true_s, began_mono = time.time(), time.monotonic()
        for name, offset_s in SETTINGS.items():
            before = house.all_pids()
            time.clock_settime(time.CLOCK_REALTIME, true_s + time.monotonic() - began_mono + offset_s)
            found = look(house, old)
            found["problems"] = problems(house)
            found["others"] = sorted(set(before) ^ set(house.all_pids()))
            seen[name] = found
            print(name, found, file=sys.stderr, flush=True)
        task_id = storage.create_volume(house, storage.IMAGE, storage.VOLUME)
        storage.finish(house, task_id)
        eventually(lambda: house.status()["verdict"] == "ok")
        log = [line for line in house.log_text().splitlines() if " ERROR " in line or " CRIT " in line]
    print("\n".join(log), file=sys.stderr)
    print("SEEN " + json.dumps(seen), flush=True)


if __name__ == "__main__":
    main()
