# SPDX-License-Identifier: Apache-2.0
"""Live merge: QEMU commits a volume into the one below while the guest runs, and the volume leaves the chain.

    COMMIT    QEMU copies; an active merge (top is the leaf) then mirrors until it is told to pivot
    CLEANUP   top is out of QEMU's chain; storage and our metadata are made to follow

Each merge is written into the VM's metadata before it starts. `step` is called by libvirt's events, by the beat, and
after every restart of ours or of libvirtd; it looks at QEMU's chain and never believes an event alone. A merge stays
in `vmJobs` from the answer of VM.merge until its clean-up is done, because the engine reads its absence as "over".
"""

import uuid
import xml.etree.ElementTree as ET
from collections.abc import Mapping
from functools import partial
from typing import Any

import libvirt
from msgspec.structs import replace

from vdsm_mp.api.errors import Busy
from vdsm_mp.api.errors_virt import MergeFailed
from vdsm_mp.api.internal import SetRunningLegality, SyncRunningChain
from vdsm_mp.api.ports import Background, Caller
from vdsm_mp.api.verb import handles
from vdsm_mp.api.vm_blocks import MergeVmDisk
from vdsm_mp.common import log, xml
from vdsm_mp.common.errors import Error
from vdsm_mp.virt import merge_record
from vdsm_mp.virt.chain import follow, running_chain
from vdsm_mp.virt.connection import translated
from vdsm_mp.virt.devices import Devices, find, target_of
from vdsm_mp.virt.domxml_parse import volume_ids
from vdsm_mp.virt.machine import VmStatus
from vdsm_mp.virt.merge_record import Merge
from vdsm_mp.virt.patience import UNDECIDED
from vdsm_mp.virt.records import Drive, VmRecord

logger = log.named(__name__)

#: A mirror that is complete, or a pivot that storage put off, is looked at again this soon.
_AGAIN_S = 1.0
_STORAGE_S = 60.0


