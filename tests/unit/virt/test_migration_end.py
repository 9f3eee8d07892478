# SPDX-License-Identifier: Apache-2.0
"""A VM that stands still between two hosts, the other of which is dead: the log stays small while that one is asked."""

import logging
from types import SimpleNamespace
from typing import Any, cast

import libvirt
import pytest

from tests.support.background import HeldBackground
from vdsm_mp.api.vm_migration import MigrationParams
from vdsm_mp.virt.convergence import Schedule
from vdsm_mp.virt.migration_end import Endings
from vdsm_mp.virt.migration_peer import Whereabouts
from vdsm_mp.virt.migration_watch import Outgoing
from vdsm_mp.wire.client import ConnectionLost


class Between:
    """The VM, and the other host: `answers` are what it says, in order."""

    def __init__(self, *answers: Whereabouts | Exception) -> None:
        self.answers = list(answers)

    def domain(self, vm_id: str) -> Any:
        return SimpleNamespace(state=lambda: (libvirt.VIR_DOMAIN_PAUSED, libvirt.VIR_DOMAIN_PAUSED_MIGRATION))

    def whereabouts(self, dst: str, vm_id: str) -> Whereabouts:
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


def test_a_host_that_stays_dead_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    dead = ConnectionLost("other:54321", "no route to host")
    between = Between(dead, dead, dead, Whereabouts.ON_ITS_WAY, Whereabouts.ON_ITS_WAY, dead)
    room = cast(Any, between)
    endings = Endings(room, cast(Any, None), keeper=cast(Any, None), peers=room, background=HeldBackground())
    out = Outgoing("x", MigrationParams(dst="other:54321"), Schedule(), adopted=True)
    with caplog.at_level(logging.DEBUG):
        for _ in range(6):
            endings.look(out, "it ended while nobody watched")
    assert between.answers == []
    loud = [one.getMessage() for one in caplog.records if one.levelno >= logging.INFO]
    assert ["stands still" in loud[0], "on its way" in loud[1], "stands still" in loud[2]] == [True] * 3
    assert (len(loud), len(caplog.records)) == (3, 6)
