# SPDX-License-Identifier: Apache-2.0
"""The guest agent, polled: who is logged in, what addresses it has, which system it runs.

Everything it says is untrusted and bounded. An agent that is silent costs one thread for as long as one answer may
take, and is then left alone for a minute; at most a few are asked at the same time, and never one twice.
"""

import json
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import libvirt
import libvirt_qemu
import msgspec
from msgspec.structs import replace

from vdsm_mp.api.errors_virt import NoGuestAgent
from vdsm_mp.api.ports import Background
from vdsm_mp.common import clock, log
from vdsm_mp.common.errors import Error
from vdsm_mp.virt.agent_info import (
    Abilities,
    abilities,
    answer,
    merged,
    network,
    pci_devices,
    processors,
    telling,
)
from vdsm_mp.virt.connection import Connection, translated
from vdsm_mp.virt.launch import Launches
from vdsm_mp.virt.machine import VmStatus
from vdsm_mp.virt.records import VmRecord
from vdsm_mp.virt.registry import Vms

logger = log.named(__name__)

_AT_ONCE = 4
_LEAVE_ALONE_S = 60.0
#: After its start a guest gets its addresses soon; until then its network is asked for in every round.
_YOUNG_S = 120.0

#: Disks of the guest are asked for again this long after one came or went: it needs a moment to find them.
_SETTLE_S = 10.0
_ABILITIES_S = 300.0

#: (what guestInfo is asked for, the agent's command for it, seconds between two times)
_PERIODS: tuple[tuple[int, str, float], ...] = (
    (libvirt.VIR_DOMAIN_GUEST_INFO_USERS, "guest-get-users", 10.0),
    (libvirt.VIR_DOMAIN_GUEST_INFO_OS, "guest-get-osinfo", 120.0),
    (libvirt.VIR_DOMAIN_GUEST_INFO_HOSTNAME, "guest-get-host-name", 120.0),
    (libvirt.VIR_DOMAIN_GUEST_INFO_TIMEZONE, "guest-get-timezone", 120.0),
    (libvirt.VIR_DOMAIN_GUEST_INFO_FILESYSTEM, "guest-get-fsinfo", 300.0),
    (libvirt.VIR_DOMAIN_GUEST_INFO_DISKS, "guest-get-disks", 300.0),
)
_OF_DISKS = (libvirt.VIR_DOMAIN_GUEST_INFO_FILESYSTEM, libvirt.VIR_DOMAIN_GUEST_INFO_DISKS)
#: The rest, each a call of its own.
_NETWORK, _NETWORK_S = "guest-network-get-interfaces", 120.0
_CPUS, _CPUS_S = "guest-get-vcpus", 60.0
_PCI, _PCI_S = "guest-get-devices", 120.0


class Turns:
    """One talk with an agent at a time: its time limit is a property of the VM, not of the call."""

    def __init__(self) -> None:
        self._locks: dict[str, threading.Lock] = {}

    @contextmanager
    def turn(self, connection: Connection, vm_id: str, answer_s: int, *, wait_s: float = 10.0) -> Iterator[Any]:
        """The domain, with its agent's time limit set. Raises: NoGuestAgent when it is talked to for too long."""
        lock = self._locks.setdefault(vm_id, threading.Lock())
        if not lock.acquire(timeout=wait_s):
            raise NoGuestAgent("it is busy with another request")
        try:
            dom = connection.domain(vm_id)
            with translated(vm_id):
                dom.agentSetResponseTimeout(answer_s, 0)
            yield dom
        finally:
            lock.release()

    def forget(self, known: Iterable[str]) -> None:
        """Drop what belongs to VMs that are gone."""
        alive = set(known)
        self._locks = {vm_id: lock for vm_id, lock in self._locks.items() if vm_id in alive or lock.locked()}


class _Due(msgspec.Struct):
    """When each question is due again, by the monotonic clock.

    came_mono: when this agent connected; another one is asked anew. drives: the VM's when its disks were asked for.
    """

    came_mono: float
    drives: tuple[str, ...]
    at: dict[int | str, float] = msgspec.field(default_factory=dict)
    alone_until: float = 0.0
    abilities_at: float = 0.0
    abilities: Abilities = msgspec.field(default_factory=Abilities)

    def now(self, what: int | str, command: str, now: float) -> bool:
        """Is it due, and can the agent answer it? One that it cannot answer would spoil all others of the call."""
        return command in self.abilities.commands and self.at.get(what, 0.0) <= now