class Merges:
    """Begins merges and takes them to their end."""

    def __init__(self, devices: Devices, caller: Caller, background: Background) -> None:
        self.devices = devices
        self._caller = caller
        self._background = background
        #: Ids of those that libvirt is being asked for: nobody may take them for over.
        self._asking: set[str] = set()

    def begin(self, record: VmRecord, ask: MergeVmDisk) -> None:
        """Raises: MergeFailed; then nothing has begun. LibvirtUnavailable and VmNotResponding say nothing: it is listed
        until libvirt tells.
        """
        merge = _plan(self.devices, record, ask)
        _, disk = self._disk(record.vm_id, merge)
        links = {link.volume_id: link for link in running_chain(disk)}
        places = [f"{merge.drive}[{links[one].index}]" for one in (merge.base, merge.top)]
        flags = libvirt.VIR_DOMAIN_BLOCK_COMMIT_RELATIVE
        if merge.active:
            flags |= libvirt.VIR_DOMAIN_BLOCK_COMMIT_ACTIVE
        self._asking.add(merge.id)
        try:
            self._ask(record, merge, places, flags)
        finally:
            self._asking.discard(merge.id)
        self._soon(record.vm_id, merge.id, 0)  # its events may have come meanwhile
        logger.info("vm=%s merge %s of %s into %s begins", record.vm_id, merge.id, merge.top, merge.base)

    def _ask(self, record: VmRecord, merge: Merge, places: list[str], flags: int) -> None:
        self._write(record.vm_id, {**self._all(record), merge.id: merge})
        self._show(record.vm_id, merge, 0, 0)
        dom = self.devices.connection.domain(record.vm_id)
        try:
            with translated(record.vm_id, MergeFailed):
                dom.blockCommit(merge.drive, places[0], None if merge.active else places[1], merge.bandwidth, flags)
        except UNDECIDED:
            self._soon(record.vm_id, merge.id, _AGAIN_S)
            raise
        except Error:
            self._forget(record.vm_id, merge)
            raise

    # -- steps

    def load(self, vm_id: str) -> None:
        """After a restart: list what is written down, then go on with it."""
        record = self.devices.vms.get(vm_id)
        for merge in self._all(record).values() if record is not None else ():
            self._show(vm_id, merge, 0, 0)
            self._soon(vm_id, merge.id, 0)

    def event(self, vm_id: str, drive: str) -> None:
        """Something happened to a block job. In libvirt's event thread: only starts the work."""
        record = self.devices.vms.get(vm_id)
        for merge in self._all(record).values() if record is not None else ():
            if merge.drive == drive:
                self._soon(vm_id, merge.id, 0)

    def beat(self) -> None:
        """All merges, in case an event got lost."""
        for record in self.devices.vms.all():
            if record.life.status is not VmStatus.DOWN:
                for merge_id in self._all(record):
                    self._soon(record.vm_id, merge_id, 0)

    def _soon(self, vm_id: str, merge_id: str, delay_s: float) -> None:
        job, name = partial(self._run, vm_id, merge_id), f"merge {merge_id}"
        try:
            if delay_s:
                self._background.later(delay_s, name, job, key=name)
            else:
                self._background.start(name, job, key=name)
        except Busy:
            logger.warning("%s waits for the next beat", name)

    def _run(self, vm_id: str, merge_id: str) -> None:
        record = self.devices.vms.get(vm_id)
        merge = self._all(record).get(merge_id) if record is not None else None
        if record is None or merge is None or record.life.status is VmStatus.DOWN or merge_id in self._asking:
            return
        try:
            self.step(vm_id, merge)
        except Error as error:
            logger.warning("vm=%s merge %s cannot go on yet: %s", vm_id, merge_id, error)
            self._soon(vm_id, merge_id, _AGAIN_S)

    def step(self, vm_id: str, merge: Merge) -> None:
        """Whatever has happened: what is next follows from QEMU's chain and from its block job."""
        if not self._go_on(vm_id, merge):
            # libvirt may still be at a call of somebody who is dead or gave up: a job could begin yet.
            self.devices.keeper.take_turn(vm_id)
            if not self._go_on(vm_id, merge):
                self._give_up(vm_id, merge)

    def _go_on(self, vm_id: str, merge: Merge) -> bool:
        """False when QEMU has no job and top is there still."""
        dom = self.devices.connection.domain(vm_id)
        with translated(vm_id, MergeFailed):
            info = dom.blockJobInfo(merge.drive, 0)
        # Read after the job: one that ends in between has changed the chain, and has not failed.
        _, disk = self._disk(vm_id, merge)
        if merge.top not in [link.volume_id for link in running_chain(disk)]:
            self._clean_up(vm_id, merge)
            return True
        if not info:
            return False
        cur, end = int(info.get("cur", 0)), int(info.get("end", 0))
        self._show(vm_id, merge, cur, end)
        if merge.active and cur == end and _mirror_ready(disk):
            self._pivot(vm_id, dom, merge)
            self._clean_up(vm_id, merge)
        elif merge.active and end and cur == end:
            # Equal at the very beginning too; libvirt's XML knows better and says so a moment later.
            self._soon(vm_id, merge.id, _AGAIN_S)
        return True

    def _pivot(self, vm_id: str, dom: Any, merge: Merge) -> None:
        """The leaf is ILLEGAL before QEMU leaves it: nobody may start the VM on it when we die in between."""
        self._set_legal(merge, legal=False)
        try:
            with translated(vm_id, MergeFailed):
                dom.blockJobAbort(merge.drive, libvirt.VIR_DOMAIN_BLOCK_JOB_ABORT_PIVOT)
        except UNDECIDED:
            raise  # it may leave the leaf yet
        except Error:
            _, disk = self._disk(vm_id, merge)
            if merge.top in [link.volume_id for link in running_chain(disk)]:
                self._set_legal(merge, legal=True)
            raise

    def _clean_up(self, vm_id: str, merge: Merge) -> None:
        _, disk = self._disk(vm_id, merge)
        leaf = running_chain(disk)[0].volume_id
        if merge.top == leaf:
            raise MergeFailed(f"QEMU uses {merge.top} still")
        sync = SyncRunningChain(
            sd_id=merge.leaf.sd_id, image_id=merge.leaf.image_id, leaf_volume_id=leaf, base_volume_id=merge.base,
            merged_volume_id=merge.top,
        )  # fmt: skip
        self._caller.ask(sync, deadline_s=_STORAGE_S)
        drive = self._drive(vm_id, merge)
        if drive is not None and drive.ids is not None:
            prepared = self.devices.drives.prepare(replace(drive.ids, volume_id=leaf))
            follow(self.devices, vm_id, drive, prepared)
        self._forget(vm_id, merge)
        logger.info("vm=%s merge %s is done, the leaf is %s", vm_id, merge.id, leaf)

    def _give_up(self, vm_id: str, merge: Merge) -> None:
        """QEMU has no job and top is there still: it failed. The engine finds that out from the chain."""
        if merge.active:
            self._set_legal(merge, legal=True)
        self._forget(vm_id, merge)
        logger.warning("vm=%s merge %s has failed, %s is in the chain still", vm_id, merge.id, merge.top)

    def _set_legal(self, merge: Merge, *, legal: bool) -> None:
        ask = SetRunningLegality(sd_id=merge.leaf.sd_id, image_id=merge.leaf.image_id, volume_id=merge.top, legal=legal)
        self._caller.ask(ask, deadline_s=_STORAGE_S)

    # -- what is written down, and what is shown

    def _all(self, record: VmRecord) -> dict[str, Merge]:
        try:
            return merge_record.read(record.metadata)
        except ValueError as error:
            logger.error("vm=%s its merges cannot be read: %s", record.vm_id, error)
            return {}

    def _write(self, vm_id: str, merges: Mapping[str, Merge]) -> None:
        self.devices.keeper.remember(vm_id, **merge_record.write(merges))

    def _forget(self, vm_id: str, merge: Merge) -> None:
        record = self.devices.vms.get(vm_id)
        if record is not None:
            self._write(vm_id, {i: one for i, one in self._all(record).items() if i != merge.id})
        self.devices.vms.change(
            vm_id, lambda now: replace(now, jobs={i: one for i, one in (now.jobs or {}).items() if i != merge.id})
        )

    def _show(self, vm_id: str, merge: Merge, cur: int, end: int) -> None:
        entry = merge.entry(cur, end)
        self.devices.vms.change(vm_id, lambda now: replace(now, jobs={**(now.jobs or {}), merge.id: entry}))

    def _disk(self, vm_id: str, merge: Merge) -> tuple[Any, ET.Element]:
        dom, domain = self.devices.live(vm_id)
        disk = find(domain, "disk", lambda element: target_of(element) == merge.drive)
        if disk is None:
            raise MergeFailed(f"disk {merge.drive} is gone")
        return dom, disk

    def _drive(self, vm_id: str, merge: Merge) -> Drive | None:
        record = self.devices.vms.get(vm_id)
        drives = record.devices.drives if record is not None else ()
        return next((drive for drive in drives if drive.name == merge.drive), None)


