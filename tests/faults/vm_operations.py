# SPDX-License-Identifier: Apache-2.0
"""What is done to a VM while something dies, and what an engine does when it gets no good answer."""

import shutil
import subprocess
import time
from typing import Any

from demonstration import sequences
from tests.faults.vm_deaths import Guest, VmWorld
from tests.support.eventually import eventually
from vdsm_mp.virt.metadata import Metadata


class Operation:
    """One kind of work. begin: the calls in which something dies."""

    needs_a_running_vm = True
    #: (exitCode, exitReason) of a VM whose QEMU died meanwhile.
    ends: tuple[tuple[int, int], ...] = ((1, 2),)

    def prepare(self, world: VmWorld, guest: Guest) -> None:
        """What was there before."""

    def begin(self, world: VmWorld, guest: Guest) -> None:
        raise NotImplementedError

    def settle(self, world: VmWorld, guest: Guest) -> None:
        """Until it is done after all; `guest` says afterwards how it must look."""

    def after(self, world: VmWorld, guest: Guest) -> None:
        """Nothing of it may be left, however it ended; the VM does not run."""


class Create(Operation):
    needs_a_running_vm = False

    def begin(self, world: VmWorld, guest: Guest) -> None:
        world.create(guest)

    def settle(self, world: VmWorld, guest: Guest) -> None:
        """It runs, or it is Down with a reason, or nothing is known of it: then it is asked for again."""
        eventually(lambda: world.status(guest) in ("", "Down", "Up", "Powering up"), within_s=40)
        stats = sequences.vm_stats(world.ask, guest.vm_id)
        if stats.get("status") == "Down":
            assert stats["exitCode"] == 1, stats
            assert stats["exitMessage"]
        if stats.get("status") not in ("Up", "Powering up"):
            world.destroy(guest)
            assert world.libvirtd.virsh("list", "--all", "--name").split().count(guest.name) == 0
            world.start(guest)


class Snapshot(Operation):
    def prepare(self, world: VmWorld, guest: Guest) -> None:
        _, guest.more["newest"] = world.volume(guest.image_id, on=guest.layers[-1])

    def begin(self, world: VmWorld, guest: Guest) -> None:
        job_id = guest.more["job"] = sequences.new_id()
        world.ask("VM.snapshot", **self._wish(guest), snapMemory=guest.more.get("memory", ""), jobUUID=job_id)
        eventually(lambda: job_is_over(world, job_id), within_s=40)

    def settle(self, world: VmWorld, guest: Guest) -> None:
        newest = guest.more["newest"]
        eventually(world._no_job_runs, within_s=40)
        job = world.ask("Host.getJobs", jobIDs=[guest.more["job"]]).get(guest.more["job"])
        if job is not None:
            # By this word an engine keeps the new volume, or deletes it.
            made = world.patiently(lambda: world.chain(guest))[0] == newest
            assert (job["status"] == "done") == made, (job, made)
        if world.patiently(lambda: world.chain(guest))[0] != newest:
            world.patiently(lambda: world.ask("VM.snapshot", **self._wish(guest), snapMemory=""))
        guest.layers.append(newest)

    def _wish(self, guest: Guest) -> dict[str, Any]:
        drive = {
            "domainID": guest.sd_id, "imageID": guest.image_id, "baseVolumeID": guest.layers[-1],
            "volumeID": guest.more["newest"],
        }  # fmt: skip
        return {"vmID": guest.vm_id, "snapDrives": [drive]}


class SnapshotWithMemory(Snapshot):
    def prepare(self, world: VmWorld, guest: Guest) -> None:
        super().prepare(world, guest)
        memory, parameters = world.volume(), world.volume()
        guest.more["memory"] = ",".join([guest.sd_id, world.storage.pool_id, *memory, *parameters])


def job_is_over(world: VmWorld, job_id: str) -> bool:
    job = world.ask("Host.getJobs", jobIDs=[job_id]).get(job_id)
    return job is None or job["status"] in ("done", "failed", "aborted")


class Merge(Operation):
    """The leaf into its base."""

    def begin(self, world: VmWorld, guest: Guest) -> None:
        self._ask(world, guest)
        eventually(lambda: not sequences.vm_stats(world.ask, guest.vm_id).get("vmJobs"), within_s=40)

    def settle(self, world: VmWorld, guest: Guest) -> None:
        base, top = guest.layers

        def out() -> bool:
            stats = world.patiently(lambda: sequences.vm_stats(world.ask, guest.vm_id))
            if stats.get("vmJobs") != {}:
                return False
            if top not in world.patiently(lambda: world.chain(guest)):
                return True
            world.patiently(lambda: self._ask(world, guest))
            return False

        eventually(out, within_s=40)
        guest.layers = [base]

    def _ask(self, world: VmWorld, guest: Guest) -> None:
        base, top = guest.layers
        drive = {
            "poolID": world.storage.pool_id, "domainID": guest.sd_id, "imageID": guest.image_id, "volumeID": top,
        }  # fmt: skip
        world.ask(
            "VM.merge", vmID=guest.vm_id, drive=drive, baseVolUUID=base, topVolUUID=top, bandwidth="0",
            jobUUID=sequences.new_id(),
        )  # fmt: skip


