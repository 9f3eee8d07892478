# SPDX-License-Identifier: Apache-2.0
"""The power of a host goes while three clients work on its storage, again and again on the same disk.

The whole guest kernel is killed, and its page cache with it. After each start everything that was told of as done is
there and whole, everything else is done or undone, and nothing is left over. Six cuts; VDSM_MP_FAULTS_STRIDE=1: sixty.
"""

import contextlib
import os
import random
import sys
import threading
import time
from pathlib import Path

import pytest

from tests.support.eventually import eventually
from tests.support.needs import needs_program, needs_root
from tests.testbed.asks import folders, must
from tests.testbed.channel import TestbedError
from tests.testbed.host import Host
from tests.testbed.testbed import Testbed

CUTS = 60 if os.environ.get("VDSM_MP_FAULTS_STRIDE") == "1" else 6

pytestmark = [needs_root(), needs_program("mmdebstrap", "mke2fs"), pytest.mark.timeout(300 + 200 * CUTS)]

#: The longest that the clients work before a cut.
_WORK_S = 12.0
_START = """
set -e
for d in {folders}; do mkdir -p $d; mount -t hostfs -o $d none $d; done
blkid /dev/testbed/disk1 >/dev/null || mkfs.ext4 -q /dev/testbed/disk1
mkdir -p /run/agent/export; mount /dev/testbed/disk1 /run/agent/export
"""


def live(host: Host, statuses: list[int], *words: str) -> None:
    """Until the power goes, or it ends; then its exit status is told."""
    line = (
        f"cd /project && PYTHONDONTWRITEBYTECODE=1 {sys.executable} -m tests.testbed.power_room {' '.join(words)} 2>&1"
    )
    with contextlib.suppress(TestbedError):
        result = host.run(line, timeout=900)
        print(result.output[-6000:], file=sys.stderr)
        statuses.append(result.status)


def start(host: Host) -> None:
    host.start()
    host.wait_ready(180)
    host.identify()


def test_a_host_whose_power_goes_has_what_it_told_of_and_nothing_half() -> None:
    rng = random.Random(seed := random.SystemRandom().randrange(1 << 32))
    print(f"seed {seed}", file=sys.stderr)
    with Testbed(disks=["600M"], nics=0, project=str(Path(__file__).parents[2])) as bed:
        [host] = bed.hosts
        said = Path(bed.folder) / "testbed/said"
        said.touch()
        for number in range(CUTS + 1):
            must(host.run(_START.format(folders=" ".join(folders())), timeout=120))
            statuses: list[int] = []
            words = ("go" if number else "make", f"{seed}-{number}")
            life = threading.Thread(target=live, args=(host, statuses, *words))
            life.start()
            eventually(lambda: lines(said, "looked") > number or not life.is_alive(), within_s=240, every_s=0.1)  # noqa: B023
            time.sleep(rng.uniform(0.2, _WORK_S))  # the cut is to come anywhere
            # User-mode Linux kills its programs by SIGSEGV now and then: to storage that is one more death.
            assert not lines(said, "failed") and statuses in ([], [139]), (statuses, said.read_text()[-6000:])
            host.kill()
            life.join(60)
            start(host)
        ledger = (Path(bed.folder) / "testbed/ledger").read_text()
    begun, cut_short = ledger.count('"begin"'), ledger.count('"found"')
    print(f"{begun} operations, {cut_short} of them cut short", file=sys.stderr)
    assert begun > 2 * CUTS
    assert cut_short >= CUTS // 2, "the cuts came while nothing was done"


def lines(path: Path, word: str) -> int:
    return sum(line.startswith(word) for line in path.read_text().splitlines())
