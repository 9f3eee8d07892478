# SPDX-License-Identifier: Apache-2.0
"""Asking again until somebody who is away is back: for work that is half done, or safe to repeat. It blocks."""

import threading
from collections.abc import Callable
from typing import TypeVar

from vdsm_mp.api.errors import PeerRestarted, StillStarting
from vdsm_mp.api.errors_virt import LibvirtUnavailable, VmNotResponding
from vdsm_mp.common import clock
from vdsm_mp.common.errors import Error

T = TypeVar("T")

#: How long work that is half done waits for libvirtd to come back. After that the next life, or stock, finishes it.
PATIENCE_S = 20.0
#: Nothing is known of what libvirt was asked: it is away, or still at it, because QEMU hangs.
UNDECIDED = (LibvirtUnavailable, VmNotResponding)
#: What libvirt is at ends when QEMU answers again, which storage may keep it from for so long.
QEMU_MAY_HANG_S = 1800.0
#: So long another worker may take to be back, its longest usual back-off included, and what is said meanwhile.
COMES_BACK_S = 40.0
PEER_AWAY = (PeerRestarted, StillStarting)
_TICK_S = 0.2


def patiently(
    work: Callable[[], T],
    within_s: float = PATIENCE_S,
    *,
    away: tuple[type[Error], ...] = (LibvirtUnavailable,),
    hurry: Callable[[], bool] = lambda: False,
) -> T:
    """Its answer, as soon as there is one. away: what it raises meanwhile. hurry: true when nobody can wait any more.

    Raises: one of `away` after that time; what else work raises.
    """
    until, pause = clock.mono_s() + within_s, threading.Event()
    while True:
        try:
            return work()
        except away:
            if clock.mono_s() > until or hurry():
                raise
        pause.wait(_TICK_S)
