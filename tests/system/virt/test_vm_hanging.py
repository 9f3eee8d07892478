# SPDX-License-Identifier: Apache-2.0
"""What a dead worker left in VMs whose QEMU hangs is looked at when QEMU answers; until then no thread waits for it."""

import os
import signal
import subprocess
import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.support.eventually import eventually
from tests.support.libvirtd import PrivateLibvirtd
from tests.support.needs import needs_program, needs_root
from tests.support.virt_room import VirtRoom
from tests.system.virt.conftest import Guest, NewGuest, overlay
from vdsm_mp.api.errors import StillStarting
from vdsm_mp.api.errors_virt import VmNotResponding
from vdsm_mp.virt import leftovers
from vdsm_mp.virt.keeping import Keeper

pytestmark = [
    pytest.mark.system, needs_root(), needs_program("libvirtd", "qemu-system-x86_64", "qemu-img", "unshare", "nsenter"),
]  # fmt: skip


@contextmanager
def hanging(libvirtd: PrivateLibvirtd, guest: Guest) -> Iterator[None]:
    """Its QEMU stands still, and libvirt waits for an answer to somebody's command."""
    pid = libvirtd.qemu_pid(guest.name)
    os.kill(pid, signal.SIGSTOP)
    words = ["virsh", "-q", "-c", libvirtd.uri, "qemu-monitor-command", guest.name, '{"execute": "query-status"}']
    asking = subprocess.Popen(words, stdout=subprocess.DEVNULL)
    try:
        eventually(lambda: "occupied" in libvirtd.virsh("domcontrol", guest.name), within_s=10)
        yield
    finally:
        os.kill(pid, signal.SIGCONT)
        asking.wait(30)


def test_what_was_left_is_looked_at_when_qemu_answers_again(
    room: VirtRoom, new_guest: NewGuest, folder: Path, libvirtd: PrivateLibvirtd, monkeypatch: pytest.MonkeyPatch
) -> None:
    guest = new_guest(room)
    room.close()
    monkeypatch.setattr(leftovers, "_SETTLED_S", 0.0)
    lost = {key: str(uuid.uuid4()) for key in ("poolID", "domainID", "imageID", "volumeID")}
    replica = overlay(room, folder, guest.disk)
    hda = {"devtype": "disk", "name": "hda"}
    notes: list[tuple[dict[str, str], dict[str, Any]]] = [
        ({"devtype": "disk", "name": "sdx"}, lost), (hda, guest.disk | {"diskReplicate": replica}),
    ]  # fmt: skip
    room = VirtRoom(libvirtd.uri, folder)
    for identity, data in notes:
        room.state(Keeper).remember_device(guest.vm_id, identity, data)
    room.state(Keeper).remember(guest.vm_id, backup_freeze=True)
    room.close()

    tries: list[str] = []
    take_turn = Keeper.take_turn

    def counted(self: Keeper, vm_id: str) -> None:
        try:
            take_turn(self, vm_id)
        except VmNotResponding:
            tries.append(vm_id)
            raise

    monkeypatch.setattr(Keeper, "take_turn", counted)
    with VirtRoom(libvirtd.uri, folder) as next_life:
        next_life.storage.images, next_life.storage.volumes = room.storage.images, room.storage.volumes

        def notes_left() -> list[str]:
            metadata = libvirtd.virsh("dumpxml", guest.name)
            return [note for note in ("sdx", "diskReplicate", "backup_freeze") if note in metadata]

        eventually(lambda: not notes_left(), within_s=15)
        assert set(next_life.storage.released) == {lost["imageID"], replica["imageID"]}
        # Once more, beside a QEMU that hangs: who waited for libvirt would try once in half a minute.
        for identity, data in notes:
            next_life.state(Keeper).remember_device(guest.vm_id, identity, data)
        next_life.state(Keeper).remember(guest.vm_id, backup_freeze=True)
        next_life.close()
        with hanging(libvirtd, guest), VirtRoom(libvirtd.uri, folder) as third_life:
            eventually(lambda: len(tries) >= 9, within_s=25)
            assert notes_left() == ["sdx", "diskReplicate", "backup_freeze"]
            assert third_life.background.failures == []
    with VirtRoom(libvirtd.uri, folder) as last_life:
        last_life.storage.volumes = room.storage.volumes
        eventually(lambda: not notes_left(), within_s=15)
        last_life.call("VM.destroy", vmID=guest.vm_id, gracefulAttempts=0)


@pytest.mark.parametrize(
    ("name", "text"),
    [("shutdown", '{"delay":0,"wait":1,"force":false,"end":1.0}'), ("snapshot_job", "what nobody can read")],
)
def test_a_stale_note_in_a_vm_that_hangs_does_not_keep_all_vms_from_being_known(
    room: VirtRoom, new_guest: NewGuest, folder: Path, libvirtd: PrivateLibvirtd, name: str, text: str
) -> None:
    guest = new_guest(room)
    room.state(Keeper).remember(guest.vm_id, **{name: text})
    room.close()
    with ExitStack() as hangs:
        hangs.enter_context(hanging(libvirtd, guest))
        began = time.monotonic()
        with VirtRoom(libvirtd.uri, folder) as next_life:
            next_life.storage.images = room.storage.images
            eventually(lambda: known(next_life), within_s=60)
            assert time.monotonic() - began < 15  # libvirt lets who writes into it wait for half a minute
            hangs.close()
            eventually(lambda: f"<ovirt-vm:{name}" not in libvirtd.virsh("dumpxml", guest.name), within_s=15)
            next_life.call("VM.destroy", vmID=guest.vm_id, gracefulAttempts=0)


def known(room: VirtRoom) -> bool:
    try:
        return bool(room.call("Host.getVMList"))
    except StillStarting:
        return False
