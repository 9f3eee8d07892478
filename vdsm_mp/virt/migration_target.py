# SPDX-License-Identifier: Apache-2.0
"""VMs that come from another host: their disks are prepared and their place is kept until libvirt has them here.

Between our answer to the source and libvirt's first event there is no domain; the record alone holds the place. The
watch is the safety net below libvirt's events, and what a new life of ours goes on with.
"""

import threading
import xml.etree.ElementTree as ET
from collections.abc import Mapping
from typing import Any

import libvirt
from msgspec.structs import replace

from vdsm_mp.api.errors_virt import (
    CannotCreateVm,
    DiskNotFound,
    LibvirtUnavailable,
    MigrationLimitExceeded,
    MissingVmParameter,
    NoSuchVm,
)
from vdsm_mp.api.internal import PreparedDrive
from vdsm_mp.api.ports import Background
from vdsm_mp.api.verb import handles
from vdsm_mp.api.vm_blocks import RefreshVmDisk
from vdsm_mp.api.vm_migration import CreateMigrationDestination
from vdsm_mp.common import clock, log, xml
from vdsm_mp.common.errors import Error
from vdsm_mp.common.options import Vars
from vdsm_mp.virt import displaynet, domxml_build, domxml_parse, moving
from vdsm_mp.virt.connection import Connection, translated
from vdsm_mp.virt.domxml_build import Policy
from vdsm_mp.virt.drives import Drives, with_sizes
from vdsm_mp.virt.dummynet import DummyNet
from vdsm_mp.virt.found import TORN_SETTLES_S, is_torn
from vdsm_mp.virt.hostdev_taken import HostDevices
from vdsm_mp.virt.keeping import Keeper, with_devices
from vdsm_mp.virt.machine import Life, VmStatus
from vdsm_mp.virt.metadata import Metadata
from vdsm_mp.virt.migration_params import NOTE, without_note
from vdsm_mp.virt.payload import Payloads
from vdsm_mp.virt.records import VmRecord
from vdsm_mp.virt.registry import Vms
from vdsm_mp.virt.sampling import Sampler
from vdsm_mp.virt.vmhooks import VmHooks

logger = log.named(__name__)

_WATCH_S = 5.0
#: It runs, or ran until its source died.
_RESUMED = (
    libvirt.VIR_DOMAIN_EVENT_RESUMED_MIGRATED,
    getattr(libvirt, "VIR_DOMAIN_EVENT_RESUMED_POSTCOPY_FAILED", 4),
)
_GONE = (libvirt.VIR_DOMAIN_SHUTOFF, libvirt.VIR_DOMAIN_CRASHED)


