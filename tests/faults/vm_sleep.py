# SPDX-License-Identifier: Apache-2.0
"""A VM is written to storage and wakes again while something dies; as `vm_operations`.

However it ends: the guest has gone on where it was, or is awake as if nobody had asked, or is Down with its reason.
"""

from typing import Any

from demonstration import sequences
from tests.faults.vm_deaths import Guest, VmWorld
from tests.faults.vm_operations import Operation
from tests.support.bootsector import hellos, last_tick
from tests.support.eventually import eventually

_LIVES = ("Up", "Powering up")
#: (exitCode, exitReason): written, and lost with its QEMU.
_SAVED, _LOST = (0, 5), (1, 2)


class Hibernate(Operation):
    """To storage. An engine that finds it awake asks again."""

    ends = (_LOST, _SAVED)

    def prepare(self, world: VmWorld, guest: Guest) -> None:
        guest.more["sleep"] = [world.volume(), world.volume()]

    def begin(self, world: VmWorld, guest: Guest) -> None:
        memory, parameters = guest.more["sleep"]
        handle = ",".join([guest.sd_id, world.storage.pool_id, *memory, *parameters])
        world.ask("VM.hibernate", vmID=guest.vm_id, hibernationVolHandle=handle)

    def settle(self, world: VmWorld, guest: Guest) -> None:
        _fall_asleep(self, world, guest)
        _wake(world, guest)

    def after(self, world: VmWorld, guest: Guest) -> None:
        """Storage may do with its memory what it likes: nobody holds it, and nobody else owns it."""
        for image_id, volume_id in guest.more["sleep"]:
            volume = world.path(guest.sd_id, image_id, volume_id)
            assert (volume.owner(), volume.group()) == ("vdsm", "kvm"), volume
        _wait_given_back(world, guest)


class Wake(Hibernate):
    """From storage. An engine that finds it Down, or nowhere, asks again: its memory is still what it was."""

    ends = (_LOST,)

    def prepare(self, world: VmWorld, guest: Guest) -> None:
        super().prepare(world, guest)
        super().begin(world, guest)
        _fall_asleep(self, world, guest)
        world.destroy(guest)
        # On a busy machine the end of its sleep would be taken for the step of its waking up.
        _wait_given_back(world, guest)

    def begin(self, world: VmWorld, guest: Guest) -> None:
        _create_from_memory(world, guest)

    def settle(self, world: VmWorld, guest: Guest) -> None:
        eventually(lambda: world.status(guest) in ("", "Down", *_LIVES), within_s=40)
        stats = sequences.vm_stats(world.ask, guest.vm_id)
        if stats.get("status") == "Down":
            assert stats["exitCode"] == 1, stats
            assert stats["exitMessage"]
        if stats.get("status") not in _LIVES:
            _wake(world, guest)


def _wait_given_back(world: VmWorld, guest: Guest) -> None:
    run = world.house.root / "vrun" / "storage" / guest.sd_id
    held = [run / image_id for image_id, _ in guest.more["sleep"]]
    eventually(lambda: not any(link.is_symlink() for link in held), within_s=60, every_s=0.2)


def _fall_asleep(operation: Hibernate, world: VmWorld, guest: Guest) -> None:
    def asleep() -> bool:
        stats: dict[str, Any] = world.patiently(lambda: sequences.vm_stats(world.ask, guest.vm_id))
        if stats.get("status") in _LIVES:
            world.patiently(lambda: Hibernate.begin(operation, world, guest))
        if stats.get("status") != "Down":
            return False
        assert (stats["exitCode"], stats["exitReason"]) == _SAVED, stats
        return True

    eventually(asleep, within_s=60, every_s=0.2)


def _wake(world: VmWorld, guest: Guest) -> None:
    world.destroy(guest)
    assert world.libvirtd.virsh("list", "--all", "--name").split().count(guest.name) == 0
    slept_at = last_tick(guest.serial)
    _create_from_memory(world, guest)
    sequences.wait_for_status(world.ask, guest.vm_id, *_LIVES)
    eventually(lambda: last_tick(guest.serial) > slept_at, within_s=30)
    assert hellos(guest.serial) == 1


def _create_from_memory(world: VmWorld, guest: Guest) -> None:
    (image_id, volume_id), _ = guest.more["sleep"]
    memory = {
        "poolID": world.storage.pool_id, "domainID": guest.sd_id, "imageID": image_id, "volumeID": volume_id,
    }  # fmt: skip
    world.create(guest, memoryDumpVolume=memory)


OPERATIONS: dict[str, Operation] = {"hibernate": Hibernate(), "wake": Wake()}
