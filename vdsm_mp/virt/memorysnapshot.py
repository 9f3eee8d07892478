# SPDX-License-Identifier: Apache-2.0
"""The memory that goes with a snapshot: its two volumes, and the time it may take.

The same pair of volumes as of a VM that sleeps (see `hibernation`), so `VM.create` wakes both alike.
"""

import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import libvirt

from vdsm_mp.api.errors_virt import SnapshotFailed, VmUndecided
from vdsm_mp.common import command, log
from vdsm_mp.common.command import CommandFailed, CommandOverdue
from vdsm_mp.common.errors import Error
from vdsm_mp.virt import hibernation
from vdsm_mp.virt.connection import translated
from vdsm_mp.virt.devices import Devices
from vdsm_mp.virt.records import VolumeIds

logger = log.named(__name__)

_PAD_S = 60.0


class Memory:
    """handle: the ids of both volumes, as the engine writes them. Raises: InvalidVmParameter."""

    def __init__(self, devices: Devices, vm_id: str, handle: str, timeout_s: float) -> None:
        self.volumes = self._image, self._config = hibernation.volumes(handle)
        self._devices = devices
        self._vm_id = vm_id
        self._timeout_s = timeout_s

    @contextmanager
    def prepared(self, dom: Any) -> Iterator[str]:
        """The path to write the memory to; what takes longer than the timeout inside is aborted.

        Raises: what storage raised, SnapshotFailed. On VmUndecided it is left to `finish`.
        """
        drives, decided = self._devices.drives, True
        timer = threading.Timer(self._timeout_s, self._abort, (dom,))
        timer.daemon = True
        try:
            image, config = drives.prepare(self._image), drives.prepare(self._config)
            with translated(self._vm_id, SnapshotFailed):
                description = dom.XMLDesc(libvirt.VIR_DOMAIN_XML_MIGRATABLE)
            try:
                found = {"restoreFromSnapshot": True, "_srcDomXML": description, "elapsedTimeOffset": 0}
                hibernation.write_parameters(config, found)
            except (CommandFailed, CommandOverdue) as error:
                raise SnapshotFailed(f"its parameters cannot be written: {error}") from error
            timer.start()
            yield image.path
            timer.cancel()
            if not image.block:
                _pad(image.path)
        except VmUndecided:
            decided = False
            raise
        finally:
            timer.cancel()
            if decided:
                give_back(self._devices, self.volumes)

    def _abort(self, dom: Any) -> None:
        logger.warning("vm=%s writing its memory took longer than %g s, it is aborted", self._vm_id, self._timeout_s)
        try:
            dom.abortJob()
        except libvirt.libvirtError as error:
            logger.warning("vm=%s writing its memory cannot be aborted: %s", self._vm_id, error)


def finish(devices: Devices, vm_id: str, volumes: tuple[VolumeIds, ...], *, made: bool) -> None:
    """What somebody has left undone who died while libvirt wrote. The memory is the first of both volumes."""
    if made:
        try:
            image = devices.drives.prepare(volumes[0])
        except Error as error:
            logger.warning("vm=%s the memory of its snapshot is not padded: %s", vm_id, error)
        else:
            if not image.block:
                _pad(image.path)
    give_back(devices, volumes)


def give_back(devices: Devices, volumes: Iterable[VolumeIds]) -> None:
    """Storage may forget both volumes."""
    for ids in volumes:
        devices.drives.teardown(ids)


def _pad(path: str) -> None:
    """Readers of whole blocks need a whole last block."""
    try:
        command.run(["truncate", "--size=%4096", path], deadline_s=_PAD_S)
    except (CommandFailed, CommandOverdue) as error:
        logger.warning("the memory in %s is not padded: %s", path, error)
