# SPDX-License-Identifier: Apache-2.0
"""Managed volumes: attached and detached by os-brick as root, recorded before anything is done.

A record without a path is an attaching that was cut short: os-brick may have the volume or not. Asked again it is
attached once more (its drivers find what is there), and detaching takes down whatever there is.
"""

import base64
import json
import logging
import os
import stat
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from vdsm_mp.api.errors import DeadlineExceeded, PrivilegedFailed
from vdsm_mp.api.errors_managed import (
    ManagedVolumeAlreadyAttached,
    ManagedVolumeConnectionMismatch,
    ManagedVolumeHelperFailed,
    ManagedVolumeNotSupported,
    ManagedVolumeUnsupportedDevice,
)
from vdsm_mp.api.errors_storage import ClaimTimedOut
from vdsm_mp.api.errors_volume import InvalidVolumeParameter
from vdsm_mp.api.ports import Root
from vdsm_mp.api.types import BLANK
from vdsm_mp.common.clock import mono_s
from vdsm_mp.common.errors import Unavailable
from vdsm_mp.storage.managed_records import AlreadyRecordedError, Record, Records, RecordsError
from vdsm_mp.storage.resources import Name, Resources

_log = logging.getLogger("storage.managed")

_ROOT_S = 120.0
_INFO_S = 30.0
#: The initiator's names change with an administrator's hand only; what failed may pass.
_INFO_AGE_S, _INFO_AGAIN_S = 600.0, 60.0
_MISSING = "os-brick is not installed"
#: A copy that was told to stop has ended by then.
_CLAIM_S = 3.0


class Device(msgspec.Struct, frozen=True):
    """Of an attached volume. number: MAJOR:MINOR, as which it is claimed: it may have several names."""

    vol_id: str
    path: str
    number: str

    @property
    def claim(self) -> Name:
        return ("device", self.number)


