# SPDX-License-Identifier: Apache-2.0
"""Which workers get another incarnation while some hang in the kernel."""

import time

from vdsm_mp.house.incarnations import MOST_LOST, Incarnations
from vdsm_mp.house.members import Lost
from vdsm_mp.house.notes import Notes


def test_a_worker_that_hangs_at_every_start_takes_no_place_of_the_others() -> None:
    made = Incarnations(lambda *_: 0, {}, (), Notes(()))
    for pid in range(MOST_LOST):
        assert not made.too_many_lost("network")
        made.lost.append(Lost("network", "worker", pid + 1, time.monotonic()))
    made.lost += [Lost("storage-io x", "storage-io", 100 + n, time.monotonic()) for n in range(MOST_LOST)]
    assert made.too_many_lost("network")
    assert not made.too_many_lost("clientif") and not made.too_many_lost("storage-io x")
    made.came_back(1)
    assert not made.too_many_lost("network")