class Arrivals:
    """Incoming migrations."""

    def __init__(
        self,
        connection: Connection,
        vms: Vms,
        *,
        keeper: Keeper,
        drives: Drives,
        sampler: Sampler,
        background: Background,
        policy: Policy,
        variables: Vars,
        hooks: VmHooks,
        payloads: Payloads,
        dummynet: DummyNet,
        hostdevs: HostDevices,
    ) -> None:
        self._connection = connection
        self._vms = vms
        self._keeper = keeper
        self._drives = drives
        self._sampler = sampler
        self._background = background
        self._policy = policy
        self._hooks = hooks
        self._payloads = payloads
        self._dummynet = dummynet
        self._hostdevs = hostdevs
        self._limit = variables.max_incoming_migrations
        self._timeout_s = variables.migration_destination_timeout
        #: A source that waited so long for us has given up, whether or not it could tell us.
        self._silence_s = variables.migration_create_timeout
        self._lock = threading.Lock()

    def expect(self, vm_id: str, params: Mapping[str, Any], limit: int | None) -> None:
        """Prepare its place. Raises: MigrationLimitExceeded, VmExists, CannotCreateVm, BadXml, MissingVmParameter."""
        text = params.get("_srcDomXML") or params.get("xml")
        if not isinstance(text, str) or not text:
            raise MissingVmParameter("_srcDomXML")
        domain = xml.parse(text)
        without_note(domain)
        who = domxml_parse.identity(domain)
        if who.vm_id != vm_id:
            raise CannotCreateVm(f"the XML describes another VM, {who.vm_id}")
        metadata = Metadata.of_domain(domain) or Metadata()
        domxml_build.check(domain, metadata, self._policy)
        displaynet.ensure(self._connection.get(), domain)
        self._dummynet.ensure(domain)
        self._keep_place(_record(vm_id, who.name, domain, metadata, params), limit)
        prepared: dict[str, PreparedDrive] = {}
        try:
            prepared = self._drives.prepare_all(domain, metadata)
            self._payloads.fill(domain, metadata, vm_id)
            # A card with a virtual function goes away at the source and comes back here, by libvirt's own hand.
            self._hostdevs.take_all(vm_id, domain, metadata)
            prepared = self._hooks.devices.disks_prepared(self._vms.find(vm_id), prepared)
            self._hooks.before_arriving(self._vms.find(vm_id), domain)
        except BaseException as error:
            self._vms.forget(vm_id)
            self._payloads.remove(vm_id)
            self._hostdevs.give_back(vm_id)
            if prepared:
                self._give_back(domain, metadata)
            if isinstance(error, Error) and not isinstance(error, CannotCreateVm):
                raise CannotCreateVm(str(error)) from error
            raise

        def sized(now: VmRecord) -> VmRecord:
            drives = tuple(with_sizes(d, prepared[d.name]) if d.name in prepared else d for d in now.devices.drives)
            return replace(now, devices=replace(now.devices, drives=drives))

        if self._vms.change(vm_id, sized) is None:
            self._give_back(domain, metadata)
            self._hostdevs.give_back(vm_id)
            raise CannotCreateVm("it was destroyed meanwhile")
        logger.info("VM.migrationCreate vm=%s is expected", vm_id)
        self._watch_later(vm_id, clock.mono_s(), seen=False)

    def _give_back(self, domain: ET.Element, metadata: Metadata) -> None:
        for drive in domxml_parse.devices(domain, metadata).drives:
            if drive.ids is not None:
                self._drives.teardown(drive.ids)

    def _keep_place(self, record: VmRecord, limit: int | None) -> None:
        most = limit or self._limit
        with self._lock:
            coming = sum(r.life.status is VmStatus.MIGRATION_DESTINATION for r in self._vms.known().all())
            if coming >= most:
                raise MigrationLimitExceeded(most)
            self._vms.add(record)

    def refresh(self, vm_id: str, image_id: str) -> dict[str, int]:
        """A disk has grown under the other host, which still has the VM. Raises: NoSuchVm, DiskNotFound."""
        drives = self._vms.find(vm_id).devices.drives
        mine = next((drive for drive in drives if drive.ids is not None and drive.ids.image_id == image_id), None)
        if mine is None or mine.ids is None:
            raise DiskNotFound(image_id)
        prepared = self._drives.prepare(mine.ids)

        def sized(now: VmRecord) -> VmRecord:
            found = tuple(with_sizes(d, prepared) if d.name == mine.name else d for d in now.devices.drives)
            return replace(now, devices=replace(now.devices, drives=found))

        self._vms.change(vm_id, sized)
        return {"apparentsize": prepared.apparent_size_bytes, "truesize": prepared.true_size_bytes}

    # -- what libvirt tells (in its event thread: no waits)

    def event(self, vm_id: str, event: int, detail: int) -> None:
        """A life cycle event of a VM that is coming."""
        resumed = event == libvirt.VIR_DOMAIN_EVENT_RESUMED and detail in _RESUMED
        paused = event == libvirt.VIR_DOMAIN_EVENT_SUSPENDED and detail == libvirt.VIR_DOMAIN_EVENT_SUSPENDED_PAUSED
        if resumed or paused:

            def look() -> None:
                self._look(vm_id)

            self._background.start(f"receive vm={vm_id}", look, key=f"receive {vm_id}")

    # -- after a restart, of us or of libvirtd

    def recovered(self, record: VmRecord) -> None:
        """Go on waiting for it."""
        if record.life.status is VmStatus.MIGRATION_DESTINATION:
            self._watch_later(record.vm_id, clock.mono_s(), seen=True, after_s=0)

    def _watch_later(self, vm_id: str, since: float, *, seen: bool, after_s: float | None = None) -> None:
        def watch() -> None:
            record = self._vms.get(vm_id)
            if record is None or record.life.status is not VmStatus.MIGRATION_DESTINATION:
                return
            there = self._look(vm_id, seen=seen) or seen
            waited_s = clock.mono_s() - since
            if waited_s > (self._timeout_s if there else min(self._silence_s, self._timeout_s)):
                logger.warning("vm=%s did not arrive within %d s", vm_id, waited_s)
                self._vms.move(vm_id, moving.not_arrived)
                if not there:
                    # Nothing of it was ever here. Should it come all the same, it is found as any VM is.
                    self._vms.forget(vm_id)
            else:
                self._watch_later(vm_id, since, seen=there)

        self._background.later(
            _WATCH_S if after_s is None else after_s, f"watch the arrival of {vm_id}", watch, key=f"receive {vm_id}"
        )

    def _look(self, vm_id: str, *, seen: bool = False, settled: bool = False) -> bool:
        """Has it arrived? Then it becomes a VM like others. seen: its domain was here; True when it is. settled: it was
        seen torn before."""
        try:
            dom = self._connection.domain(vm_id)
            with translated(vm_id):
                state, reason = dom.state()
        except NoSuchVm:
            if seen:
                self._vms.move(vm_id, moving.not_arrived)
            return False
        except LibvirtUnavailable:
            return False  # stock is taken when it is back
        if state in _GONE:
            self._vms.move(vm_id, moving.not_arrived)
        elif is_torn(state, reason):
            self._tear(vm_id, settled=settled)
        elif not _comes(state, reason):
            self._vms.move(vm_id, moving.unwanted)
            self._receive(dom, vm_id, runs=state == libvirt.VIR_DOMAIN_RUNNING)
        return True

    def _tear(self, vm_id: str, *, settled: bool) -> None:
        if settled:
            logger.error("vm=%s post-copy failed; it cannot go on anywhere", vm_id)
            self._vms.move(vm_id, moving.torn)
            return

        def look() -> None:
            record = self._vms.get(vm_id)
            if record is not None and record.life.status is VmStatus.MIGRATION_DESTINATION:
                self._look(vm_id, settled=True)

        self._background.later(TORN_SETTLES_S, f"end vm={vm_id}", look, key=f"receive {vm_id}")

    def _receive(self, dom: Any, vm_id: str, *, runs: bool) -> None:
        record = self._vms.get(vm_id)
        if record is None or record.life.status is not VmStatus.MIGRATION_DESTINATION:
            return
        with translated(vm_id):
            if not dom.isPersistent():
                flags = libvirt.VIR_DOMAIN_XML_INACTIVE | libvirt.VIR_DOMAIN_XML_SECURE
                self._connection.get().defineXML(dom.XMLDesc(flags))
            domain = xml.parse(dom.XMLDesc(0))
        metadata = Metadata.of_domain(domain) or Metadata()

        def arrived(now: VmRecord) -> VmRecord:
            return with_devices(replace(now, metadata=metadata), domain)

        self._vms.change(vm_id, arrived)
        if metadata.get(NOTE) is not None:
            self._keeper.remember(vm_id, **{NOTE: None})
        self._vms.move(vm_id, lambda life: moving.arrive(life, runs=runs))
        logger.info("vm=%s has arrived", vm_id)
        self._sampler.soon(vm_id)
        now = self._vms.get(vm_id)
        if now is not None:
            self._hooks.after_arriving(now, domain)


