# SPDX-License-Identifier: Apache-2.0
"""Data of OVF stores in and out of raw volumes, piece by piece, for the door's HTTP. An SPM task stands for each.

The task's job holds the image and waits; the pieces are moved by the calls that bring or fetch them, in order, each on
storage before its call returns. A transfer that nobody touches for a while is failed, so nothing stays behind when the
door dies.
"""

import logging
import threading

import msgspec

from vdsm_mp.api.errors import Busy
from vdsm_mp.api.errors_volume import (
    ImageDoesNotExist,
    IncorrectFormat,
    InternalVolumeNotWritable,
    InvalidVolumeParameter,
    PrepareIllegalVolume,
    SharedVolumeNotWritable,
)
from vdsm_mp.api.ovf_store import CloseTransfer, Direction, OpenTransfer, ReadPiece, TransferFailed, WritePiece
from vdsm_mp.api.verb import handles
from vdsm_mp.common.clock import mono_s
from vdsm_mp.common.errors import Error
from vdsm_mp.storage.domain_file import FileDomain
from vdsm_mp.storage.volume_access import Volumes, key_of
from vdsm_mp.storage.volume_file import ImageFiles, read_image, volume_path
from vdsm_mp.tasks.run import TaskRun

_log = logging.getLogger("storage.ovf")

#: Each waits in a thread of the background pool.
MAX_TRANSFERS = 3
#: The engine's own patience with a socket is 60 s.
IDLE_S = 75.0
#: When the door has died, or leaves: who still moves pieces may end that, the others hold their image no longer.
IDLE_WITHOUT_DOOR_S = 3.0
_OPEN_S = 50.0
_LOOK_S = 0.2
#: Names that the engine knows.
_VERBS = {Direction.TO_VOLUME: "downloadImageFromStream", Direction.FROM_VOLUME: "uploadImageToStream"}


class _Transfer(msgspec.Struct):
    domain: FileDomain
    image_id: str
    volume_id: str
    direction: Direction
    length: int
    done: int = 0
    touched_mono: float = msgspec.field(default_factory=mono_s)
    idle_s: float = IDLE_S
    held: threading.Event = msgspec.field(default_factory=threading.Event)
    over: threading.Event = msgspec.field(default_factory=threading.Event)
    problem: str = ""
    counted: bool = True

    @property
    def path(self) -> str:
        return volume_path(self.image_id, self.volume_id)


class Transfers:
    """{task id: transfer under way}. One thread at a time moves pieces of one transfer (the lane's key)."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._by_task: dict[str, _Transfer] = {}
        self._count = 0

    def open(self, volumes: Volumes, ask: OpenTransfer) -> str:
        """Raises: Busy, TooManyTasks, ClaimTimedOut, and what `_checked` raises; nothing was begun then."""
        domain = volumes.of_spm(ask.pool_id, ask.sd_id)
        transfer = _checked(domain, ask)
        with self._lock:
            if self._count >= MAX_TRANSFERS:
                raise Busy("the transfer of OVF stores")
            self._count += 1
        try:
            task_id = volumes.tasks.start(
                _VERBS[ask.direction],
                lambda run: self._wait(volumes, transfer, run),
                spm=True,
                key=key_of(ask.image_id),
            )
        except BaseException:
            self._leave(transfer)
            raise
        with self._lock:
            self._by_task[task_id] = transfer
        if not transfer.held.wait(_OPEN_S) or transfer.over.is_set():
            transfer.problem = transfer.problem or "the image is in use"
            transfer.over.set()
            # Its job may never run: a task may be stopped, and its role may go, before its turn.
            self._leave(transfer, task_id)
            raise TransferFailed(transfer.volume_id, transfer.problem)
        return task_id

    def _wait(self, volumes: Volumes, transfer: _Transfer, run: TaskRun) -> None:
        """The task's job."""
        try:
            names = f"{_VERBS[transfer.direction]} {transfer.volume_id}"
            writes = transfer.direction is Direction.TO_VOLUME
            claim = volumes.changing_as_spm if writes else volumes.using
            with claim(names, transfer.domain, transfer.image_id, within_s=_OPEN_S - 5):
                _check(transfer, read_image(transfer.domain, transfer.image_id))  # a snapshot may have been quicker
                transfer.touched_mono = mono_s()
                transfer.held.set()
                while not transfer.over.wait(_LOOK_S):
                    run.check()
                    if mono_s() - transfer.touched_mono > transfer.idle_s:
                        raise TransferFailed(transfer.volume_id, f"nothing happened for {transfer.idle_s:g} s")
                if transfer.problem:
                    raise TransferFailed(transfer.volume_id, transfer.problem)
        except Error as e:
            transfer.problem = transfer.problem or str(e)
            raise
        finally:
            transfer.over.set()
            transfer.held.set()
            self._leave(transfer, run.task_id)

    def _leave(self, transfer: _Transfer, task_id: str = "") -> None:
        """Once or twice."""
        with self._lock:
            self._by_task.pop(task_id, None)
            self._count -= transfer.counted
            transfer.counted = False

    def worker_changed(self, worker: str, up: bool) -> None:
        """The master's note, on the loop. The clients of a door that is gone are gone, too."""
        if worker == "clientif" and not up:
            with self._lock:
                for transfer in self._by_task.values():
                    transfer.idle_s = IDLE_WITHOUT_DOOR_S

    def find(self, task_id: str) -> _Transfer:
        """Raises: TransferFailed (it is over, or never was)."""
        transfer = self._by_task.get(task_id)
        if transfer is None or transfer.over.is_set():
            raise TransferFailed("of task " + task_id, "it is over")
        return transfer

    def piece(self, task_id: str, direction: Direction, offset: int, length: int) -> _Transfer:
        """The transfer that this piece belongs to. Raises: TransferFailed."""
        transfer = self.find(task_id)
        if transfer.direction is not direction:
            raise TransferFailed(transfer.volume_id, "data goes the other way")
        if offset != transfer.done or offset + length > transfer.length:
            raise TransferFailed(transfer.volume_id, f"a piece at {offset} after {transfer.done} of {transfer.length}")
        transfer.touched_mono = mono_s()
        return transfer

    def close(self, task_id: str, problem: str) -> None:
        transfer = self.find(task_id)
        if not problem and transfer.done != transfer.length:
            problem = f"it ended after {transfer.done} of {transfer.length} bytes"
        transfer.problem = problem
        transfer.over.set()


