# SPDX-License-Identifier: Apache-2.0
"""A host of VDSM's that asks the SPM for larger volumes: its side of the mailbox, on the files of the master domain."""

import os
from pathlib import Path

from tests.support.eventually import eventually
from vdsm_mp.storage import mailbox_format as fmt


class Neighbour:
    """dom_md: of the master domain. As a host does, it begins with an empty mailbox."""

    def __init__(self, dom_md: Path, host_id: int) -> None:
        self._inbox, self._outbox = dom_md / "inbox", dom_md / "outbox"
        self._at = host_id * fmt.MAILBOX
        self._slots = [fmt.EMPTY] * fmt.SLOTS
        self.send()

    def put(self, slot: int, message: bytes) -> None:
        self._slots[slot] = message
        self.send()

    def send(self, *, mailbox: bytes | None = None) -> None:
        """mailbox: instead of what it has to say."""
        self._write(self._at, mailbox or fmt.seal(b"".join(self._slots)))
        self._write(0, fmt.event())

    def heard(self, slot: int) -> bytes:
        start = self._at + slot * fmt.MESSAGE
        fd = os.open(self._outbox, os.O_RDONLY)
        try:
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
            return os.pread(fd, fmt.MESSAGE, start)
        finally:
            os.close(fd)

    def ask(self, slot: int, request: fmt.Extend) -> bytes:
        """The whole conversation; the SPM's reply."""
        message = request.encode()
        self.put(slot, message)
        reply: list[bytes] = []

        def answered() -> bool:
            heard = self.heard(slot)
            reply[:] = [heard]
            return fmt.answers(heard, message)

        eventually(answered, within_s=30, every_s=0.05)
        self.put(slot, fmt.CLEAN)
        eventually(lambda: self.heard(slot) == fmt.CLEAN, within_s=30, every_s=0.05)
        self.put(slot, fmt.EMPTY)
        return reply[0]

    def _write(self, offset: int, data: bytes) -> None:
        fd = os.open(self._inbox, os.O_WRONLY | os.O_SYNC)
        try:
            os.pwrite(fd, data, offset)
        finally:
            os.close(fd)
