# SPDX-License-Identifier: Apache-2.0
"""The agent of the other host, called by its public protocol with our host's certificate: what a source asks of it."""

import contextlib
import enum
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from vdsm_mp.api.errors import RemoteError
from vdsm_mp.api.errors_virt import MigrationLimitExceeded, NoSuchVm
from vdsm_mp.common import log
from vdsm_mp.common.errors import Error
from vdsm_mp.virt.machine import ExitReason, VmStatus
from vdsm_mp.virt.migration_params import address
from vdsm_mp.wire.client import Client, ConnectionLost
from vdsm_mp.wire.tls import Files, client_context

logger = log.named(__name__)

_CONNECT_S = 15.0
_CALL_S = 60.0
#: A VM in these does not run there, so it may be taken away. Whatever runs is never touched from here.
_LIFELESS = ("Migration Destination", "WaitForLaunch", "Down")


class Whereabouts(enum.Enum):
    """What the other host says of a VM. THERE: it runs, or has run and ended, or went on from there."""

    THERE = "there"
    ON_ITS_WAY = "on its way"
    NEVER_CAME = "never came"
    UNKNOWN = "unknown"


class Peers(msgspec.Struct, frozen=True):
    """How other hosts are reached. files: our certificates, None = clear text."""

    files: Files | None
    create_timeout_s: float

    def create(self, dst: str, vm_id: str, params: Mapping[str, Any], limit: int | None) -> None:
        """Have the VM's place prepared there. Raises: MigrationLimitExceeded (busy), RemoteError, ConnectionLost,
        DeadlineExceeded.
        """
        ask: dict[str, Any] = {"vmID": vm_id, "params": dict(params)}
        if limit is not None:
            ask["incomingLimit"] = limit
        with self._open(dst) as client:
            client.call("Host.ping2", {}, timeout_s=_CONNECT_S)
            try:
                client.call("VM.migrationCreate", ask, timeout_s=self.create_timeout_s, flow_id=log.flow.get())
            except RemoteError as error:
                if error.code == MigrationLimitExceeded.code:
                    raise MigrationLimitExceeded(limit or 0) from error
                raise

    def clear(self, dst: str, vm_id: str) -> None:
        """Take away what was prepared for a VM that stayed here. A failure is logged: the other host notices itself."""
        try:
            with self._open(dst) as client:
                found = client.call("Host.getVMFullList", {"vmList": [vm_id]}, timeout_s=_CALL_S)
                for entry in found:
                    if entry.get("vmId") == vm_id and entry.get("status") in _LIFELESS:
                        client.call("VM.destroy", {"vmID": vm_id}, timeout_s=_CALL_S, flow_id=log.flow.get())
        except (Error, KeyError, TypeError, AttributeError) as error:
            logger.warning("vm=%s what was prepared for it at %s may be left there: %s", vm_id, dst, error)

    def whereabouts(self, dst: str, vm_id: str) -> Whereabouts:
        """Does a VM run there whose source does not know? Raises: Error of any kind when it cannot be told."""
        with self._open(dst) as client:
            try:
                found = client.call("VM.getStats", {"vmID": vm_id}, timeout_s=_CALL_S)
            except RemoteError as error:
                if error.code == NoSuchVm.code:
                    return Whereabouts.UNKNOWN
                raise
        entry = found[0] if isinstance(found, list) and found and isinstance(found[0], dict) else {}
        status, reason = entry.get("status"), entry.get("exitReason")
        if status == VmStatus.DOWN and reason == ExitReason.MIGRATION_FAILED:
            return Whereabouts.NEVER_CAME
        if not status or status in (VmStatus.MIGRATION_DESTINATION, VmStatus.WAIT_FOR_LAUNCH):
            return Whereabouts.ON_ITS_WAY
        return Whereabouts.THERE

    @contextlib.contextmanager
    def _open(self, dst: str) -> Iterator[Client]:
        host, port = address(dst)
        try:
            context = client_context(self.files) if self.files is not None else None
        except OSError as error:
            raise ConnectionLost(dst, f"our certificates cannot be used: {error}") from error
        with Client(host, port, context=context, timeout_s=_CONNECT_S) as client:
            yield client