def _checked(domain: FileDomain, ask: OpenTransfer) -> _Transfer:
    """Raises: ImageDoesNotExist, VolumeDoesNotExist, IncorrectFormat, PrepareIllegalVolume, InvalidVolumeParameter;
    before writing SharedVolumeNotWritable (219), InternalVolumeNotWritable (220)."""
    image = read_image(domain, ask.image_id)
    chain = image.chain_to(ask.volume_id) if ask.volume_id is not None else image.chain()
    if not chain:
        raise ImageDoesNotExist(ask.image_id, ask.sd_id)
    transfer = _Transfer(domain, ask.image_id, chain[-1], ask.direction, ask.length_bytes)
    _check(transfer, image)
    return transfer


def _check(transfer: _Transfer, image: ImageFiles) -> None:
    """Raises: as `_checked` says."""
    volume_id = transfer.volume_id
    metadata, file = image.metadata(volume_id), image.stat(volume_id)
    if metadata.cow:
        raise IncorrectFormat(f"volume {volume_id} is not raw")
    if not metadata.legal:
        raise PrepareIllegalVolume(volume_id)
    if transfer.direction is Direction.TO_VOLUME:
        _refuse_base(image, volume_id)
    if transfer.length > file.size_bytes:
        raise InvalidVolumeParameter("length", f"{transfer.length}, the volume has {file.size_bytes} bytes")


def _refuse_base(image: ImageFiles, volume_id: str) -> None:
    """What others are built on must not change below them. Raises: as `_checked` says."""
    if image.metadata(volume_id).shared:
        raise SharedVolumeNotWritable(volume_id)
    children = image.children(volume_id)
    if children or image.metadata(volume_id).voltype == "INTERNAL":
        raise InternalVolumeNotWritable(volume_id, ", ".join(children) or "its metadata says so")


@handles(OpenTransfer)
def open_transfer(ask: OpenTransfer, volumes: Volumes, transfers: Transfers) -> str:
    return transfers.open(volumes, ask)


@handles(WritePiece)
def write_piece(transfers: Transfers, volumes: Volumes, ask: WritePiece) -> None:
    with volumes.tasks.at_work():  # before the look: the role does not end between that and the write
        transfer = transfers.piece(ask.task_id, Direction.TO_VOLUME, ask.offset_bytes, len(ask.data))
        transfer.domain.io.write(transfer.path, ask.data, offset=ask.offset_bytes)
        transfer.done += len(ask.data)


@handles(ReadPiece)
def read_piece(transfers: Transfers, ask: ReadPiece) -> bytes:
    transfer = transfers.piece(ask.task_id, Direction.FROM_VOLUME, ask.offset_bytes, ask.length_bytes)
    data = transfer.domain.io.read(transfer.path, offset=ask.offset_bytes, length=ask.length_bytes)
    if len(data) != ask.length_bytes:
        raise TransferFailed(transfer.volume_id, f"only {len(data)} of {ask.length_bytes} bytes can be read")
    transfer.done += len(data)
    return data


@handles(CloseTransfer)
def close_transfer(transfers: Transfers, ask: CloseTransfer) -> None:
    transfers.close(ask.task_id, ask.problem)
