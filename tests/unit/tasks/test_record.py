# SPDX-License-Identifier: Apache-2.0
"""The text form of tasks: what VDSM wrote is understood, what is written is read back, mutants are refused."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from tests.support import domains
from vdsm_mp.api.errors_task import RecoveryInvalid, TaskNotLoaded
from vdsm_mp.tasks.machine import DONE, TaskState
from vdsm_mp.tasks.record import Recovery, TaskRecord, from_files, to_files

ID = "c518d18b-fbd0-521d-8ef8-a643ed8ab305"

#: Text that VDSM's form can carry: one line, no blanks around it.
_text = st.text(st.characters(blacklist_categories=("Cs", "Cc", "Zl", "Zp", "Zs")), min_size=1, max_size=30).filter(
    lambda text: "_eq_" not in text and text == text.strip()
)
_param = _text.filter(lambda text: "," not in text)
_recovery = st.builds(Recovery, _text, _text, _text, _text, st.lists(_param, min_size=1, max_size=5).map(tuple))
_task = st.builds(
    TaskRecord,
    id=st.just(ID),
    verb=_text,
    tag=st.sampled_from(["spm", "hsm"]),
    state=st.sampled_from([one for one in TaskState if one is not TaskState.UNKNOWN]),
    jobs=st.lists(_text, max_size=3).map(tuple),
    recoveries=st.lists(_recovery, max_size=4).map(tuple),
    code=st.integers(0, 5000),
    message=_text,
    result=_text,
)


@given(_task)
def test_a_task_comes_back_as_it_was_saved(task: TaskRecord) -> None:
    files = {name: text.encode() for name, text in to_files(task, "/somewhere").items()}
    back = from_files(ID, files)
    if task.state not in DONE:  # only what is over has a result
        task = replace(task, code=0, message=back.message, result="")
    assert back == task


def test_tasks_written_by_vdsm_are_understood(tmp_path: Path) -> None:
    export = domains.unpack(tmp_path)["export"]
    for task_id, facts in export.facts["tasks"].items():
        where = export.root / "master/tasks" / task_id
        task = from_files(task_id, {path.name: path.read_bytes() for path in where.iterdir()})
        assert (task.verb, task.tag, task.state.value) == (facts["name"], facts["tag"], facts["state"])
        assert list(task.jobs) == facts["jobs"]
        assert [[r.name, r.module, r.owner, r.function, list(r.params)] for r in task.recoveries] == facts["recoveries"]
        assert (str(task.code), task.message, task.result) == tuple(
            facts["result"][key] for key in ("code", "message", "result")
        )
        assert [task.recovery_policy, task.clean_policy, task.persist_policy] == ["auto", "manual", "auto"]


def test_a_task_written_by_vdsm_is_written_again_byte_for_byte(tmp_path: Path) -> None:
    export = domains.unpack(tmp_path)["export"]
    for task_id, facts in export.facts["tasks"].items():
        where = export.root / "master/tasks" / task_id
        original = {path.name: path.read_text() for path in where.iterdir()}
        ours = to_files(from_files(task_id, {n: t.encode() for n, t in original.items()}), facts["store"])
        for name, text in original.items():
            if ".job." not in name:  # its second line is descriptive only
                assert ours[name] == text


def _files(**changes: str) -> dict[str, bytes]:
    task = TaskRecord(id=ID, verb="createVolume", state=TaskState.QUEUED, jobs=("createVolume",))
    files = {name: text.encode() for name, text in to_files(task, "/somewhere").items()}
    head = files[f"{ID}.task"].decode()
    for field, value in changes.items():
        lines = [f"{field} = {value}" if line.startswith(f"{field} =") else line for line in head.splitlines()]
        head = "\n".join(lines) + "\n"
    files[f"{ID}.task"] = head.encode()
    return files


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"metadataVersion": "2"}, "newer"),
        ({"state": "dreaming"}, "state"),
        ({"state": "unknown"}, "state"),
        ({"state": "finished"}, "no result"),
        ({"njobs": "2"}, "job.1"),
        ({"njobs": "-1"}, "njobs"),
        ({"njobs": "1000000"}, "njobs"),
        ({"nrecoveries": "one"}, "nrecoveries"),
        ({"nrecoveries": "1"}, "recover.0"),
        ({"id": "11111111-2222-3333-4444-555555555555"}, "names itself"),
        ({"recoveryPolicy": "always"}, "recoveryPolicy"),
    ],
)
def test_an_unreadable_task_is_refused_with_the_reason(change: dict[str, str], reason: str) -> None:
    with pytest.raises(TaskNotLoaded, match=reason):
        from_files(ID, _files(**change))


@given(st.binary(max_size=200))
def test_any_bytes_in_place_of_a_task_are_refused_and_nothing_worse(data: bytes) -> None:
    files = _files()
    files[f"{ID}.task"] = data
    with pytest.raises(TaskNotLoaded):
        from_files(ID, files)


@pytest.mark.parametrize(
    "params", [(), ("a,b",), ("a\nb",), (" a",), ("a _eq_ b",)], ids=["none", "comma", "newline", "blank", "escape"]
)
def test_a_recovery_which_could_not_be_read_back_is_never_made(params: tuple[str, ...]) -> None:
    with pytest.raises(RecoveryInvalid):
        Recovery("name", "fileVolume", "FileVolume", "halfbakedVolumeRollback", params)