class Replicate(Operation):
    """The disk is mirrored to the other domain; called off and begun anew when that went wrong."""

    def prepare(self, world: VmWorld, guest: Guest) -> None:
        other = world.other.sd_id
        _, base = world.volume(guest.image_id, sd_id=other)
        shutil.copyfile(
            world.path(guest.sd_id, guest.image_id, guest.layers[0]), world.path(other, guest.image_id, base)
        )
        _, target = world.volume(guest.image_id, on=base, sd_id=other)
        guest.more |= {"target": target, "layers": [base, target]}

    def begin(self, world: VmWorld, guest: Guest) -> None:
        world.ask("VM.diskReplicateStart", **self._names(world, guest))

    def settle(self, world: VmWorld, guest: Guest) -> None:
        """An engine that does not know whether it began ends it, and that must do in either case."""
        try:
            world.patiently(lambda: world.ask("VM.diskReplicateFinish", **self._back(world, guest)), within_s=8)
        except sequences.Refused as error:
            assert "is not being replicated" in error.message, error
        world.patiently(lambda: Replicate.begin(self, world, guest))
        self._finish(world, guest)

    def _finish(self, world: VmWorld, guest: Guest) -> None:
        world.patiently(lambda: world.ask("VM.diskReplicateFinish", **self._names(world, guest)))
        guest.layers, guest.sd_id = guest.more["layers"], world.other.sd_id

    def _names(self, world: VmWorld, guest: Guest) -> dict[str, Any]:
        source = {
            "poolID": world.storage.pool_id, "domainID": world.storage.sd_id, "imageID": guest.image_id,
            "volumeID": guest.layers[-1],
        }  # fmt: skip
        target = {**source, "domainID": world.other.sd_id, "volumeID": guest.more["target"]}
        return {"vmID": guest.vm_id, "srcDisk": source, "dstDisk": target}

    def _back(self, world: VmWorld, guest: Guest) -> dict[str, Any]:
        names = self._names(world, guest)
        return {**names, "dstDisk": names["srcDisk"]}


class FinishReplication(Replicate):
    """Over to the mirror, once it is complete."""

    def prepare(self, world: VmWorld, guest: Guest) -> None:
        super().prepare(world, guest)
        world.ask("VM.diskReplicateStart", **self._names(world, guest))
        eventually(lambda: 'ready="yes"' in world.libvirtd.virsh("dumpxml", guest.name).replace("'", '"'), within_s=30)

    def begin(self, world: VmWorld, guest: Guest) -> None:
        world.ask("VM.diskReplicateFinish", **self._names(world, guest))

    def settle(self, world: VmWorld, guest: Guest) -> None:
        """An engine reads which volume the VM uses, and asks again while it is the old one.

        A libvirtd that died while it told QEMU to go over may have left a mirror that no libvirtd can end that way
        (seen with 9.0: "Duplicate nodes"); it is called off, and begun anew.
        """
        target = guest.more["target"]
        try:
            eventually(lambda: self._moved(world, guest, target), within_s=6, every_s=0.3)
        except AssertionError:
            super().settle(world, guest)
        guest.layers, guest.sd_id = guest.more["layers"], world.other.sd_id

    def _moved(self, world: VmWorld, guest: Guest, target: str) -> bool:
        if world.patiently(lambda: world.chain(guest))[0] != target or "diskReplicate" in str(
            world.ask("Host.dumpxmls")
        ):
            try:
                world.ask("VM.diskReplicateFinish", **self._names(world, guest))
            except sequences.Refused:
                return False
        return world.chain(guest)[0] == target


class Plug(Operation):
    """One more disk, which is there with its volume's name, or not at all."""

    def prepare(self, world: VmWorld, guest: Guest) -> None:
        guest.more["disk"] = world.volume()

    def begin(self, world: VmWorld, guest: Guest) -> None:
        world.ask("VM.hotplugDisk", vmID=guest.vm_id, params={"vmId": guest.vm_id, "xml": self._xml(world, guest)})

    def settle(self, world: VmWorld, guest: Guest) -> None:
        def there() -> None:
            if not self._has_it(world, guest):
                self.begin(world, guest)

        world.patiently(there)
        assert self._has_it(world, guest)
        noted = (Metadata.of_domain(world.domain(guest)) or Metadata()).device(devtype="disk", name="vdb")
        assert (noted["imageID"], noted["volumeID"]) == guest.more["disk"], noted

    def _has_it(self, world: VmWorld, guest: Guest) -> bool:
        names = [target.get("dev") for target in world.domain(guest).iterfind("devices/disk/target")]
        return "vdb" in names

    def _xml(self, world: VmWorld, guest: Guest) -> str:
        image_id, volume_id = guest.more["disk"]
        ids = {
            "poolID": world.storage.pool_id, "domainID": guest.sd_id, "imageID": image_id, "volumeID": volume_id,
        }  # fmt: skip
        told = "".join(f"<ovirt-vm:{name}>{value}</ovirt-vm:{name}>" for name, value in ids.items())
        return (
            '<hotplug xmlns:ovirt-vm="http://ovirt.org/vm/1.0"><devices><disk type="file" device="disk" snapshot="no">'
            '<target dev="vdb" bus="virtio"/><source file="/predicted"/><driver name="qemu" type="raw"/>'
            f'<alias name="ua-{image_id}"/></disk></devices><metadata><ovirt-vm:vm>'
            f'<ovirt-vm:device devtype="disk" name="vdb">{told}</ovirt-vm:device></ovirt-vm:vm></metadata></hotplug>'
        )