def _comes(state: int, reason: int) -> bool:
    """Is it still on its way? Between two libvirts a guest stands still, or runs without all of its memory."""
    if state == libvirt.VIR_DOMAIN_PAUSED:
        return reason in (libvirt.VIR_DOMAIN_PAUSED_MIGRATION, libvirt.VIR_DOMAIN_PAUSED_STARTING_UP)
    return bool(state == libvirt.VIR_DOMAIN_RUNNING and reason == libvirt.VIR_DOMAIN_RUNNING_POSTCOPY)


def _record(vm_id: str, name: str, domain: Any, metadata: Metadata, params: Mapping[str, Any]) -> VmRecord:
    try:
        elapsed_s = float(params.get("elapsedTimeOffset") or 0)
    except (TypeError, ValueError):
        elapsed_s = 0.0
    leaves = str(params.get("destroy_on_reboot")).lower() == "true" or metadata.flag("destroy_on_reboot")
    return VmRecord(
        vm_id=vm_id,
        name=name,
        life=Life(status=VmStatus.MIGRATION_DESTINATION, destroy_on_reboot=leaves),
        metadata=metadata,
        devices=replace(domxml_parse.devices(domain, metadata), hash=""),
        started_wall=clock.wall_s() - max(0.0, elapsed_s),
        time_offset=str(params.get("timeOffset") or "0"),
        client_ip=str(params.get("clientIp") or ""),
    )


@handles(RefreshVmDisk)
def refresh_disk(arrivals: Arrivals, ask: RefreshVmDisk) -> dict[str, int]:
    """{apparentsize, truesize} in bytes, read anew."""
    return arrivals.refresh(ask.vm_id, str(ask.drive.get("imageID") or ""))


@handles(CreateMigrationDestination)
def create_destination(arrivals: Arrivals, ask: CreateMigrationDestination) -> dict[str, Any]:
    arrivals.expect(ask.vm_id, ask.params, ask.incoming_limit)
    return {"migrationPort": 0, "params": {"vmId": ask.vm_id, "status": str(VmStatus.MIGRATION_DESTINATION)}}
