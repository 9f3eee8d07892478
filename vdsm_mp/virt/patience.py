# SPDX-License-Identifier: Apache-2.0
"""Asking again until somebody who is away is back: for work that is half done, or safe to repeat.

`patiently` blocks: for who has to tell somebody how it ended. `decided` does, too, but for a QEMU that hangs not for
long: such guests may be many, and threads are few. `Again` does not: for what only has to be done some time.
"""

import threading
from collections.abc import Callable
from typing import TypeVar

from vdsm_mp.api.errors import PeerRestarted, StillStarting
from vdsm_mp.api.errors_virt import LibvirtUnavailable, VmNotResponding, VmUndecided
from vdsm_mp.api.ports import Background
from vdsm_mp.common import clock, log
from vdsm_mp.common.errors import Error

logger = log.named(__name__)

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
#: libvirt is through with a QEMU that answers long before that, also when it has just come back.
DECIDES_S = 5.0
_TICK_S = 0.2
_AGAIN_S = 1.0


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


def decided(look: Callable[[], T]) -> T:
    """Its answer, as soon as libvirt is done with what it was asked before. look: comes up by `Keeper.take_turn`.

    Raises: VmUndecided, soon where QEMU hangs: somebody must look again, without a thread; what else look raises.
    """
    pause, until = threading.Event(), clock.mono_s() + PATIENCE_S
    hangs_until: float | None = None
    last: LibvirtUnavailable | VmNotResponding
    while True:
        try:
            return look()
        except LibvirtUnavailable as error:
            hangs_until, last = None, error
        except VmNotResponding as error:
            hangs_until, last = hangs_until or clock.mono_s() + DECIDES_S, error
        if clock.mono_s() > min(until, hangs_until or until):
            raise VmUndecided(last.reason) from last
        pause.wait(_TICK_S)


class Again:
    """Work that comes again as long as QEMU does not answer, once under each name. Between two tries it has no thread,
    so work must not wait for QEMU itself (`Keeper.take_turn`): guests that hang may be many, and threads are few.
    """

    def __init__(self, background: Background) -> None:
        self._background = background
        self._lock = threading.Lock()
        self._due: set[str] = set()

    def start(self, name: str, work: Callable[[], None], after_s: float = 0.0) -> None:
        """Any thread. What it raises is logged, and the end of it, but for VmNotResponding. No effect while it is
        due."""
        self._later(name, work, after_s, clock.mono_s() + after_s + QEMU_MAY_HANG_S)

    def _later(self, name: str, work: Callable[[], None], after_s: float, until_mono: float) -> None:
        with self._lock:
            if name in self._due:
                return
            self._due.add(name)
        self._background.later(after_s, name, lambda: self._try(name, work, until_mono))

    def _try(self, name: str, work: Callable[[], None], until_mono: float) -> None:
        with self._lock:
            self._due.discard(name)
        try:
            work()
        except VmNotResponding as error:
            if clock.mono_s() < until_mono:
                self._later(name, work, _AGAIN_S, until_mono)
            else:
                logger.warning("%s is given up: %s", name, error)
        except Error as error:
            logger.info("%s: %s", name, error)
