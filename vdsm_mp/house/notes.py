# SPDX-License-Identifier: Apache-2.0
"""What the master tells its workers, and how they hear of each other: by notes on their pipes. Nothing waits here."""

from collections.abc import Iterable

from vdsm_mp.common import log
from vdsm_mp.house.members import Worker
from vdsm_mp.ipc import control

logger = log.named("master")


class Notes:
    """Of all workers of the table, alive or not."""

    def __init__(self, workers: Iterable[Worker]) -> None:
        self._workers = tuple(workers)

    def tell(self, worker: Worker, note: control.Note, fds: tuple[int, ...] = ()) -> bool:
        """fds: descriptors that go with it. False: it is not there, or does not read."""
        process = worker.process
        if process is None or process.pipe is None:
            return False
        try:
            sent = control.send(process.pipe, note, fds)
        except control.Gone:
            return False  # its end is reported by the kernel as well
        if not sent:
            logger.warning("%s does not read its notes", worker.spec.name)
        return sent

    def tell_all(self, note: control.Note, but: Worker | None = None) -> None:
        for worker in self._workers:
            if worker is not but:
                self.tell(worker, note)

    def introduce(self, worker: Worker) -> None:
        """It is ready: the others hear of it, and it hears of those that are ready, too."""
        self.tell_all(control.Peer(name=worker.spec.name, epoch=worker.epoch, up=True), but=worker)
        for other in self._workers:
            if other.up and other is not worker:
                self.tell(worker, control.Peer(name=other.spec.name, epoch=other.epoch, up=True))

    def part(self, worker: Worker) -> None:
        """Nobody must send it anything any more: it is gone, or will be."""
        self.tell_all(control.Peer(name=worker.spec.name, epoch=worker.epoch, up=False), but=worker)
