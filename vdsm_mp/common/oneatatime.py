# SPDX-License-Identifier: Apache-2.0
"""Many things, each of them worked on by one at a time: who is busy with one keeps nobody from the others."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from vdsm_mp.common.errors import Error


class OneAtATime:
    """Any thread. A thing that nobody works on costs nothing."""

    def __init__(self) -> None:
        self._free = threading.Condition()
        self._busy: set[str] = set()

    @contextmanager
    def turn(self, name: str, within_s: float, too_long: Callable[[], Error]) -> Iterator[None]:
        """It is nobody else's meanwhile. Raises: what `too_long` makes, when somebody else has it for longer."""
        with self._free:
            if not self._free.wait_for(lambda: name not in self._busy, within_s):
                raise too_long()
            self._busy.add(name)
        try:
            yield
        finally:
            with self._free:
                self._busy.discard(name)
                self._free.notify_all()
