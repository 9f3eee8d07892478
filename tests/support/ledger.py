# SPDX-License-Identifier: Apache-2.0
"""What an engine did with disks and was told of it, and whether storage agrees. One JSON line for each thing.

Every operation says before it begins what it makes of the things it touches: {key: view before} and {key: view after}.
Told of as done, the second holds; told of as failed, the first; cut short, either, and nothing between. A thing is an
image ("SD/IMAGE"), the OVF of a VM ("vm/ID") or a lease ("lease/SD/ID"). View of an image: {volume id: {"parent",
"capacity", "format", "description", "legality", "generation", "bitmaps": names, "writes": {offset: pattern}}}, None
when there is none. The file may lie where no fault reaches it.

What is not undone can be asked for again when it was cut short (`again`), and must come to its end then. A job on one
volume may have done its work and not have counted it yet (`between`).
"""

import itertools
import json
import os
import subprocess
import threading
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.support.eventually import eventually
from vdsm_mp.api.types import BLANK
from vdsm_mp.common.errors import Error

View = dict[str, Any]
_NO_LEASE = 936
JOB_OVER = ("done", "failed", "aborted")


@dataclass
class Operation:
    """One that has begun. task: told. result: what its end was told to be. cleared: "" | "clearing" | "cleared".

    again: verb and parameters, of one that may be asked for again.
    """

    number: int
    what: str
    before: dict[str, View | None]
    after: dict[str, View | None]
    task: str = ""
    result: str = ""
    cleared: str = ""
    between: dict[str, View | None] | None = None
    again: tuple[str, dict[str, Any]] | None = None


@dataclass
class Ledger:
    """Threads may write, each about things of its own. sync: on disk before the next step."""

    path: Path
    sync: bool = False
    things: dict[str, View | None] = field(default_factory=dict)
    operations: dict[int, Operation] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._lock = threading.Lock()
        for line in self.path.read_text().splitlines() if self.path.exists() else ():
            self._take(json.loads(line))
        self._numbers = itertools.count(max(self.operations, default=0) + 1)

    def begin(self, what: str, before: dict[str, View | None], after: dict[str, View | None], **more: Any) -> int:
        """more: between, again."""
        with self._lock:
            number = next(self._numbers)
        self._write({"n": number, "begin": what, "before": before, "after": after, **more})
        return number

    def note(self, number: int, **what: str) -> None:
        """task=ID, result="success" or another, cleared="clearing" or "cleared"."""
        self._write({"n": number, **what})

    def found(self, number: int, which: str, bitmaps: dict[str, list[str]]) -> None:
        """What came of one that was cut short: "before", "between" or "after". bitmaps: that are left of a volume."""
        self._write({"n": number, "found": which, "bitmaps": bitmaps})

    def open(self) -> list[Operation]:
        """Those whose end was not told."""
        return [one for one in self.operations.values() if not one.result]

    def _write(self, entry: dict[str, Any]) -> None:
        with self._lock:
            with self.path.open("a") as file:
                file.write(json.dumps(entry) + "\n")
                if self.sync:
                    file.flush()
                    os.fsync(file.fileno())
            self._take(entry)

    def _take(self, entry: dict[str, Any]) -> None:
        number = entry["n"]
        if "begin" in entry:
            more = {name: entry[name] for name in ("between", "again") if name in entry}
            self.operations[number] = Operation(number, entry["begin"], entry["before"], entry["after"], **more)
            return
        one = self.operations[number]
        one.task = entry.get("task", one.task)
        one.cleared = entry.get("cleared", one.cleared)
        if "result" in entry:
            one.result = entry["result"]
            self.things.update(one.after if one.result == "success" else one.before)
        if "found" in entry:
            one.result = f"found {entry['found']}"
            views = {"before": one.before, "between": one.between, "after": one.after}[entry["found"]] or {}
            self.things.update({key: _with_bitmaps(view, entry["bitmaps"]) for key, view in views.items()})