@handles(MergeVmDisk)
def merge_vm_disk(merges: Merges, ask: MergeVmDisk) -> None:
    merges.begin(merges.devices.vms.running(ask.vm_id, "merge"), ask)


def _plan(devices: Devices, record: VmRecord, ask: MergeVmDisk) -> Merge:
    ids = volume_ids(ask.drive)
    drive = record.drive(ids) if ids is not None else None
    if drive is None or drive.ids is None:
        raise MergeFailed("no disk of this virtual machine is named")
    image_id = drive.ids.image_id
    if any(job.get("imgUUID") == image_id for job in (record.jobs or {}).values()):
        raise MergeFailed(f"image {image_id} is being merged already")
    _, domain = devices.live(record.vm_id)
    disk = find(domain, "disk", lambda element: target_of(element) == drive.name)
    chain = [link.volume_id for link in running_chain(disk)] if disk is not None else []
    base, top = ask.base_volume_id, ask.top_volume_id
    if base not in chain or top not in chain or chain.index(top) >= chain.index(base):
        raise MergeFailed(f"{top} does not stand on {base} in the chain {' > '.join(chain)}")
    return Merge(
        id=ask.job_id or str(uuid.uuid4()),
        drive=drive.name,
        leaf=replace(drive.ids, volume_id=chain[0]),
        base=base,
        top=top,
        bandwidth=max(0, ask.bandwidth or 0),
    )


def _mirror_ready(disk: ET.Element) -> bool:
    return xml.attributes(disk.find("mirror")).get("ready") == "yes"
