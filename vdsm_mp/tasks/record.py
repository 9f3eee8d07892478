# SPDX-License-Identifier: Apache-2.0
"""A task as a record, and as the text files that are its form on shared storage. Pure.

The form is VDSM's, read and written by other hosts: lines `field = value`, one file for the task, one for each job
and recovery, one for the result. `=` is written `_eq_`; a line that holds `_eq_` already, or a newline, could not be
read back, so such text is refused (`RecoveryInvalid`) or made harmless before it gets here.
"""

from collections.abc import Iterable, Mapping

import msgspec
from msgspec.structs import replace

from vdsm_mp.api.errors_task import RecoveryInvalid, TaskNotLoaded
from vdsm_mp.tasks.machine import TaskState, move

FORMAT = 1
MESSAGE_INIT = "Task is initializing"
_POLICIES = ("none", "manual", "auto")
#: More of either than any task has; guards against a number in a file that makes us look for ever.
_MANY = 1000


#: How the name of a recovery begins that undoes nothing: it finishes what a task that is done leaves to be done. VDSM
#: has no such thing, and would run it to revert the task: its function is one that does nothing there.
FINISHING = "finish: "
#: Their owner in records of before, of which VDSM could not revert the task.
FINISH = "Finish"


class Recovery(msgspec.Struct, frozen=True):
    """One step that undoes something, by the names VDSM gives it: any SPM of the pool must be able to run it.

    With a name that begins with `FINISHING` one of our own: it belongs to a finished task.
    params: strings without comma, newline or surrounding blanks; at least one.
    """

    name: str
    module: str
    owner: str
    function: str
    params: tuple[str, ...]

    def __post_init__(self) -> None:
        for text in (self.name, self.module, self.owner, self.function, *self.params):
            if "_eq_" in text or "\n" in text or text != text.strip():
                raise RecoveryInvalid(self.name, f"text cannot be stored: {text!r}")
        if not self.params or any("," in param for param in self.params):
            raise RecoveryInvalid(self.name, f"parameters cannot be stored: {self.params!r}")

    @property
    def finishes(self) -> bool:
        return self.owner == FINISH or self.name.startswith(FINISHING)


class TaskRecord(msgspec.Struct, frozen=True):
    """What a task is. Replaced, never edited.

    tag: "spm" (kept on the master domain until cleared) or "hsm" (memory only). recoveries: pushed in order, run from
    the last to the first. result: text; what VDSM stores is Python's form of the value.
    """

    id: str
    verb: str
    tag: str = "spm"
    state: TaskState = TaskState.INIT
    jobs: tuple[str, ...] = ()
    recoveries: tuple[Recovery, ...] = ()
    recovery_policy: str = "auto"
    persist_policy: str = "auto"
    clean_policy: str = "manual"
    priority: str = "low"
    code: int = 0
    message: str = MESSAGE_INIT
    result: str = ""

    def moved(self, *states: TaskState) -> "TaskRecord":
        """Through these states, each an allowed move. Raises: TaskTransitionRefused."""
        state = self.state
        for to in states:
            state = move(state, to)
        return replace(self, state=state)


def _line(field: str, value: object) -> str:
    text = " ".join(str(value).split("\n")).replace("_eq_", "=")
    return f"{field} = {text.replace('=', '_eq_')}\n"


def to_files(task: TaskRecord, store: str) -> dict[str, str]:
    """{file name: text} of the task's directory, the file without which it is no task last."""
    files: dict[str, str] = {}
    for n, job in enumerate(task.jobs):
        files[f"{task.id}.job.{n}"] = _line("name", job) + _line("runcmd", f"vdsm_mp {task.verb}")
    for n, step in enumerate(task.recoveries):
        files[f"{task.id}.recover.{n}"] = "".join(
            (
                _line("name", step.name),
                _line("moduleName", step.module),
                _line("object", step.owner),
                _line("function", step.function),
                _line("params", ",".join(step.params)),
            )
        )
    if task.state in (TaskState.FINISHED, TaskState.RECOVERED, TaskState.FAILED):
        # VDSM writes a result for finished tasks only, and so forgets why another failed; it ignores the file there.
        files[f"{task.id}.result"] = (
            _line("code", task.code) + _line("message", task.message) + _line("result", task.result)
        )
    files[f"{task.id}.task"] = "".join(
        (
            _line("id", task.id),
            _line("name", task.verb),
            _line("tag", task.tag),
            _line("store", store),
            _line("recoveryPolicy", task.recovery_policy),
            _line("persistPolicy", task.persist_policy),
            _line("cleanPolicy", task.clean_policy),
            _line("priority", task.priority),
            _line("state", task.state.value),
            _line("njobs", len(task.jobs)),
            _line("nrecoveries", len(task.recoveries)),
            _line("metadataVersion", FORMAT),
        )
    )
    return files


