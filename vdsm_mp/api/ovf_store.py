# SPDX-License-Identifier: Apache-2.0
"""Verbs between the door and storage: the data of OVF stores, which the engine moves by HTTP.

A transfer is an SPM task from `open` on; the engine polls and clears it. Data goes in order, in pieces, each on
storage before the next is asked for. A transfer that nobody touches for a while fails by itself, so nothing stays
behind when the door dies.
"""

from enum import Enum
from typing import Annotated

from msgspec import Meta

from vdsm_mp.api.types import Uuid
from vdsm_mp.api.verb import Lane, Message, verb
from vdsm_mp.common.errors import Failed

#: Octets of one piece.
MAX_PIECE = 512 * 1024


class Direction(Enum):
    """to_volume: the engine's PUT. from_volume: its GET."""

    TO_VOLUME = "to_volume"
    FROM_VOLUME = "from_volume"


class TransferFailed(Failed):
    """What has been written stays; the task is failed and says the same."""

    code = 100
    msg = "Transfer of volume {self.volume_id} failed: {self.why}"

    def __init__(self, volume_id: str, why: str) -> None:
        super().__init__(volume_id, why)
        self.volume_id = volume_id
        self.why = why


@verb("internal.open_transfer", owner="storage", reply=str, lane=Lane.READ, internal=True, deadline_s=60)
class OpenTransfer(Message, frozen=True, kw_only=True):
    """Claim the image and begin the task; returns its id. Nothing is written yet.

    volume_id: None = the image's leaf. length_bytes: how much will come, or is wanted.
    """

    direction: Direction
    pool_id: Uuid
    sd_id: Uuid
    image_id: Uuid
    volume_id: Uuid | None
    length_bytes: Annotated[int, Meta(ge=0)]


@verb("internal.write_piece", owner="storage", lane=Lane.KEYED, key="task_id", internal=True, deadline_s=60)
class WritePiece(Message, frozen=True, kw_only=True):
    """The next piece, which begins at `offset_bytes`."""

    task_id: str
    offset_bytes: int
    data: Annotated[bytes, Meta(max_length=MAX_PIECE)]


@verb("internal.read_piece", owner="storage", reply=bytes, lane=Lane.KEYED, key="task_id", internal=True, deadline_s=60)
class ReadPiece(Message, frozen=True, kw_only=True):
    """The next piece, exactly so long."""

    task_id: str
    offset_bytes: int
    length_bytes: Annotated[int, Meta(ge=1, le=MAX_PIECE)]


@verb("internal.close_transfer", owner="storage", lane=Lane.KEYED, key="task_id", internal=True, deadline_s=60)
class CloseTransfer(Message, frozen=True, kw_only=True):
    """End the task: finished when everything has been moved and `problem` is empty, else failed with it."""

    task_id: str
    problem: str = ""
