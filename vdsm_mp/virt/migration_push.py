# SPDX-License-Identifier: Apache-2.0
"""One outgoing migration, in a thread of its own: note, hooks, a place at the destination, then libvirt's own work.

Blocks as long as the migration takes. The two libvirts move the VM between them, so it outlives us.
"""

from typing import Any

import libvirt

from vdsm_mp.api.errors import RemoteError
from vdsm_mp.api.errors_virt import LibvirtUnavailable, MigrationFailed, MigrationLimitExceeded, TicketFailed
from vdsm_mp.api.ports import Background
from vdsm_mp.api.vm_migration import MigrationParams
from vdsm_mp.common import clock, log
from vdsm_mp.virt import graphics, migration_params
from vdsm_mp.virt.calling import under_way
from vdsm_mp.virt.connection import Connection, translated
from vdsm_mp.virt.keeping import Keeper, is_backed_up
from vdsm_mp.virt.machine import VmStatus
from vdsm_mp.virt.migration_params import NOTE, Note
from vdsm_mp.virt.migration_peer import Peers
from vdsm_mp.virt.migration_watch import Outgoing, Watch
from vdsm_mp.virt.records import VmRecord
from vdsm_mp.virt.registry import Vms
from vdsm_mp.virt.vmhooks import VmHooks

logger = log.named(__name__)

_XML = libvirt.VIR_DOMAIN_XML_MIGRATABLE | libvirt.VIR_DOMAIN_XML_SECURE


class Cancelled(Exception):
    """A client does not want it any more."""


class Push:
    """Carries migrations to the other host. max_bandwidth: MiB/s where an engine names none."""

    def __init__(
        self,
        connection: Connection,
        vms: Vms,
        *,
        keeper: Keeper,
        peers: Peers,
        watch: Watch,
        hooks: VmHooks,
        background: Background,
        max_bandwidth: int,
        libvirt_uri: str,
    ) -> None:
        self._connection = connection
        self._vms = vms
        self._keeper = keeper
        self._peers = peers
        self._watch = watch
        self._hooks = hooks
        self._background = background
        self._max_bandwidth = max_bandwidth
        self._libvirt_uri = libvirt_uri

    def run(self, out: Outgoing) -> None:
        """Returns when it has left. Raises: Cancelled, MigrationLimitExceeded (ask again), LibvirtUnavailable (nobody
        knows where it is), other Errors (it may still be here).
        """
        vm_id, params = out.vm_id, out.params
        began = clock.mono_s()
        self._go_on(out)
        self._keeper.remember(vm_id, **{NOTE: Note(params.dst, params).dump()})
        dom = self._connection.domain(vm_id)
        if is_backed_up(dom):
            raise MigrationFailed("a backup of it is running")
        record = self._vms.find(vm_id)
        self._hooks.before_leaving(record)
        if record.client_ip:
            try:
                graphics.prolong_tickets(dom, vm_id)
            except TicketFailed as error:
                logger.warning("vm=%s its viewer may be shut out at the other host: %s", vm_id, error)
        with translated(vm_id, MigrationFailed):
            description = dom.XMLDesc(libvirt.VIR_DOMAIN_XML_MIGRATABLE)
            live, persistent = dom.XMLDesc(_XML), dom.XMLDesc(_XML | libvirt.VIR_DOMAIN_XML_INACTIVE)
        # From here on a place may be held there, unless the other host says that it has refused.
        out.prepared = True
        try:
            self._peers.create(params.dst, vm_id, _definition(record, params, description), params.incoming_limit)
        except (MigrationLimitExceeded, RemoteError):
            out.prepared = False
            raise
        self._go_on(out)
        host, _ = migration_params.address(params.dst)
        uri = self._libvirt_uri.replace("{host}", migration_params.bracketed(host))
        found = migration_params.parameters(params, max_bandwidth=self._max_bandwidth, live=live, persistent=persistent)
        out.pushing = True
        self._watch.later(out)
        try:
            with translated(vm_id, MigrationFailed):
                dom.migrateToURI3(uri, found, migration_params.flags(params, out.plan))
        except LibvirtUnavailable as error:
            # libvirt tells of the road to the other host in the same words: who cannot be reached, or has no address.
            if self._went_over(vm_id) or not _answers(dom.connect()):
                raise
            raise MigrationFailed(error.reason) from error
        logger.info("VM.migrate vm=%s is at %s, took=%dms", vm_id, params.dst, (clock.mono_s() - began) * 1000)
        out.description = description

    def afterwards(self, out: Outgoing) -> None:
        """Its hooks, once and in the background: whoever waits for a turn in the queue does not wait for them."""
        record = self._vms.get(out.vm_id)
        if record is not None and out.description and not out.afterwards:
            out.afterwards = True
            gone, description = record, out.description
            name = f"after migration {out.vm_id}"
            self._background.later(0.0, name, lambda: self._hooks.after_leaving(gone, description))

    def _went_over(self, vm_id: str) -> bool:
        """It runs there, and its memory may go on following without any libvirt."""
        record = self._vms.get(vm_id)
        return record is not None and record.life.postcopy

    def _go_on(self, out: Outgoing) -> None:
        record = self._vms.get(out.vm_id)
        if out.cancelled.is_set() or record is None or record.life.status is not VmStatus.MIGRATION_SOURCE:
            raise Cancelled


def _answers(conn: Any) -> bool:
    """Is it still the libvirtd that we asked?"""
    try:
        with under_way():
            return bool(conn.isAlive() and conn.getLibVersion())
    except libvirt.libvirtError:
        return False


def _definition(record: VmRecord, params: MigrationParams, description: str) -> dict[str, Any]:
    """What the destination gets to know of the VM besides its memory."""
    elapsed_s = 0.0 if record.started_wall is None else max(0.0, clock.wall_s() - record.started_wall)
    return {
        "vmId": record.vm_id,
        "vmName": record.name,
        "xml": description,
        "_srcDomXML": description,
        "migrationDest": "libvirt",
        "elapsedTimeOffset": elapsed_s,
        "timeOffset": record.time_offset,
        "clientIp": record.client_ip,
        "destroy_on_reboot": record.life.destroy_on_reboot,
        "enableGuestEvents": bool(params.enable_guest_events),
        "_migrationParams": {},
    }