def from_files(task_id: str, files: Mapping[str, bytes]) -> TaskRecord:
    """The record in a task's directory. Raises: TaskNotLoaded, naming the file and the field."""
    head = _fields(task_id, f"{task_id}.task", files)
    version = _number(task_id, head, "metadataVersion")
    if version > FORMAT:
        raise TaskNotLoaded(task_id, f"it has format {version}, newer than {FORMAT}")
    if head.get("id") != task_id:
        raise TaskNotLoaded(task_id, f"it names itself {head.get('id')!r}")
    try:
        state = TaskState(head.get("state", ""))
    except ValueError:
        state = TaskState.UNKNOWN
    if state is TaskState.UNKNOWN:  # VDSM writes this word for a state that it did not understand
        raise TaskNotLoaded(task_id, f"state {head.get('state')!r} is not known")
    if state is TaskState.FINISHED and f"{task_id}.result" not in files:
        raise TaskNotLoaded(task_id, "it is finished but has no result file")
    result: Mapping[str, str] = {}
    if f"{task_id}.result" in files:
        result = _fields(task_id, f"{task_id}.result", files)
    return TaskRecord(
        id=task_id,
        verb=_text(task_id, head, "name"),
        tag=_text(task_id, head, "tag"),
        state=state,
        jobs=tuple(
            _fields(task_id, f"{task_id}.job.{n}", files).get("name", "")
            for n in _indices(_number(task_id, head, "njobs"), task_id, "njobs")
        ),
        recoveries=tuple(
            _recovery(task_id, _fields(task_id, f"{task_id}.recover.{n}", files))
            for n in _indices(_number(task_id, head, "nrecoveries"), task_id, "nrecoveries")
        ),
        recovery_policy=_policy(task_id, head, "recoveryPolicy"),
        persist_policy=_policy(task_id, head, "persistPolicy"),
        clean_policy=_policy(task_id, head, "cleanPolicy"),
        priority=_text(task_id, head, "priority"),
        code=_number(task_id, result, "code") if result else 0,
        message=result.get("message", MESSAGE_INIT),
        result=result.get("result", ""),
    )


def status(task: TaskRecord, reported: tuple[str, str]) -> dict[str, object]:
    """The five fields of Task.getStatus; `code` is a number, the rest is text."""
    state, result = reported
    return {
        "taskID": task.id,
        "taskState": state,
        "taskResult": result,
        "code": task.code,
        "message": task.message,
    }


def _fields(task_id: str, name: str, files: Mapping[str, bytes]) -> dict[str, str]:
    data = files.get(name)
    if data is None:
        raise TaskNotLoaded(task_id, f"file {name} is missing")
    try:
        lines: Iterable[str] = data.decode("utf-8").split("\n")
    except UnicodeDecodeError:
        raise TaskNotLoaded(task_id, f"file {name} is not text") from None
    found: dict[str, str] = {}
    for line in lines:
        field, equals, value = line.partition("=")
        if equals and "=" not in value:
            found[field.strip().replace("_eq_", "=")] = value.strip().replace("_eq_", "=")
    return found


def _text(task_id: str, fields: Mapping[str, str], name: str) -> str:
    try:
        return fields[name]
    except KeyError:
        raise TaskNotLoaded(task_id, f"field {name} is missing") from None


def _number(task_id: str, fields: Mapping[str, str], name: str) -> int:
    text = _text(task_id, fields, name)
    digits = text.removeprefix("-")
    if not (digits.isascii() and digits.isdigit() and len(digits) < 10):
        raise TaskNotLoaded(task_id, f"field {name} is not a number: {text!r}")
    return int(text)


def _policy(task_id: str, fields: Mapping[str, str], name: str) -> str:
    text = _text(task_id, fields, name)
    if text not in _POLICIES:
        raise TaskNotLoaded(task_id, f"field {name} is {text!r}")
    return text


def _indices(count: int, task_id: str, name: str) -> range:
    if not 0 <= count <= _MANY:
        raise TaskNotLoaded(task_id, f"field {name} is {count}")
    return range(count)


def _recovery(task_id: str, fields: Mapping[str, str]) -> Recovery:
    params = tuple(part.strip() for part in _text(task_id, fields, "params").split(","))
    try:
        return Recovery(
            name=_text(task_id, fields, "name"),
            module=_text(task_id, fields, "moduleName"),
            owner=_text(task_id, fields, "object"),
            function=_text(task_id, fields, "function"),
            params=params,
        )
    except RecoveryInvalid as e:
        raise TaskNotLoaded(task_id, str(e)) from None
