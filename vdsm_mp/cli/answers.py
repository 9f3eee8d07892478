# SPDX-License-Identifier: Apache-2.0
"""What the command line reads of a door's answers, checked before it is read: who answers may be another program.

Members that nobody here reads are let through. Numbers may be text, as VDSM has many of them.
"""

from typing import Annotated, Any, NotRequired, TypedDict

import msgspec

from vdsm_mp.common.errors import Unavailable

Number = float | Annotated[str, msgspec.Meta(pattern=r"^-?\d+(\.\d+)?(e-?\d+)?$")]


class NotUnderstood(Unavailable):
    """The answer has not the shape that this program knows; what was asked for may have been done."""

    code = -32603
    msg = "the answer to {self.verb} is not understood, it is of another version or of another program: {self.why}"

    def __init__(self, verb: str, why: str) -> None:
        super().__init__(verb, why)
        self.verb = verb
        self.why = why


class Disk(TypedDict, total=False):
    readBytes: Number
    writtenBytes: Number


class Card(TypedDict, total=False):
    rx: Number
    tx: Number


class Vm(TypedDict):
    """Of a VM that does not run there is less."""

    vmId: str
    status: str
    vmName: NotRequired[str]
    elapsedTime: NotRequired[Number]
    monitorResponse: NotRequired[Number]
    cpuUser: NotRequired[Number]
    cpuSys: NotRequired[Number]
    memUsage: NotRequired[Number]
    migrationProgress: NotRequired[Number]
    disks: NotRequired[dict[str, Disk]]
    network: NotRequired[dict[str, Card]]


class Domain(TypedDict, total=False):
    code: int
    actual: bool
    valid: bool
    delay: Number
    lastCheck: Number


class Host(TypedDict, total=False):
    storageDomains: dict[str, Domain]


class Task(TypedDict):
    taskState: str
    taskResult: str
    message: NotRequired[str]


class Job(TypedDict):
    status: str
    progress: NotRequired[float | None]


#: Verb -> the shape of its answer, as far as it is read.
SHAPES: dict[str, Any] = {
    "Host.getAllVmStats": list[Vm],
    "Host.getStats": Host,
    "Host.getAllTasksStatuses": dict[str, Task],
    "Host.getJobs": dict[str, Job],
    "Task.getStatus": Task,
}


def checked(verb: str, answer: Any) -> Any:
    """The answer as it came. Raises NotUnderstood."""
    try:
        msgspec.convert(answer, SHAPES[verb])
    except msgspec.ValidationError as error:
        raise NotUnderstood(verb, str(error)) from error
    return answer