class Agents:
    """The poller. answer_s: how long an agent may take for one answer.

    learn(record, mapping): what the guest calls its disks, by serial number.
    """

    def __init__(
        self,
        connection: Connection,
        vms: Vms,
        turns: Turns,
        background: Background,
        answer_s: int,
        learn: Callable[[VmRecord, Mapping[str, Any]], None],
    ) -> None:
        self._connection = connection
        self._vms = vms
        self._turns = turns
        self._answer_s = answer_s
        self._learn = learn
        self._launches = Launches(background, at_once=_AT_ONCE)
        self._due: dict[str, _Due] = {}
        self._asked: set[str] = set()
        self._lock = threading.Lock()

    def beat(self) -> None:
        """Start a round; VMs that are still being asked are left out of it."""
        now = clock.mono_s()
        records = [r for r in self._vms.all() if r.life.status is VmStatus.UP and r.devices.agent_connected]
        with self._lock:
            # One that was away begins anew: whatever was wrong with it before is over.
            self._due = {r.vm_id: self._known(r, now) for r in records}
            chosen = [r for r in records if r.vm_id not in self._asked and self._due[r.vm_id].alone_until <= now]
            self._asked.update(record.vm_id for record in chosen)
        self._turns.forget(record.vm_id for record in records)
        for record in chosen:
            self._launches.submit(
                f"ask the agent of vm={record.vm_id}",
                lambda vm_id=record.vm_id: self._ask(vm_id),  # type: ignore[misc]
                lambda error, vm_id=record.vm_id: self._over(vm_id),  # type: ignore[misc]
            )

    def _known(self, record: VmRecord, now: float) -> _Due:
        drives = tuple(drive.name for drive in record.devices.drives)
        due = self._due.get(record.vm_id)
        if due is None or due.came_mono != record.agent_since_mono:
            return _Due(record.agent_since_mono, drives)
        if due.drives != drives:
            due.drives = drives
            due.at.update((kind, min(due.at.get(kind, 0.0), now + _SETTLE_S)) for kind in _OF_DISKS)
        return due

    def _over(self, vm_id: str) -> None:
        with self._lock:
            self._asked.discard(vm_id)

    def _ask(self, vm_id: str) -> None:
        record, due = self._vms.get(vm_id), self._due.get(vm_id)
        try:
            if record is not None and due is not None and record.life.status is VmStatus.UP:
                self._talk(record, due)
        except Error as error:
            logger.info("vm=%s its agent is left alone for %d s: %s", vm_id, _LEAVE_ALONE_S, error)
            if due is not None:
                due.alone_until = clock.mono_s() + _LEAVE_ALONE_S
        finally:
            self._over(vm_id)

    def _talk(self, record: VmRecord, due: _Due) -> None:
        now = clock.mono_s()
        told: dict[str, Any] = {}
        with self._turns.turn(self._connection, record.vm_id, self._answer_s) as dom, translated(record.vm_id):
            if due.abilities_at <= now:
                due.abilities = abilities(_command(dom, "guest-info", self._answer_s))
                due.abilities_at = now + _ABILITIES_S
            kinds = [(kind, period_s) for kind, command, period_s in _PERIODS if due.now(kind, command, now)]
            if kinds:
                told |= telling(dom.guestInfo(sum(kind for kind, _ in kinds), 0), due.abilities.version)
                due.at.update((kind, now + period_s) for kind, period_s in kinds)
            young = record.life.guest_event_mono is not None and now - record.life.guest_event_mono < _YOUNG_S
            if young and not record.guest.get("guestIPs"):
                due.at.pop(_NETWORK, None)
            if due.now(_NETWORK, _NETWORK, now):
                told |= network(dom.interfaceAddresses(libvirt.VIR_DOMAIN_INTERFACE_ADDRESSES_SRC_AGENT))
                due.at[_NETWORK] = now + _NETWORK_S
            if due.now(_CPUS, _CPUS, now):
                told |= processors(_command(dom, _CPUS, self._answer_s))
                due.at[_CPUS] = now + _CPUS_S
            if due.now(_PCI, _PCI, now):
                told |= pci_devices(_command(dom, _PCI, self._answer_s))
                due.at[_PCI] = now + _PCI_S
        self._take(record.vm_id, told)

    def _take(self, vm_id: str, told: Mapping[str, Any]) -> None:
        """Keep it; what the engine shows at once is told at once."""
        before = self._vms.get(vm_id)
        if before is None or not told:
            return
        news = tuple(key for key in ("netIfaces", "guestIPs", "guestName") if told.get(key) != before.guest.get(key))
        news = tuple(key for key in news if key in told)
        now = self._vms.change(vm_id, lambda record: replace(record, guest=merged(record.guest, told)), tell=news)
        if now is not None and isinstance(told.get("diskMapping"), Mapping):
            self._learn(now, told["diskMapping"])


def _command(dom: Any, name: str, answer_s: int) -> Any:
    """What the agent returns to a command that libvirt has no call for; None when it is no JSON."""
    text = libvirt_qemu.qemuAgentCommand(dom, json.dumps({"execute": name}), answer_s, 0)
    return answer(text)
