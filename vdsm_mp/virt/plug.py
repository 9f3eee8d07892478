# SPDX-License-Identifier: Apache-2.0
"""Plugging and unplugging, the same for every kind of device.

An unplug is a request to the guest. It is over when libvirt says that the device is gone, which may be never: then
the device stays, and the caller is told so.
"""

import threading
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import libvirt

from vdsm_mp.api.errors_virt import MissingVmParameter, VmOperationFailed, VmUndecided
from vdsm_mp.common import clock, log, xml
from vdsm_mp.common.errors import Error
from vdsm_mp.virt import leftovers
from vdsm_mp.virt.connection import translated
from vdsm_mp.virt.devicehooks import DeviceHooks, custom_of
from vdsm_mp.virt.devices import Devices, alias_of, target_of
from vdsm_mp.virt.metadata import Metadata
from vdsm_mp.virt.nic import mac_of
from vdsm_mp.virt.patience import UNDECIDED, decided
from vdsm_mp.virt.records import VmRecord

logger = log.named(__name__)

#: How long a guest may take to let a device go.
UNPLUG_S = 30.0


class Removals:
    """Who waits for which device to go. Told by libvirt's callback, in its event thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: dict[tuple[str, str], threading.Event] = {}

    def gone(self, vm_id: str, alias: str) -> bool:
        """False: nobody waits for it."""
        with self._lock:
            event = self._waiting.get((vm_id, alias))
            if event is not None:
                event.set()
        return event is not None

    @contextmanager
    def expected(self, vm_id: str, alias: str) -> Iterator[threading.Event]:
        """An event that is set when the device has gone; registered before the request, so it cannot be missed.

        Looked at once more afterwards it is final: what goes then goes unasked, see `late`.
        """
        event = self._waiting[vm_id, alias] = threading.Event()
        try:
            yield event
        finally:
            with self._lock:
                self._waiting.pop((vm_id, alias), None)


class Plugger:
    """Attach and detach. undecided(vm_id): told of a VM that may yet get a device, see `leftovers`."""

    def __init__(self, devices: Devices, removals: Removals, hooks: DeviceHooks, unplug_s: float = UNPLUG_S) -> None:
        self.devices = devices
        self.hooks = hooks
        self.removals = removals
        self._unplug_s = unplug_s
        self.undecided: Callable[[str], None] = lambda vm_id: None
        #: (VM, its identity in the metadata) of each device that is noted and perhaps not asked for yet.
        self._coming: set[tuple[str, frozenset[tuple[str, str]]]] = set()

    def to_plug(self, vm_id: str, what: str) -> VmRecord:
        """The VM, with what a worker that died had asked to be plugged: that may come late, and must not be asked for
        twice, or the second one would take away what belongs to the first. What has just left it is in the record
        still: that counts as plugged until all of it is given back, see `late`.

        Raises: as `Vms.running`, VmNotResponding too while libvirt is still at it.
        """
        record = self.devices.vms.running(vm_id, what)
        _, domain = self.devices.live(vm_id)
        if list(leftovers.found(record.metadata, domain)):
            decided(lambda: self.devices.keeper.take_turn(vm_id))
            _, domain = self.devices.live(vm_id)
        came = leftovers.came(record.devices, domain)
        return (self.devices.keeper.refresh(vm_id) if came else self.devices.vms.get(vm_id)) or record

    def attach(
        self, vm_id: str, device: ET.Element, failed: Callable[[str], Error], data: Mapping[str, Any] | None = None
    ) -> None:
        """data: its metadata. Raises: what `failed` makes; then nothing was attached. VmUndecided: it may be yet."""
        with self._between_hooks("hotplug", vm_id, device, failed, data) as wanted:
            dom = self.devices.connection.domain(vm_id)
            try:
                with translated(vm_id, failed):
                    dom.attachDeviceFlags(xml.dump(wanted), libvirt.VIR_DOMAIN_AFFECT_LIVE)
            except UNDECIDED as error:
                # An answer that was lost with libvirtd says nothing: the live devices do, when libvirt is done with it.
                # Before, nothing of it may be taken back.
                if not decided(lambda: self._came(vm_id, wanted)):
                    raise
                logger.warning("vm=%s a device is plugged, though libvirt said: %s", vm_id, error)

    def detach(
        self, vm_id: str, device: ET.Element, failed: Callable[[str], Error], data: Mapping[str, Any] | None = None
    ) -> None:
        """Ask and wait. device: the live element. Raises: what `failed` makes; then the device is still there."""
        with self._between_hooks("hotunplug", vm_id, device, failed, data):
            self._detach(vm_id, device, failed)

    @contextmanager
    def _between_hooks(
        self,
        operation: str,
        vm_id: str,
        device: ET.Element,
        failed: Callable[[str], Error],
        data: Mapping[str, Any] | None,
    ) -> Iterator[ET.Element]:
        """Yields the device as the hooks want it."""
        record = self.devices.vms.find(vm_id)
        custom = custom_of(data)
        wanted = self.hooks.before(operation, record, device, custom, failed)
        try:
            yield wanted
        except Error:
            self.hooks.after(operation, record, wanted, custom, fine=False)
            raise
        self.hooks.after(operation, record, wanted, custom, fine=True)

    def _detach(self, vm_id: str, device: ET.Element, failed: Callable[[str], Error]) -> None:
        alias = alias_of(device)
        dom = self.devices.connection.domain(vm_id)
        began = clock.mono_s()
        with self.removals.expected(vm_id, alias) as gone:
            with translated(vm_id, failed):
                dom.detachDeviceFlags(xml.dump(device), libvirt.VIR_DOMAIN_AFFECT_LIVE)
            stays = not gone.wait(self._unplug_s) and self._still_there(vm_id, device.tag, alias)
        if stays and not gone.is_set():
            raise failed(f"the guest did not release {alias} within {self._unplug_s:g} s")
        logger.info("vm=%s %s unplugged took=%dms", vm_id, alias, (clock.mono_s() - began) * 1000)

    def release(self, vm_id: str, devices: Mapping[str, ET.Element]) -> list[str]:
        """Ask for all of them, then wait for all together. devices: {name: live element}; names of those that went."""
        dom = self.devices.connection.domain(vm_id)
        asked: dict[str, threading.Event] = {}
        until = clock.mono_s() + self._unplug_s
        with ExitStack() as waits:
            for name, device in devices.items():
                gone = waits.enter_context(self.removals.expected(vm_id, alias_of(device)))
                try:
                    with translated(vm_id):
                        dom.detachDeviceFlags(xml.dump(device), libvirt.VIR_DOMAIN_AFFECT_LIVE)
                    asked[name] = gone
                except VmOperationFailed as error:
                    logger.warning("vm=%s %s stays: %s", vm_id, name, error)
            stay = {
                name
                for name, gone in asked.items()
                if not gone.wait(max(0.0, until - clock.mono_s()))
                and self._still_there(vm_id, devices[name].tag, alias_of(devices[name]))
            }
        for name in sorted(stay):
            if not asked[name].is_set():
                logger.warning("vm=%s the guest did not release %s within %g s", vm_id, name, self._unplug_s)
        return [name for name, gone in asked.items() if name not in stay or gone.is_set()]

    def _came(self, vm_id: str, wanted: ET.Element) -> bool:
        """Is it there, by its alias, else by what it is called or its MAC address? Raises: as `Keeper.take_turn`."""
        self.devices.keeper.take_turn(vm_id)
        _, domain = self.devices.live(vm_id)
        names = [name for name in (alias_of, target_of, mac_of) if name(wanted)]
        return bool(names) and any(
            names[0](device) == names[0](wanted) for device in domain.iterfind(f"devices/{wanted.tag}")
        )

    def _still_there(self, vm_id: str, tag: str, alias: str) -> bool:
        _, domain = self.devices.live(vm_id)
        return any(alias_of(device) == alias for device in domain.iterfind(f"devices/{tag}"))

    @contextmanager
    def remembered(self, vm_id: str, identity: dict[str, str], data: dict[str, Any]) -> Iterator[None]:
        """Its metadata are there before the device is: one that comes while we die still has them.

        What did not come is forgotten; where that cannot be written, it stays until the next plug in this place. What
        may come yet keeps them, until that is known.
        """
        coming = (vm_id, frozenset(identity.items()))
        self._coming.add(coming)
        try:
            self.devices.keeper.remember_device(vm_id, identity, data)
            try:
                yield
            except VmUndecided:
                self.undecided(vm_id)
                raise
            except BaseException:
                try:
                    self.devices.keeper.remember_device(vm_id, identity, None)
                except Error as error:
                    logger.warning("vm=%s the metadata of %s stay: %s", vm_id, identity, error)
                raise
        finally:
            self._coming.discard(coming)

    def is_coming(self, vm_id: str, identity: Mapping[str, str]) -> bool:
        """Is it just being plugged, by somebody who lives?"""
        return (vm_id, frozenset(identity.items())) in self._coming

    def forget(self, vm_id: str, identity: dict[str, str]) -> VmRecord | None:
        """Drop the metadata of a device that has gone, and tell the engine that the devices changed."""
        self.devices.keeper.remember_device(vm_id, identity, None)
        return self.devices.changed(vm_id)


def wanted_device(untrusted_text: Any, tag: str) -> tuple[ET.Element, Metadata]:
    """The one device of an engine's hot-plug XML, and its metadata. Raises: MissingVmParameter, BadXml."""
    if not isinstance(untrusted_text, str) or not untrusted_text:
        raise MissingVmParameter("xml")
    root = xml.parse(untrusted_text)
    found = root.find(f"devices/{tag}")
    if found is None:
        raise MissingVmParameter(f"<{tag}> in xml")
    return found, Metadata.of_domain(root) or Metadata()
