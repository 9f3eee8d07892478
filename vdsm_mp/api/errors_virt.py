# SPDX-License-Identifier: Apache-2.0
"""Errors of the virt room that cross a boundary, with VDSM's codes."""

from vdsm_mp.common.errors import BadRequest, Conflict, Failed, NotFound, Unavailable


class NoSuchVm(NotFound):
    code = 1
    msg = "Virtual machine does not exist: {self.vm_id}"

    def __init__(self, vm_id: str) -> None:
        super().__init__(vm_id)
        self.vm_id = vm_id


class VmExists(Conflict):
    code = 4
    msg = "Virtual machine already exists: {self.vm_id}"

    def __init__(self, vm_id: str) -> None:
        super().__init__(vm_id)
        self.vm_id = vm_id


class VmWrongState(Conflict):
    """The VM is in a state in which this cannot be done."""

    code = 16
    msg = "Virtual machine {self.vm_id} is {self.status}: {self.what} is not possible now"

    def __init__(self, vm_id: str, status: str, what: str) -> None:
        super().__init__(vm_id, status, what)
        self.vm_id = vm_id
        self.status = status
        self.what = what


class VmIsDown(Conflict):
    code = 6
    msg = "Virtual machine is down: {self.vm_id}"

    def __init__(self, vm_id: str) -> None:
        super().__init__(vm_id)
        self.vm_id = vm_id


class _Sentence(Exception):
    """Errors that carry one sentence, `reason`."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class CannotCreateVm(_Sentence, BadRequest):
    """Refused before anything was started."""

    code = 9
    msg = "Cannot create the virtual machine: {self.reason}"


class MissingVmParameter(_Sentence, BadRequest):
    code = 11
    msg = "Missing parameter: {self.reason}"


class InvalidVmParameter(_Sentence, BadRequest):
    code = 91
    msg = "Invalid parameter: {self.reason}"


class DiskNotFound(_Sentence, NotFound):
    code = 13
    msg = "No such disk: {self.reason}"


class DeviceNotFound(_Sentence, NotFound):
    code = 56
    msg = "No such device: {self.reason}"


class TicketFailed(_Sentence, Failed):
    """The old password holds."""

    code = 18
    msg = "Cannot set the console ticket: {self.reason}"


class NoGuestAgent(_Sentence, Unavailable):
    """It has done nothing, as far as can be known."""

    code = 19
    msg = "The guest agent does not answer: {self.reason}"


class ChangeDiskFailed(_Sentence, Failed):
    """The drive keeps what it had."""

    code = 41
    msg = "Cannot change the disk: {self.reason}"


class DestroyFailed(_Sentence, Failed):
    """The VM may still run."""

    code = 42
    msg = "Cannot destroy the virtual machine: {self.reason}"


class MigrationInProgress(Conflict):
    code = 51
    msg = "Virtual machine {self.vm_id} is migrating"

    def __init__(self, vm_id: str) -> None:
        super().__init__(vm_id)
        self.vm_id = vm_id


class UpdateDeviceFailed(_Sentence, Failed):
    """The device keeps its old settings."""

    code = 56
    msg = "Cannot update the device: {self.reason}"


class ExternalDataFailed(_Sentence, Failed):
    """Nothing was changed."""

    code = 89
    msg = "Cannot get the external data: {self.reason}"


class ShutdownFailed(_Sentence, Failed):
    """There is no way to ask the guest; the VM runs on."""

    code = 4
    msg = "Cannot shut down the virtual machine: {self.reason}"


class VmOperationFailed(_Sentence, Failed):
    """libvirt or QEMU said no; its own sentence."""

    code = 100
    msg = "{self.reason}"


class VmNotResponding(_Sentence, Unavailable):
    """QEMU does not answer libvirt; the operation may run later or never."""

    code = 100
    msg = "The virtual machine does not respond: {self.reason}"


class VmUndecided(VmNotResponding):
    """As the other, and what was asked is looked after: when libvirt tells whether it happened, nothing else stays."""


class LibvirtUnavailable(_Sentence, Unavailable):
    """No connection to libvirt now; it is being made again. VMs are not touched by that."""

    code = -32603
    msg = "libvirt is not available: {self.reason}"


class ResetFailed(_Sentence, Failed):
    """The VM runs on."""

    code = 90
    msg = "Cannot reset the virtual machine: {self.reason}"


class HotplugDiskFailed(_Sentence, Failed):
    """Nothing was plugged, nothing stays prepared."""

    code = 45
    msg = "Cannot plug the disk: {self.reason}"


class HotunplugDiskFailed(_Sentence, Failed):
    """The disk is still there."""

    code = 46
    msg = "Cannot unplug the disk: {self.reason}"


class HotplugNicFailed(_Sentence, Failed):
    """Nothing was plugged."""

    code = 49
    msg = "Cannot plug the network card: {self.reason}"


class BadSecretRequest(_Sentence, BadRequest):
    """Nothing was registered. The sentence never repeats a value."""

    code = 72
    msg = "Bad secret: {self.reason}"


class SecretRegistrationFailed(_Sentence, Failed):
    """Those before it in the list are registered."""

    code = 73
    msg = "Cannot register the secrets: {self.reason}"


class SecretUnregistrationFailed(_Sentence, Failed):
    """Those before it in the list are gone."""

    code = 74
    msg = "Cannot unregister the secrets: {self.reason}"


class HostdevDetachFailed(_Sentence, Failed):
    """Nothing was plugged, and what had been taken from the host for it is the host's again."""

    code = 83
    msg = "Cannot take a device from the host: {self.reason}"


