# SPDX-License-Identifier: Apache-2.0
"""The clock of a host is set by hours and months, forth and back, under a house that holds the SPM role."""

import json
import sys
from pathlib import Path

import pytest

from tests.support.eventually import eventually
from tests.support.needs import needs_program, needs_root
from tests.testbed.asks import Play, folders, must
from tests.testbed.testbed import Testbed

pytestmark = [needs_root(), needs_program("mmdebstrap", "mke2fs"), pytest.mark.timeout(900)]

#: The agent's own account, and a sanlock that lets it in; its watchdog would need a device.
_ACCOUNT = """
set -e
for d in {folders}; do mkdir -p $d; mount -t hostfs -o $d none $d; done
useradd --system -u 36 -g kvm -d /var/lib/vdsm -m vdsm
usermod -a -G sanlock vdsm; usermod -a -G kvm sanlock
SANLOCK_WATCHDOG=0 tb-start sanlock
"""


def test_a_clock_that_is_set_harms_nothing_but_certificates_out_of_their_time() -> None:
    with Testbed(project=str(Path(__file__).parents[2])) as bed:
        [host] = bed.hosts
        must(host.run(_ACCOUNT.format(folders=" ".join(folders())), timeout=120))
        play = Play(host, "tests.testbed.clock_room", timeout_s=600)
        eventually(lambda: play.over, within_s=650, every_s=0.5)
        seen = play.seen()
    print(json.dumps(seen), file=sys.stderr)
    assert len(seen) == 4
    for name, found in seen.items():
        # Nobody was restarted, and who was connected was served on; the domain went on being checked every 2 s.
        assert found["others"] == [], (name, found)
        assert found["slowest_s"] < 5.0 and found["checked_s"] < 10.0, (name, found)
        words = {"half a year later": " ended ", "half a day earlier": " is not good for another "}.get(name, "")
        assert bool(found["refused"]) == bool(words), (name, found)
        # The small disk of the throw-away host is told of as well.
        said = [problem for problem in found["problems"] if "certificate" in problem]
        assert len(said) == (2 if words else 0) and all(words in problem for problem in said), (name, found)
