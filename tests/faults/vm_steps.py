# SPDX-License-Identifier: Apache-2.0
"""Who may die at which step of what is done to a VM, as data. Run by `vm_deaths`, chosen by the tests.

A step is a call that leaves the virt worker (see `tests.support.stepped_virt`); the victim dies before it, in it, or
when it has been done and nobody knows yet. The number tells calls of the same name apart.
"""

from collections.abc import Iterator
from dataclasses import dataclass

VICTIMS = ("virt", "storage", "libvirtd", "QEMU")


@dataclass(frozen=True, slots=True)
class Step:
    """One call. moments: when somebody may die. qemu: it has one to kill."""

    name: str
    number: int = 1
    moments: tuple[str, ...] = ("before", "after")
    qemu: bool = True


@dataclass(frozen=True, slots=True)
class Case:
    """One death."""

    operation: str
    step: str
    number: int
    moment: str
    victim: str

    def __str__(self) -> str:
        which = f"{self.step}{f' {self.number}' if self.number > 1 else ''}"
        return f"{self.operation}: {self.victim} dies {self.moment} {which}"


_ALL = ("before", "in", "after")

STEPS: dict[str, tuple[Step, ...]] = {
    "create": (
        Step("defineXML", qemu=False),
        Step("PrepareDrive", qemu=False),
        Step("defineXML", 2, qemu=False),
        Step("createWithFlags", moments=("before", "in"), qemu=False),
        Step("createWithFlags", moments=("after",)),
    ),
    "snapshot": (
        Step("PrepareDrive"),
        Step("setMetadata", moments=("after",)),
        Step("snapshotCreateXML", moments=_ALL),
        Step("setMetadata", 2),
        Step("setMetadata", 3),
    ),
    "snapshot with memory": (
        Step("PrepareDrive", 3, moments=("after",)),
        Step("snapshotCreateXML", moments=_ALL),
        Step("TeardownDrive"),
        Step("setMetadata", 2, moments=("before",)),
    ),
    "merge": (
        Step("setMetadata"),
        Step("blockCommit", moments=_ALL),
        Step("SetRunningLegality"),
        Step("blockJobAbort", moments=_ALL),
        Step("SyncRunningChain"),
        Step("PrepareDrive"),
        Step("setMetadata", 2),
        Step("setMetadata", 3),
    ),
    "replicate": (
        Step("PrepareDrive"),
        Step("setMetadata"),
        Step("blockCopy", moments=_ALL),
    ),
    "finish replication": (
        Step("PrepareDrive"),
        Step("blockJobAbort", moments=_ALL),
        Step("setMetadata"),
        Step("setMetadata", 2),
        Step("TeardownDrive"),
    ),
    "plug": (
        Step("PrepareDrive"),
        Step("setMetadata"),
        Step("attachDeviceFlags", moments=_ALL),
    ),
    "full backup": (Step("backupBegin", moments=_ALL),),
    "incremental backup": (Step("backupBegin", moments=_ALL),),
    "end backup": (Step("abortJob", moments=_ALL),),
    "hibernate": (
        Step("PrepareDrive"),
        Step("PrepareDrive", 2),
        Step("saveFlags", moments=("before", "in")),
        Step("saveFlags", moments=("after",), qemu=False),
        Step("TeardownDrive", qemu=False),
        Step("TeardownDrive", 2, qemu=False),
    ),
    "wake": (
        Step("PrepareDrive", 2, qemu=False),
        Step("defineXML", 2, qemu=False),
        Step("restoreFlags", moments=("before", "in"), qemu=False),
        Step("restoreFlags", moments=("after",)),
        Step("TeardownDrive"),
    ),
}


def cases(*operations: str) -> Iterator[Case]:
    """All of them, or those of some operations."""
    for operation in operations or STEPS:
        for step in STEPS[operation]:
            for moment in step.moments:
                for victim in VICTIMS:
                    if victim != "QEMU" or step.qemu:
                        yield Case(operation, step.name, step.number, moment, victim)


#: What libvirt is asked for while it, or QEMU, stands still: the answer comes late or never, the deed all the same.
LATE_STEPS = (
    ("create", "createWithFlags"),
    ("wake", "restoreFlags"),
    ("snapshot", "snapshotCreateXML"),
    ("snapshot with memory", "snapshotCreateXML"),
    ("merge", "blockCommit"),
    ("merge", "blockJobAbort"),
    ("replicate", "blockCopy"),
    ("finish replication", "blockJobAbort"),
    ("plug", "attachDeviceFlags"),
    ("full backup", "backupBegin"),
    ("incremental backup", "backupBegin"),
    ("end backup", "abortJob"),
    ("hibernate", "saveFlags"),
)
FROZEN_LIBVIRTD, VIRT_BESIDE_HANGING_QEMU = "frozen libvirtd", "virt beside a hanging QEMU"
#: The worker only stands before the call for so long that a beat looks at what it does.
NOBODY = "nobody"


def late_cases() -> Iterator[Case]:
    """As `cases`."""
    for operation, step in LATE_STEPS:
        yield Case(operation, step, 1, "before", FROZEN_LIBVIRTD)
        if operation not in ("create", "wake"):
            yield Case(operation, step, 1, "before", VIRT_BESIDE_HANGING_QEMU)
    yield Case("merge", "blockCommit", 1, "before", NOBODY)


#: The same for a migration, in which two of each may die. Steps are the source's; the destination hears of it after
#: the first one, holds a place for it from the second on, and has it after the last.
MIGRATION_STEPS = (
    Step("setMetadata", moments=("after",), qemu=False),
    Step("migrateToURI3", moments=("before",), qemu=False),
    Step("migrateToURI3", moments=("in", "after")),
)
MIGRATION_VICTIMS = ("virt", "libvirtd", "QEMU")


def migration_cases() -> Iterator[Case]:
    """Victims are named with their side. Where the VM is not, there is no QEMU to die."""
    for step in MIGRATION_STEPS:
        for moment in step.moments:
            for side in ("source", "destination"):
                for victim in MIGRATION_VICTIMS:
                    missing = "source" if moment == "after" and step.qemu else "" if step.qemu else "destination"
                    if victim != "QEMU" or side != missing:
                        yield Case("migration", step.name, step.number, moment, f"{side} {victim}")


QUICK_MIGRATION = (Case("migration", "migrateToURI3", 1, "before", "destination virt"),)

#: What runs with every check: one death of each kind, where the most is at stake.
QUICK = (
    Case("snapshot", "snapshotCreateXML", 1, "after", "virt"),
    Case("snapshot", "snapshotCreateXML", 1, "before", VIRT_BESIDE_HANGING_QEMU),
    Case("merge", "blockJobAbort", 1, "after", "libvirtd"),
    Case("merge", "SyncRunningChain", 1, "before", "storage"),
    Case("finish replication", "blockJobAbort", 1, "after", "virt"),
    Case("full backup", "backupBegin", 1, "after", "QEMU"),
    Case("hibernate", "saveFlags", 1, "in", "virt"),
    Case("wake", "restoreFlags", 1, "after", "libvirtd"),
)