class HotplugLeaseFailed(_Sentence, Failed):
    """The VM does not hold it."""

    code = 86
    msg = "Cannot plug the lease: {self.reason}"


class HotunplugLeaseFailed(_Sentence, Failed):
    """The lease is still there."""

    code = 87
    msg = "Cannot unplug the lease: {self.reason}"


class HotunplugNicFailed(_Sentence, Failed):
    """The card is still there."""

    code = 50
    msg = "Cannot unplug the network card: {self.reason}"


class BalloonFailed(_Sentence, Failed):
    """The balloon keeps its target."""

    code = 53
    msg = "Cannot set the balloon: {self.reason}"


class BadDiskSize(_Sentence, Failed):
    """The disk keeps its size."""

    code = 58
    msg = "Cannot resize the disk: {self.reason}"


class SetNumberOfCpusFailed(_Sentence, Failed):
    """The VM keeps its number of CPUs, or has the new one without all of its pinning."""

    code = 60
    msg = "Cannot set the number of CPUs: {self.reason}"


class CpuTuneFailed(_Sentence, Failed):
    """The old limit holds."""

    code = 62
    msg = "Cannot tune the CPUs: {self.reason}"


class PolicyUpdateFailed(_Sentence, Failed):
    """The old policy holds."""

    code = 63
    msg = "Cannot update the policy: {self.reason}"


class IoTuneFailed(_Sentence, Failed):
    """The limits of this disk hold as they were."""

    code = 64
    msg = "Cannot tune the disk: {self.reason}"


class HotplugMemoryFailed(_Sentence, Failed):
    """Nothing was plugged."""

    code = 70
    msg = "Cannot plug the memory: {self.reason}"


class HotunplugMemoryFailed(_Sentence, Failed):
    """The memory is still there."""

    code = 85
    msg = "Cannot unplug the memory: {self.reason}"


class SnapshotFailed(_Sentence, Failed):
    """The VM goes on with the volumes it had."""

    code = 48
    msg = "Cannot make the snapshot: {self.reason}"


class FreezeFailed(_Sentence, Failed):
    """None is frozen, unless the agent died over it."""

    code = 76
    msg = "Cannot freeze the file systems: {self.reason}"


class ThawFailed(_Sentence, Failed):
    """They may be frozen still."""

    code = 77
    msg = "Cannot thaw the file systems: {self.reason}"


class MergeFailed(_Sentence, Failed):
    """The chain is as it was."""

    code = 52
    msg = "Cannot merge: {self.reason}"


