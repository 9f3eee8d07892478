# SPDX-License-Identifier: Apache-2.0
"""The disks of a VM as storage knows them: asked to prepare, and given back."""

import threading
import xml.etree.ElementTree as ET
from collections.abc import Iterable

from msgspec.structs import replace

from vdsm_mp.api.internal import PreparedDrive, PrepareDrive, TeardownDrive
from vdsm_mp.api.lease import GetLeaseInfo, LeaseInfo, LeaseName
from vdsm_mp.api.ports import Background, Caller
from vdsm_mp.common import log
from vdsm_mp.common.errors import Error, Unavailable
from vdsm_mp.virt import domxml_parse
from vdsm_mp.virt.metadata import Metadata
from vdsm_mp.virt.patience import COMES_BACK_S, PEER_AWAY, patiently
from vdsm_mp.virt.records import Drive, VmRecord, VolumeIds

logger = log.named(__name__)

_PREPARE_S = 120.0
_TEARDOWN_S = 60.0
_LEASE_S = 60.0
_AGAIN_S = 5.0
_OWED_AT_MOST = 1000


class Drives:
    """Speaks with storage. From pool threads only."""

    def __init__(self, caller: Caller, background: Background) -> None:
        self._caller = caller
        self._background = background
        #: {(domain, image)} that storage could not take back yet. A mirror's image has the same id on both domains.
        self._owed: dict[tuple[str, str], VolumeIds] = {}
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
        with self._lock:
            self._owed.pop(_image(ids), None)
        ask = PrepareDrive(
            pool_id=ids.pool_id, sd_id=ids.sd_id, image_id=ids.image_id, volume_id=ids.volume_id,
            allow_illegal=allow_illegal,
        )  # fmt: skip
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

    def teardown(self, ids: VolumeIds) -> None:
        """Idempotent. A refusal is logged. Storage that is away is asked again, unless the image is prepared anew."""
        try:
            self._give_back(ids)
        except Unavailable as error:
            logger.info("image %s is given back later: %s", ids.image_id, error)
            self.owe(ids)
        except Error as error:
            logger.warning("image %s could not be given back: %s", ids.image_id, error)

    def _give_back(self, ids: VolumeIds) -> None:
        ask = TeardownDrive(pool_id=ids.pool_id, sd_id=ids.sd_id, image_id=ids.image_id)
        self._caller.ask(ask, deadline_s=_TEARDOWN_S)

    def owe(self, ids: VolumeIds) -> None:
        """Give it back in the background, unless it is prepared anew before: for callers who must not wait."""
        with self._lock:
            if len(self._owed) >= _OWED_AT_MOST:
                logger.warning("image %s is not given back: too many are waiting", ids.image_id)
                return
            self._owed[_image(ids)] = ids
            begin, self._paying = not self._paying, True
        if begin:
            self._background.later(_AGAIN_S, "give images back", self._pay)

    def _pay(self) -> None:
        """One after the other; the first that storage still cannot take ends the round."""
        with self._lock:
            todo = list(self._owed.values())
        for ids in todo:
            with self._lock:
                if self._owed.get(_image(ids)) != ids:
                    continue  # prepared anew meanwhile
            try:
                self._give_back(ids)
            except Unavailable:
                break
            except Error as error:
                logger.warning("image %s could not be given back: %s", ids.image_id, error)
            with self._lock:
                self._owed.pop(_image(ids), None)
        with self._lock:
            self._paying = bool(self._owed) and not self._background.draining
        if self._paying:
            self._background.later(_AGAIN_S, "give images back", self._pay)

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


def _image(ids: VolumeIds) -> tuple[str, str]:
    """What is given back as one."""
    return ids.sd_id, ids.image_id


def with_sizes(drive: Drive, prepared: PreparedDrive) -> Drive:
    """The drive with the sizes that storage told."""
    return replace(drive, apparent_size_bytes=prepared.apparent_size_bytes, true_size_bytes=prepared.true_size_bytes)
