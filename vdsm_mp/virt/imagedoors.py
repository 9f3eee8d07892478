# SPDX-License-Identifier: Apache-2.0
"""Nobody gives an image back while somebody has it prepared: the one would take away what the other has just got.

Many may prepare one image at a time, a shared disk's say. Who gives it back is alone with it, so what he sees inside,
whether it is needed again, holds until storage has answered.
"""

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from vdsm_mp.api.errors import DeadlineExceeded

#: See `VolumeIds.image`.
Image = tuple[str, str]


class ImageDoors:
    """Any thread. Each waits at most for as long as it says; the other side is bounded by storage's own deadlines."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._coming: Counter[Image] = Counter()
        self._going: set[Image] = set()

    @contextmanager
    def coming(self, image: Image, within_s: float) -> Iterator[None]:
        """Around a preparation. Raises: DeadlineExceeded when it is given back for so long; nothing was done."""
        with self._changed:
            self._await(image, lambda: image not in self._going, within_s)
            self._coming[image] += 1
        try:
            yield
        finally:
            with self._changed:
                self._coming[image] -= 1
                if not self._coming[image]:
                    del self._coming[image]
                self._changed.notify_all()

    @contextmanager
    def going(self, image: Image, within_s: float) -> Iterator[None]:
        """Around giving it back. Raises: DeadlineExceeded when it is prepared for so long; nothing was done."""
        with self._changed:
            self._await(image, lambda: image not in self._going and image not in self._coming, within_s)
            self._going.add(image)
        try:
            yield
        finally:
            with self._changed:
                self._going.discard(image)
                self._changed.notify_all()

    def _await(self, image: Image, free: Callable[[], bool], within_s: float) -> None:
        if not self._changed.wait_for(free, within_s):
            raise DeadlineExceeded(f"what others do with image {image[1]}", within_s)