@dataclass
class Storage:
    """call: a verb by its name; raises the verb's errors. domains: {sd id: its directory}, exports: those of class
    export. master: "" for the first. jobs: the verb that lists them, "" when nobody asks for any. volume_leases: each
    volume has one. others: images of somebody else."""

    call: Callable[..., Any]
    pool_id: str
    domains: dict[str, Path]
    exports: dict[str, Path] = field(default_factory=dict)
    master: str = ""
    jobs: str = "Host.getJobs"
    volume_leases: bool = False
    others: set[str] = field(default_factory=set)

    @property
    def master_directory(self) -> Path:
        return self.domains[self.master or next(iter(self.domains))]

    def job_list(self) -> dict[str, Any]:
        """{job id: entry of Host.getJobs}"""
        params = {"job_type": "storage"} if self.jobs.startswith("Host.") else {}
        found: dict[str, Any] = self.call(self.jobs, **params)
        return found

    def image(self, key: str) -> Path:
        sd_id, _, image_id = key.partition("/")
        return (self.domains | self.exports)[sd_id] / "images" / image_id

    def names(self, key: str, volume_id: str = "") -> dict[str, str]:
        sd_id, _, image_id = key.partition("/")
        found = {"storagepoolID": self.pool_id, "storagedomainID": sd_id, "imageID": image_id}
        return found | ({"volumeID": volume_id} if volume_id else {})

    def look(self, key: str) -> View | None:
        """What storage says of a thing, writes left out. Raises: AssertionError (it is not whole)."""
        if key.startswith("vm/"):
            names = {"storagepoolID": self.pool_id, "storagedomainID": BLANK, "vmList": []}
            ovf = self.call("StoragePool.getBackedUpVmsInfo", **names).get(key.removeprefix("vm/"))
            return None if ovf is None else {"ovf": ovf}
        if key.startswith("lease/"):
            return self._lease(*key.split("/")[1:])
        directory = self.image(key)
        if not directory.exists():
            return None
        # One that a death left beside the file it was to replace is overwritten by the next change.
        names_ = {name for name in os.listdir(directory) if not name.endswith(".meta.new")}
        volumes = {name for name in names_ if "." not in name}
        suffixes = ("", ".meta", ".lease") if self.volume_leases else ("", ".meta")
        assert names_ == {f"{one}{suffix}" for one in volumes for suffix in suffixes}, (key, sorted(names_))
        infos = {one: self._volume(key, one) for one in sorted(volumes)}
        parents = {info["parent"] for info in infos.values()}
        for one, info in infos.items():
            merged = info["legality"] == "ILLEGAL"  # and about to go
            assert merged or info["voltype"] in ("SHARED", "INTERNAL" if one in parents else "LEAF"), (key, info)
        wanted = ("parent", "capacity", "format", "description", "legality", "generation")
        return {
            one: {name: info[name] for name in wanted} | {"bitmaps": self._bitmaps(key, info)}
            for one, info in infos.items()
        }

    def _volume(self, key: str, volume_id: str) -> dict[str, Any]:
        info: dict[str, Any] = self.call("Volume.getInfo", **self.names(key, volume_id))
        return info

    def _bitmaps(self, key: str, info: dict[str, Any]) -> list[str]:
        if info["format"] != "COW":
            return []
        told = json.loads(
            run("qemu-img", "info", "-U", "--output=json", "-f", "qcow2", f"{self.image(key)}/{info['uuid']}")
        )
        found = told["format-specific"]["data"].get("bitmaps", ())
        return sorted(one["name"] for one in found if "in-use" not in one["flags"])

    def _lease(self, sd_id: str, lease_id: str) -> View | None:
        """{"job": id or None}; one that nobody holds."""
        names = {"lease": {"sd_id": sd_id, "lease_id": lease_id}}
        try:
            status = self.call("Lease.status", **names)
        except Error as e:
            assert getattr(e, "code", 0) == _NO_LEASE, e
            return None
        assert status["owners"] == [], status
        return {"job": status.get("metadata", {}).get("job_id")}

    def check_data(self, key: str, view: View) -> None:
        """qemu-img finds nothing wrong, and every leaf has what was written to its chain."""
        parents = {one["parent"] for one in view.values()}
        for volume_id, one in view.items():
            path = self.image(key) / volume_id
            if one["format"] == "COW":
                # 3: clusters that nobody uses, by a program that was killed.
                run("qemu-img", "check", "-q", "-f", "qcow2", str(path), accept=(0, 3))
            if volume_id not in parents and one["legality"] == "LEGAL" and (data := content(view, volume_id)):
                commands = [word for at, byte in data.items() for word in ("-c", f"read -P {byte} {at} 4096")]
                form = "qcow2" if one["format"] == "COW" else "raw"
                done = run("qemu-io", "-r", "-U", "-f", form, *commands, str(path))
                assert "verification failed" not in done, (key, volume_id, data, done)