class ReplicationNotReady(_Sentence, Unavailable):
    """Nothing has changed; ask again later."""

    code = 40
    msg = "The replication is not complete yet: {self.reason}"


class AbortReplicationFailed(_Sentence, Failed):
    """The mirror is still there."""

    code = 41
    msg = "Cannot end the replication: {self.reason}"


class ReplicaFailed(_Sentence, Failed):
    """The disk is where it was."""

    code = 55
    msg = "Cannot replicate the disk: {self.reason}"


class BackupFailed(_Sentence, Failed):
    """Of one that did not begin nothing stays; one that did not end runs on."""

    code = 1600
    msg = "Cannot back up: {self.reason}"


class CheckpointFailed(_Sentence, Failed):
    """The checkpoint is as it was."""

    code = 1610
    msg = "Cannot change the checkpoints: {self.reason}"


class NoSuchCheckpoint(NotFound):
    code = 1611
    msg = "No such checkpoint: {self.checkpoint_id}"

    def __init__(self, checkpoint_id: str) -> None:
        super().__init__(checkpoint_id)
        self.checkpoint_id = checkpoint_id


class InconsistentCheckpoint(_Sentence, Failed):
    """Nothing was changed; a full backup makes a new beginning."""

    code = 1612
    msg = "The checkpoint does not fit the disks: {self.reason}"


class NoSuchBackup(NotFound):
    code = 1601
    msg = "No such backup is running: {self.backup_id}"

    def __init__(self, backup_id: str) -> None:
        super().__init__(backup_id)
        self.backup_id = backup_id


class MigrationFailed(_Sentence, Failed):
    """The VM stays where it is."""

    code = 12
    msg = "Cannot migrate the virtual machine: {self.reason}"


class MigrationCancelFailed(_Sentence, Failed):
    """It goes on."""

    code = 47
    msg = "Cannot cancel the migration: {self.reason}"


class SealFailed(_Sentence, Failed):
    """The disks may be half sealed; the engine throws the template away."""

    code = 100
    msg = "Cannot seal the template: {self.reason}"


class ForeignHypervisorFailed(_Sentence, Failed):
    """Its own sentence, or why it was not even asked. It never repeats a password."""

    code = 65
    msg = "Cannot talk to the hypervisor: {self.reason}"


class BadOva(_Sentence, BadRequest):
    """Nothing was begun."""

    code = 100
    msg = "Cannot use the OVA: {self.reason}"


class BadConversion(_Sentence, Failed):
    """The volumes may be half written; the engine throws them away."""

    code = 100
    msg = "Cannot convert the virtual machine: {self.reason}"


class NoConvertedVm(NotFound):
    code = 67
    msg = "There is no description of what job {self.job_id} converted"

    def __init__(self, job_id: str) -> None:
        super().__init__(job_id)
        self.job_id = job_id


class TransientDisk(_Sentence, Conflict):
    """Nothing was done."""

    code = 59
    msg = "A disk is here only as long as it is used: {self.reason}"


class MigrationCancelled(Failed):
    """Of one that has ended: somebody did not want it any more."""

    code = 47
    msg = "The migration of virtual machine {self.vm_id} was cancelled"

    def __init__(self, vm_id: str) -> None:
        super().__init__(vm_id)
        self.vm_id = vm_id


class MigrationNotInProgress(Conflict):
    code = 81
    msg = "Virtual machine {self.vm_id} is not migrating"

    def __init__(self, vm_id: str) -> None:
        super().__init__(vm_id)
        self.vm_id = vm_id


class MigrationLimitExceeded(Conflict):
    """Nothing was done; the source asks again later."""

    code = 82
    msg = "{self.limit} incoming migrations are under way already"

    def __init__(self, limit: int) -> None:
        super().__init__(limit)
        self.limit = limit


class MigrationOperationFailed(_Sentence, Failed):
    """libvirt's own sentence."""

    code = 102
    msg = "Cannot control the migration: {self.reason}"


#: What every verb on a running VM may raise.
RUNNING_ONLY = (NoSuchVm, VmIsDown, VmWrongState, MigrationInProgress, VmOperationFailed, VmNotResponding)