class Backup(Operation):
    """A full one. It is ended and begun anew when nobody knows whether it began."""

    since = ""

    def begin(self, world: VmWorld, guest: Guest) -> None:
        guest.more["refused"] = ""
        try:
            world.ask("VM.start_backup", vmID=guest.vm_id, config=self._config(world, guest))
        except sequences.Refused as error:
            guest.more["refused"] = error.message
            raise

    def settle(self, world: VmWorld, guest: Guest) -> None:
        if "libvirt is not available" in guest.more["refused"]:
            assert "None" in world.libvirtd.virsh("domjobinfo", guest.name), "a backup runs that was told as refused"
            assert world.patiently(lambda: world.ask("VM.list_checkpoints", vmID=guest.vm_id)) == (
                [guest.more["since"]] if "since" in guest.more else []
            )
        self._end(world, guest)
        world.patiently(lambda: self.begin(world, guest))
        asked = {"vmID": guest.vm_id, "backup_id": guest.more["backup"]}
        assert guest.image_id in world.ask("VM.backup_info", **asked)["disks"]
        self._end(world, guest)
        kept = world.ask("VM.list_checkpoints", vmID=guest.vm_id)
        assert kept[-1] == guest.more["checkpoint"], kept
        world.ask("VM.delete_checkpoints", vmID=guest.vm_id, checkpoint_ids=list(reversed(kept)))
        assert world.ask("VM.list_checkpoints", vmID=guest.vm_id) == []

    def after(self, world: VmWorld, guest: Guest) -> None:
        scratch = world.house.root / "state" / "storage" / "transient_disks"
        assert not scratch.exists() or not list(scratch.rglob("*.*")), list(scratch.rglob("*"))

    def _end(self, world: VmWorld, guest: Guest) -> None:
        asked = {"vmID": guest.vm_id, "backup_id": guest.more["backup"]}
        world.patiently(lambda: world.ask("VM.stop_backup", **asked))

    def _config(self, world: VmWorld, guest: Guest) -> dict[str, Any]:
        guest.more |= {"backup": sequences.new_id(), "checkpoint": sequences.new_id()}
        since = guest.more.get("since", "")
        scratch = world.libvirtd.root / f"scratch-{guest.more['backup']}"
        subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", scratch, "1M"], check=True, timeout=30)
        shutil.chown(scratch, "vdsm", "kvm")
        scratch.chmod(0o660)
        disk = {
            "domainID": guest.sd_id, "imageID": guest.image_id, "volumeID": guest.layers[-1], "checkpoint": True,
            "backup_mode": "incremental" if since else "full",
            "scratch_disk": {"path": str(scratch), "type": "file"},
        }  # fmt: skip
        config = {
            "backup_id": guest.more["backup"], "to_checkpoint_id": guest.more["checkpoint"],
            "creation_time": int(time.time()), "disks": [disk],
        }  # fmt: skip
        return config | ({"from_checkpoint_id": since} if since else {})


class IncrementalBackup(Backup):
    def prepare(self, world: VmWorld, guest: Guest) -> None:
        Backup.begin(self, world, guest)
        self._end(world, guest)
        guest.more["since"] = guest.more["checkpoint"]


class EndBackup(Backup):
    def prepare(self, world: VmWorld, guest: Guest) -> None:
        Backup.begin(self, world, guest)

    def begin(self, world: VmWorld, guest: Guest) -> None:
        world.ask("VM.stop_backup", vmID=guest.vm_id, backup_id=guest.more["backup"])

    def settle(self, world: VmWorld, guest: Guest) -> None:
        self._end(world, guest)
        world.patiently(lambda: Backup.begin(self, world, guest), within_s=10)
        self._end(world, guest)
        kept = world.ask("VM.list_checkpoints", vmID=guest.vm_id)
        world.ask("VM.delete_checkpoints", vmID=guest.vm_id, checkpoint_ids=list(reversed(kept)))


OPERATIONS: dict[str, Operation] = {
    "create": Create(),
    "snapshot": Snapshot(),
    "snapshot with memory": SnapshotWithMemory(),
    "merge": Merge(),
    "replicate": Replicate(),
    "finish replication": FinishReplication(),
    "plug": Plug(),
    "full backup": Backup(),
    "incremental backup": IncrementalBackup(),
    "end backup": EndBackup(),
}
