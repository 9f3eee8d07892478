# SPDX-License-Identifier: Apache-2.0
"""Processors of the host shared out: VMs with a policy of their own have theirs alone, all others run on the rest.

    dedicated           each processor of the VM has one of the host's, which no other VM may use
    isolate-threads,    the same, and the host's other threads of those cores stay unused by other VMs
    siblings
    manual              pinned by the engine; what it did not pin runs on the rest
    none                runs on the rest

Which processors a VM has is in its XML; which of them the engine pinned, and the policy, in its metadata.
"""

import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import libvirt

from vdsm_mp.api.errors import Busy
from vdsm_mp.api.errors_virt import CpuTuneFailed
from vdsm_mp.api.ports import Background
from vdsm_mp.common import log
from vdsm_mp.common.errors import Error
from vdsm_mp.virt.connection import Connection, translated
from vdsm_mp.virt.cpusets import numbers
from vdsm_mp.virt.keeping import Keeper
from vdsm_mp.virt.machine import MOVING, Do, VmStatus
from vdsm_mp.virt.metadata import Metadata
from vdsm_mp.virt.records import VmRecord
from vdsm_mp.virt.registry import Vms

logger = log.named(__name__)

_POLICY = "cpuPolicy"
#: The second is how upstream's agents read what they themselves write as the first.
_MANUAL = ("manuallyPinnedCPUs", "manuallyPinedCPUs")
_EXCLUSIVE = ("dedicated", "isolate-threads", "siblings")
_WHOLE_CORES = ("isolate-threads", "siblings")
_CPUS = Path("/sys/devices/system/cpu")

#: {processor of the host: it and the other threads of its core}
Topology = Mapping[int, frozenset[int]]


def online(root: Path = _CPUS) -> set[int]:
    """Processors of this host that run."""
    return numbers((root / "online").read_text())


def topology(root: Path = _CPUS) -> dict[int, frozenset[int]]:
    """Of the processors that are online."""
    found = {}
    for cpu in online(root):
        path = root / f"cpu{cpu}/topology/thread_siblings_list"
        found[cpu] = frozenset(numbers(path.read_text())) if path.exists() else frozenset({cpu})
    return found


def noted(metadata: Metadata, domain: ET.Element) -> Metadata:
    """What must be known later of a VM that is to start: pins of ours will stand beside those of the engine."""
    pinned = sorted(pin.get("vcpu", "") for pin in domain.iterfind("cputune/vcpupin"))
    policy = metadata.get(_POLICY) or ("manual" if pinned else "none")
    manual = ",".join(pinned) if policy == "manual" and pinned else None
    return metadata.with_values(**{_POLICY: policy}, **dict.fromkeys(_MANUAL, manual))


def without_ours(domain: ET.Element) -> None:
    """Take the pins that are ours out of a domain that leaves this host."""
    metadata = Metadata.of_domain(domain)
    tune = domain.find("cputune")
    if metadata is None or tune is None or metadata.get(_POLICY) is None or _policy(metadata) in _EXCLUSIVE:
        return
    manual = _manual(metadata)
    for pin in [pin for pin in tune.findall("vcpupin") if pin.get("vcpu", "") not in manual]:
        tune.remove(pin)


def shared(cpus: Topology, records: Iterable[VmRecord]) -> frozenset[int]:
    """Processors that no VM has alone. Pure."""
    left = set(cpus)
    for record in records:
        policy = _policy(record.metadata)
        if policy in _EXCLUSIVE:
            alone = frozenset[int]().union(*record.devices.pins.values())
            cores = [cpus.get(cpu, frozenset()) for cpu in alone] if policy in _WHOLE_CORES else []
            left -= alone.union(*cores)
    return frozenset(left)


class CpuPool:
    """Any thread may say that something has changed; the work is done in the background, one after the other."""

    def __init__(
        self,
        connection: Connection,
        vms: Vms,
        keeper: Keeper,
        background: Background,
        cpus: Callable[[], Topology] = topology,
    ) -> None:
        self._connection = connection
        self._vms = vms
        self._keeper = keeper
        self._background = background
        self._cpus = cpus

    def performed(self, record: VmRecord, what: Do) -> None:
        """A VM has come or gone."""
        if what in (Do.TELL_RUNNING, Do.RELEASE):
            self.changed()

    def changed(self) -> None:
        """Nothing to do on a host where no VM has processors of its own, and none had."""
        records = self._running()
        if any(_policy(record.metadata) in _EXCLUSIVE or _ours(record) for record in records):
            try:
                self._background.start("share processors", self._share, key="share processors")
            except Busy:
                self._background.later(1.0, "share processors", self._share, key="share processors")

    def _running(self) -> list[VmRecord]:
        gone = (VmStatus.DOWN, VmStatus.WAIT_FOR_LAUNCH)
        return [record for record in self._vms.all() if not record.external and record.life.status not in gone]

    def _share(self) -> None:
        cpus, records = self._cpus(), self._running()
        pool = shared(cpus, records)
        if not pool:
            logger.error("no processor is left for VMs that have none of their own: theirs stay as they are")
            return
        for record in records:
            if _policy(record.metadata) not in _EXCLUSIVE and record.life.status not in MOVING:
                self._pin(record, pool, whole=len(pool) == len(cpus))

    def _pin(self, record: VmRecord, pool: frozenset[int], *, whole: bool) -> None:
        manual = _pinned_by_engine(record)
        free = [vcpu for vcpu in range(record.devices.vcpus) if str(vcpu) not in manual]
        have = record.devices.pins
        todo = [vcpu for vcpu in free if have.get(vcpu, pool if whole else None) != pool]
        if not todo:
            return
        try:
            dom = self._connection.domain(record.vm_id)
            with translated(record.vm_id, CpuTuneFailed):
                for vcpu in todo:
                    dom.pinVcpuFlags(
                        vcpu, tuple(cpu in pool for cpu in range(max(pool) + 1)), libvirt.VIR_DOMAIN_AFFECT_LIVE
                    )
            self._keeper.refresh(record.vm_id)
        except Error as error:
            logger.warning("vm=%s its processors are not bound to those that are left: %s", record.vm_id, error)
        else:
            logger.info("vm=%s runs on the processors that are left, %s", record.vm_id, sorted(pool))


def _policy(metadata: Metadata) -> str:
    return str(metadata.get(_POLICY) or "none")


def _manual(metadata: Metadata) -> frozenset[str]:
    texts = [str(metadata.get(key) or "") for key in _MANUAL]
    return frozenset(part.strip() for text in texts for part in text.split(",") if part.strip())


def _pinned_by_engine(record: VmRecord) -> frozenset[str]:
    """A VM that an agent started without noting a policy has no pins of ours."""
    if record.metadata.get(_POLICY) is None:
        return frozenset(map(str, record.devices.pins))
    return _manual(record.metadata)


def _ours(record: VmRecord) -> bool:
    """Is any of its processors bound by us?"""
    manual = _pinned_by_engine(record)
    return _policy(record.metadata) not in _EXCLUSIVE and any(str(vcpu) not in manual for vcpu in record.devices.pins)