def is_image(key: str) -> bool:
    return not key.startswith(("vm/", "lease/"))


def leaf_of(view: View) -> str:
    parents = {one["parent"] for one in view.values()}
    return next(one for one in view if one not in parents)


def content(view: View, volume_id: str) -> dict[str, int]:
    """{offset: pattern} that a guest sees in a volume."""
    below = content(view, view[volume_id]["parent"]) if view[volume_id]["parent"] in view else {}
    return below | view[volume_id]["writes"]


def without_writes(view: View | None) -> View | None:
    if view is None:
        return None
    return {name: {k: v for k, v in one.items() if k != "writes"} if isinstance(one, dict) else one
            for name, one in view.items()}  # fmt: skip


def run(*argv: str, accept: tuple[int, ...] = (0,)) -> str:
    done = subprocess.run(argv, check=False, capture_output=True, text=True, timeout=60)
    assert done.returncode in accept, (argv, done.stdout[-500:], done.stderr[-500:])
    return done.stdout


def settle(ledger: Ledger, storage: Storage, *, somebody_clears: bool = False) -> dict[str, int]:
    """After a death, with the role taken anew: every operation is one of what it may be. {what was found: count}.

    Tasks that were told of and not cleared are listed, with the result that was told, unless somebody else may have
    cleared them; all are cleared here.
    """
    [listed] = eventually(lambda: _all_over(storage), within_s=90, every_s=0.1)
    counts: dict[str, int] = {"tasks": len(listed)}
    known = {one.task: one for one in ledger.operations.values() if one.task}
    for one in known.values():
        if one.cleared == "cleared":
            assert one.task not in listed, f"{one} is back"
        elif not one.cleared and not (somebody_clears and one.task not in listed):
            assert one.task in listed, f"{one} is forgotten"
            told = listed[one.task]["taskResult"]
            assert not one.result or told == one.result, (one, listed[one.task])
            if told == "success":
                ledger.note(one.number, result=told)
    for one in ledger.open():
        which = _came_of(one, storage)
        left = {key: storage.look(key) or {} for key in one.after if is_image(key)}
        ledger.found(one.number, which, {name: v["bitmaps"] for view in left.values() for name, v in view.items()})
        counts[f"{one.what} {which}"] = counts.get(f"{one.what} {which}", 0) + 1
    for task_id in listed:
        storage.call("Task.clear", taskID=task_id)
        if task_id in known:
            ledger.note(known[task_id].number, cleared="cleared")
    assert storage.call("Host.getAllTasksStatuses") == {}
    check_all(ledger, storage)
    return counts


def _all_over(storage: Storage) -> list[dict[str, Any]]:
    """[statuses by task id], or nothing while a task or a job runs."""
    found = storage.call("Host.getAllTasksStatuses")
    jobs = storage.job_list() if storage.jobs else {}
    over = all(one["taskState"] == "finished" for one in found.values())
    return [found] if over and all(one["status"] in JOB_OVER for one in jobs.values()) else []


def _came_of(one: Operation, storage: Storage) -> str:
    """Raises: AssertionError (neither, and asking again, where that may be, does not help)."""
    try:
        found = eventually(lambda: _which(one, storage), within_s=3 if one.again else 30, every_s=0.1)
    except AssertionError as e:
        if one.again is None:
            raise
        _ask_again(one, storage, e)
        found = eventually(lambda: _which(one, storage), within_s=30, every_s=0.1)
        assert found == "after", one
    assert found is not None
    return found


