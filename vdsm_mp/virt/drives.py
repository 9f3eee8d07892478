# SPDX-License-Identifier: Apache-2.0
"""The disks of a VM as storage knows them: asked to prepare, and given back."""

import threading
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterable
from functools import partial

import msgspec
from msgspec.structs import replace

from vdsm_mp.api.internal import PreparedDrive, PrepareDrive, TeardownDrive
from vdsm_mp.api.lease import GetLeaseInfo, LeaseInfo, LeaseName
from vdsm_mp.api.ports import Background, Caller
from vdsm_mp.common import log
from vdsm_mp.common.errors import Error, Unavailable
from vdsm_mp.virt import domxml_parse
from vdsm_mp.virt.imagedoors import Image, ImageDoors
from vdsm_mp.virt.metadata import Metadata
from vdsm_mp.virt.patience import COMES_BACK_S, PEER_AWAY, patiently
from vdsm_mp.virt.records import Drive, VmRecord, VolumeIds

logger = log.named(__name__)

_PREPARE_S = 120.0
_TEARDOWN_S = 60.0
_LEASE_S = 60.0
#: So long who gives an image back waits for those who have it prepared, before he comes again.
_TURN_S = 20.0
_AGAIN_S = 5.0
_OWED_AT_MOST = 1000


class Drives:
    """Speaks with storage. From pool threads only."""

    def __init__(self, caller: Caller, background: Background) -> None:
        self._caller = caller
        self._background = background
        #: What storage could not take back yet.
        self._owed: dict[Image, _Debt] = {}
        self._doors = ImageDoors()
        self._paying = False
        self._lock = threading.Lock()

    def prepare(self, ids: VolumeIds, *, allow_illegal: bool = False) -> PreparedDrive:
        """Idempotent, so a storage worker that dies over it is asked again when it is back.

        Raises: what storage raised, DeadlineExceeded, PeerRestarted and StillStarting when it does not come back.
        """
        return patiently(
            lambda: self._prepare(ids, allow_illegal=allow_illegal),
            COMES_BACK_S,
            away=PEER_AWAY,
            hurry=lambda: self._background.draining,
        )

    def _prepare(self, ids: VolumeIds, *, allow_illegal: bool = False) -> PreparedDrive:
        ask = PrepareDrive(
            pool_id=ids.pool_id, sd_id=ids.sd_id, image_id=ids.image_id, volume_id=ids.volume_id,
            allow_illegal=allow_illegal,
        )  # fmt: skip
        with self._doors.coming(ids.image, _TEARDOWN_S):
            with self._lock:
                self._owed.pop(ids.image, None)
            answer = self._caller.ask(ask, deadline_s=_PREPARE_S)
        assert isinstance(answer, PreparedDrive)
        return answer

    def prepare_all(self, domain: ET.Element, metadata: Metadata) -> dict[str, PreparedDrive]:
        """{target dev: drive} of every disk that is named by its volume. On failure nothing stays prepared."""
        done: dict[str, PreparedDrive] = {}
        held: list[VolumeIds] = []
        try:
            for disk in domain.iterfind("devices/disk"):
                drive = domxml_parse.drive(disk, metadata)
                if drive.ids is not None:
                    held.append(drive.ids)
                    done[drive.name] = self.prepare(drive.ids)
        except BaseException:
            for ids in held:
                self.teardown(ids)
            raise
        return done

    def lease(self, sd_id: str, lease_id: str) -> LeaseInfo:
        """Where a lease is that is no volume's. Raises: like prepare."""
        ask = GetLeaseInfo(lease=LeaseName(sd_id=sd_id, lease_id=lease_id))
        answer = patiently(
            lambda: self._caller.ask(ask, deadline_s=_LEASE_S),
            COMES_BACK_S,
            away=PEER_AWAY,
            hurry=lambda: self._background.draining,
        )
        assert isinstance(answer, LeaseInfo)
        return answer

    def teardown(self, ids: VolumeIds, *, unless: Callable[[], bool] = lambda: False) -> None:
        """Idempotent. A refusal is logged. Storage that is away is asked again, unless the image is prepared anew.

        unless: somebody needs it again; asked when nobody can begin to prepare it any more, so what it says holds.
        """
        try:
            self._give_back(ids, unless)
        except Unavailable as error:
            logger.info("image %s is given back later: %s", ids.image_id, error)
            self.owe(ids, unless=unless)
        except Error as error:
            logger.warning("image %s could not be given back: %s", ids.image_id, error)

    def _give_back(self, ids: VolumeIds, unless: Callable[[], bool]) -> None:
        ask = TeardownDrive(pool_id=ids.pool_id, sd_id=ids.sd_id, image_id=ids.image_id)
        with self._doors.going(ids.image, _TURN_S):
            if not unless():
                self._caller.ask(ask, deadline_s=_TEARDOWN_S)

    def owe(self, ids: VolumeIds, *, unless: Callable[[], bool] = lambda: False) -> None:
        """Give it back in the background, unless it is prepared anew before: for callers who must not wait."""
        with self._lock:
            if len(self._owed) >= _OWED_AT_MOST:
                logger.warning("image %s is not given back: too many are waiting", ids.image_id)
                return
            self._owed[ids.image] = _Debt(ids, unless)
            begin, self._paying = not self._paying, True
        if begin:
            self._background.later(_AGAIN_S, "give images back", self._pay)

    def _pay(self) -> None:
        """One after the other; the first that storage still cannot take ends the round."""
        with self._lock:
            todo = list(self._owed.items())
        for image, debt in todo:
            try:
                self._give_back(debt.ids, partial(self._is_settled, image, debt))
            except Unavailable:
                break
            except Error as error:
                logger.warning("image %s could not be given back: %s", debt.ids.image_id, error)
            with self._lock:
                if self._owed.get(image) is debt:
                    del self._owed[image]
        with self._lock:
            self._paying = bool(self._owed) and not self._background.draining
        if self._paying:
            self._background.later(_AGAIN_S, "give images back", self._pay)

    def _is_settled(self, image: Image, debt: "_Debt") -> bool:
        """It was prepared anew, or is needed again."""
        return self._owed.get(image) is not debt or debt.unless()

    def claim(self, records: Iterable[VmRecord]) -> bool:
        """Prepare again what running VMs use, after a restart of us or of storage. False when any failed."""
        fine = True
        for ids in (drive.ids for record in records for drive in record.devices.drives if drive.ids is not None):
            try:
                self._prepare(ids)
            except Error as error:
                logger.info("image %s cannot be claimed yet: %s", ids.image_id, error)
                fine = False
        return fine


class _Debt(msgspec.Struct, eq=False):
    """An image that is to be given back, unless somebody needs it again."""

    ids: VolumeIds
    unless: Callable[[], bool]


def with_sizes(drive: Drive, prepared: PreparedDrive) -> Drive:
    """The drive with the sizes that storage told."""
    return replace(drive, apparent_size_bytes=prepared.apparent_size_bytes, true_size_bytes=prepared.true_size_bytes)