class ManagedVolumes:
    """The caller orders calls about one volume. Thread-safe otherwise."""

    def __init__(self, root: Root, records: Records, run_dir: str, resources: Resources) -> None:
        self._root = root
        self._records = records
        self._resources = resources
        self._links = Path(run_dir) / "managedvolumes"
        self._info: dict[str, Any] = {}
        self._info_due_mono = 0.0

    def attach(self, vol_id: str, sd_id: str | None, connection_info: dict[str, Any]) -> dict[str, Any]:
        """-> {vol_id, attachment, path, managed_path}. Raises: the errors of `errors_managed`."""
        info = json.loads(json.dumps(connection_info))
        with _recording(vol_id):
            before = self._records.find(vol_id)
            if before is not None:
                self._check_repeat(before, info)
            else:
                self._records.begin(vol_id, info)
        try:
            found = self._ask_root("managed-attach", vol_id, info)
        except PrivilegedFailed as e:
            self._forget_unless(before, vol_id)
            raise ManagedVolumeHelperFailed(vol_id, e.detail) from e
        except (DeadlineExceeded, Unavailable) as e:
            raise ManagedVolumeHelperFailed(vol_id, f"it is not known whether it is attached: {e}") from e
        if not found or "unsupported" in found:
            self._forget_unless(before, vol_id)
            if not found:
                raise ManagedVolumeNotSupported(_MISSING)
            raise ManagedVolumeUnsupportedDevice(vol_id, str(found["unsupported"]))
        attachment, path = found["attachment"], str(found["path"])
        link = self._link(vol_id, sd_id, path)
        with _recording(vol_id):
            try:
                self._records.attached(vol_id, path, attachment)
            except AlreadyRecordedError as e:
                self._take_down(Record(vol_id, info, path, attachment))
                raise ManagedVolumeHelperFailed(vol_id, f"another volume is recorded with {path}") from e
        return {"vol_id": vol_id, "attachment": attachment, "path": path, "managed_path": link}

    def detach(self, vol_id: str) -> None:
        """Idempotent. Raises: ManagedVolumeHelperFailed, ManagedVolumeNotSupported; it stays recorded then."""
        with _recording(vol_id):
            record = self._records.find(vol_id)
        if record is None:
            self._unlink(vol_id)
            return
        number = _number(record.path) if record.path else None
        try:
            with self._resources.claim(
                f"detach_volume {vol_id}", exclusive=(("device", number),) if number else (), within_s=_CLAIM_S
            ):
                self._take_down(record)
        except ClaimTimedOut as e:
            raise ManagedVolumeHelperFailed(vol_id, f"it is in use: {e}") from e

    def device_at(self, url: str) -> Device:
        """Of the volume that is attached here under this path, or this managed_path; no other device of the host.

        Raises: InvalidVolumeParameter (1000), ManagedVolumeHelperFailed.
        """
        with _recording("*"):
            records = self._records.all()
        for record in records:
            # Without a link the host has been started anew, and the name may be another's device by now.
            links = [str(one) for one in self._links_of(record.vol_id)] if record.path else []
            if record.path and links and url in (record.path, *links):
                number = _number(record.path)
                if number is None or not os.access(record.path, os.R_OK | os.W_OK):
                    raise InvalidVolumeParameter("url", f"{record.path} is no device that the agent was given")
                return Device(record.vol_id, record.path, number)
        raise InvalidVolumeParameter("url", f"{url[:200]!r} is no managed volume that is attached here")

    def infos(self, vol_ids: Sequence[str]) -> list[dict[str, Any]]:
        """Raises: ManagedVolumeHelperFailed."""
        with _recording("*"):
            records = self._records.all(vol_ids)
        return [
            {
                "vol_id": one.vol_id,
                "connection_info": one.connection_info,
                **({"path": one.path, "exists": Path(one.path).exists()} if one.path else {}),
                **({"attachment": one.attachment} if one.attachment is not None else {}),
            }
            for one in records
        ]

    def connector_info(self) -> dict[str, Any]:
        """From memory for some minutes; empty when os-brick is missing, or has never told."""
        if mono_s() >= self._info_due_mono:
            age_s = _INFO_AGE_S
            try:
                self._info = self._root.do("managed-info", deadline_s=_INFO_S) or {}
            except (PrivilegedFailed, DeadlineExceeded, Unavailable) as e:
                _log.warning("os-brick does not tell of this host: %s", e)
                age_s = _INFO_AGAIN_S
            self._info_due_mono = mono_s() + age_s
        return self._info

    def _check_repeat(self, before: Record, info: dict[str, Any]) -> None:
        if before.connection_info != info:
            raise ManagedVolumeConnectionMismatch(before.vol_id)
        # Without a link the host has been started anew, and only the device came back by itself.
        if before.path and Path(before.path).exists() and any(self._links_of(before.vol_id)):
            raise ManagedVolumeAlreadyAttached(before.vol_id, before.path)

    def _take_down(self, record: Record) -> None:
        vol_id = record.vol_id
        # A path that is gone: the host was started anew since. None: nobody knows, os-brick finds out.
        if record.path is None or Path(record.path).exists():
            given = {
                "vol_id": vol_id,
                "connection_info": record.connection_info,
                "attachment": record.attachment or {},
                **({"path": record.path} if record.path else {}),
            }
            try:
                done = self._ask_root("managed-detach", vol_id, given)
            except PrivilegedFailed as e:
                raise ManagedVolumeHelperFailed(vol_id, e.detail) from e
            except (DeadlineExceeded, Unavailable) as e:
                raise ManagedVolumeHelperFailed(vol_id, f"it is not known whether it is detached: {e}") from e
            if not done:
                raise ManagedVolumeNotSupported(_MISSING)
        self._unlink(vol_id)
        with _recording(vol_id):
            self._records.remove(vol_id)

    def _forget_unless(self, before: Record | None, vol_id: str) -> None:
        """What an earlier call has left may still be attached."""
        if before is None:
            with _recording(vol_id):
                self._records.remove(vol_id)

    def _ask_root(self, operation: str, vol_id: str, given: dict[str, Any]) -> Any:
        # In one parameter of this name: the root side's log leaves it out, there are passwords in it.
        data = base64.b64encode(json.dumps(given).encode()).decode()
        return self._root.do(operation, volume=vol_id, data=data, deadline_s=_ROOT_S)

    def _link(self, vol_id: str, sd_id: str | None, path: str) -> str:
        """In one step, also over another. Where guests' disks may lie."""
        self._links.mkdir(mode=0o755, parents=True, exist_ok=True)
        link = self._links / f"{sd_id or BLANK}_{vol_id}"
        aside = self._links / f".{uuid.uuid4()}"
        aside.symlink_to(path)
        aside.rename(link)
        return str(link)

    def _unlink(self, vol_id: str) -> None:
        for link in self._links_of(vol_id):
            link.unlink(missing_ok=True)

    def _links_of(self, vol_id: str) -> list[Path]:
        return list(self._links.glob(f"*_{vol_id}"))


def _number(path: str) -> str | None:
    """None when that is no block device."""
    try:
        found = Path(path).stat()
    except OSError:
        return None
    return f"{os.major(found.st_rdev)}:{os.minor(found.st_rdev)}" if stat.S_ISBLK(found.st_mode) else None


@contextmanager
def _recording(vol_id: str) -> Iterator[None]:
    """Raises: ManagedVolumeHelperFailed."""
    try:
        yield
    except (RecordsError, OSError) as e:
        raise ManagedVolumeHelperFailed(vol_id, f"the record of managed volumes: {e}") from e