def _ask_again(one: Operation, storage: Storage, why: AssertionError) -> None:
    assert one.again is not None
    verb, params = one.again
    print(f"asked again: {one.what}, {str(why)[:500]}")
    if verb.startswith("SDM."):
        job_id = str(uuid.uuid4())
        storage.call(verb, job_id=job_id, **params)
        job = eventually(lambda: _job_over(storage, job_id), within_s=60, every_s=0.05)
        assert job is not None
        assert job["status"] == "done", (one, job)
        return
    task_id = storage.call(verb, **params)
    [listed] = eventually(lambda: _all_over(storage), within_s=60, every_s=0.05) or [{}]
    assert listed[task_id]["taskResult"] == "success", (one, listed[task_id])
    storage.call("Task.clear", taskID=task_id)


def _job_over(storage: Storage, job_id: str) -> dict[str, Any] | None:
    job: dict[str, Any] = storage.job_list()[job_id]
    return job if job["status"] in JOB_OVER else None


def _which(one: Operation, storage: Storage) -> str:
    """Raises: AssertionError (none of them)."""
    try:
        actual = {key: storage.look(key) for key in one.after}
    except Exception as e:
        raise AssertionError(f"{one}: {e!r}") from e
    for name, views in (("after", one.after), ("between", one.between)):
        if views is not None and _same(actual, views) and _holds(views, storage):
            return name
    assert _same(actual, one.before), (one, actual)
    return "before"


def _same(actual: dict[str, View | None], wanted: dict[str, View | None]) -> bool:
    """A program that is killed may take bitmaps of its volume along: then the next backup is a whole one."""
    return all(
        without_writes(view) == without_writes(_with_bitmaps(wanted[key], _fewer(view, wanted[key])))
        for key, view in actual.items()
    )


def _fewer(actual: View | None, wanted: View | None) -> dict[str, list[str]]:
    """{volume: its bitmaps}, of volumes that have no others than wanted."""
    if actual is None or wanted is None:
        return {}
    has = {one: other["bitmaps"] for one, other in actual.items() if isinstance(other, dict)}
    return {one: names for one, names in has.items() if one in wanted and set(names) <= set(wanted[one]["bitmaps"])}


def _with_bitmaps(view: View | None, bitmaps: dict[str, list[str]]) -> View | None:
    if view is None:
        return None
    return {one: other | {"bitmaps": bitmaps[one]} if one in bitmaps else other for one, other in view.items()}


def _holds(views: dict[str, View | None], storage: Storage) -> bool:
    """A write may or may not be there."""
    try:
        for key, view in views.items():
            if view is not None and is_image(key):
                storage.check_data(key, view)
    except AssertionError:
        return False
    return True


def check_all(ledger: Ledger, storage: Storage) -> None:
    """Everything is as it was told, and nothing else is there. Raises: AssertionError."""
    for key, view in ledger.things.items():
        actual = storage.look(key)
        assert actual == without_writes(view), (key, actual, view)
        if view is not None and is_image(key):
            storage.check_data(key, view)
    wanted = {key for key, view in ledger.things.items() if view is not None and is_image(key)}

    def nothing_else() -> bool:
        places = storage.domains | storage.exports
        there = {f"{sd_id}/{name}" for sd_id, path in places.items() for name in os.listdir(path / "images")}
        assert there - storage.others == wanted, (there - storage.others) ^ wanted
        return True

    eventually(nothing_else, within_s=30)  # remnants of what was removed are swept in the background
    assert os.listdir(storage.master_directory / "master/tasks") == []
    try:
        for sd_id in storage.domains:
            storage.call("StorageDomain.getInfo", storagedomainID=sd_id)
        storage.call("StoragePool.getInfo", storagepoolID=storage.pool_id)
    except Error as e:
        raise AssertionError(str(e)) from e
