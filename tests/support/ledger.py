# SPDX-License-Identifier: Apache-2.0
"""What an engine did with disks and was told of it, and whether storage agrees. One JSON line for each thing.

Every operation says before it begins what it makes of the things it touches: {key: view before} and {key: view after}.
Told of as done, the second holds; told of as failed, the first; cut short, either, and nothing between. A thing is an
image ("SD/IMAGE") or the OVF of a VM ("vm/ID"). View of an image: {volume id: {"parent", "capacity", "format",
"description", "writes": {offset: pattern}}}, None when there is none. The file may lie where no fault reaches it.
"""

import itertools
import json
import os
import subprocess
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.support.eventually import eventually
from vdsm_mp.common.errors import Error

View = dict[str, Any]


@dataclass
class Operation:
    """One that has begun. task: told. result: what its end was told to be. cleared: "" | "clearing" | "cleared"."""

    number: int
    what: str
    before: dict[str, View | None]
    after: dict[str, View | None]
    task: str = ""
    result: str = ""
    cleared: str = ""


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

    def begin(self, what: str, before: dict[str, View | None], after: dict[str, View | None]) -> int:
        with self._lock:
            number = next(self._numbers)
        self._write({"n": number, "begin": what, "before": before, "after": after})
        return number

    def note(self, number: int, **what: str) -> None:
        """task=ID, result="success" or another, cleared="clearing" or "cleared"."""
        self._write({"n": number, **what})

    def found(self, number: int, which: str) -> None:
        """What came of one that was cut short: "before" or "after"."""
        self._write({"n": number, "found": which})

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
            self.operations[number] = Operation(number, entry["begin"], entry["before"], entry["after"])
            return
        one = self.operations[number]
        one.task = entry.get("task", one.task)
        one.cleared = entry.get("cleared", one.cleared)
        if "result" in entry:
            one.result = entry["result"]
            self.things.update(one.after if one.result == "success" else one.before)
        if "found" in entry:
            one.result = f"found {entry['found']}"
            self.things.update(one.after if entry["found"] == "after" else one.before)


@dataclass
class Storage:
    """call: a verb by its name; raises the verb's errors. domains: {sd id: its directory}."""

    call: Callable[..., Any]
    pool_id: str
    domains: dict[str, Path]

    def image(self, key: str) -> Path:
        sd_id, _, image_id = key.partition("/")
        return self.domains[sd_id] / "images" / image_id

    def names(self, key: str, volume_id: str = "") -> dict[str, str]:
        sd_id, _, image_id = key.partition("/")
        found = {"storagepoolID": self.pool_id, "storagedomainID": sd_id, "imageID": image_id}
        return found | ({"volumeID": volume_id} if volume_id else {})

    def look(self, key: str) -> View | None:
        """What storage says of a thing, writes left out. Raises: AssertionError (it is not whole)."""
        if key.startswith("vm/"):
            master = next(iter(self.domains))
            names = {"storagepoolID": self.pool_id, "storagedomainID": master, "vmList": []}
            ovf = self.call("StoragePool.getBackedUpVmsInfo", **names).get(key.removeprefix("vm/"))
            return None if ovf is None else {"ovf": ovf}
        directory = self.image(key)
        if not directory.exists():
            return None
        # One that a death left beside the file it was to replace is overwritten by the next change.
        names_ = {name for name in os.listdir(directory) if not name.endswith(".meta.new")}
        volumes = {name for name in names_ if "." not in name}
        assert names_ == volumes | {f"{one}.meta" for one in volumes}, (key, sorted(names_))
        infos = {one: self._volume(key, one) for one in sorted(volumes)}
        parents = {info["parent"] for info in infos.values()}
        for one, info in infos.items():
            assert info["voltype"] in ("SHARED", "INTERNAL" if one in parents else "LEAF"), (key, info)
        wanted = ("parent", "capacity", "format", "description")
        return {one: {name: info[name] for name in wanted} for one, info in infos.items()}

    def _volume(self, key: str, volume_id: str) -> dict[str, Any]:
        info: dict[str, Any] = self.call("Volume.getInfo", **self.names(key, volume_id))
        assert (info["status"], info["legality"]) == ("OK", "LEGAL"), (key, info)
        return info

    def check_data(self, key: str, view: View) -> None:
        """qemu-img finds nothing wrong, and every leaf has what was written to its chain."""
        parents = {one["parent"] for one in view.values()}
        for volume_id, one in view.items():
            path = self.image(key) / volume_id
            if one["format"] == "COW":
                run("qemu-img", "check", "-q", "-f", "qcow2", str(path))
            if volume_id not in parents and (data := content(view, volume_id)):
                commands = [word for at, byte in data.items() for word in ("-c", f"read -P {byte} {at} 4096")]
                form = "qcow2" if one["format"] == "COW" else "raw"
                done = run("qemu-io", "-r", "-U", "-f", form, *commands, str(path))
                assert "verification failed" not in done, (key, volume_id, data, done)


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


def run(*argv: str) -> str:
    done = subprocess.run(argv, check=False, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, (argv, done.stdout[-500:], done.stderr[-500:])
    return done.stdout


def settle(ledger: Ledger, storage: Storage) -> dict[str, int]:
    """After a death, with the role taken anew: every operation is one of what it may be. {what was found: count}.

    Tasks that were told of and not cleared are listed, with the result that was told; all are cleared here.
    """
    [listed] = eventually(lambda: _all_over(storage), within_s=90, every_s=0.1)
    counts: dict[str, int] = {"tasks": len(listed)}
    known = {one.task: one for one in ledger.operations.values() if one.task}
    for one in known.values():
        if one.cleared == "cleared":
            assert one.task not in listed, f"{one} is back"
        elif not one.cleared:
            assert one.task in listed, f"{one} is forgotten"
            told = listed[one.task]["taskResult"]
            assert not one.result or told == one.result, (one, listed[one.task])
            if told == "success":
                ledger.note(one.number, result=told)
    for one in ledger.open():
        which = eventually(lambda one=one: _which(one, storage), within_s=30, every_s=0.1)  # type: ignore[misc]
        ledger.found(one.number, which)
        counts[f"{one.what} {which}"] = counts.get(f"{one.what} {which}", 0) + 1
    for task_id in listed:
        storage.call("Task.clear", taskID=task_id)
        if task_id in known:
            ledger.note(known[task_id].number, cleared="cleared")
    assert storage.call("Host.getAllTasksStatuses") == {}
    check_all(ledger, storage)
    return counts


def _all_over(storage: Storage) -> list[dict[str, Any]]:
    """[statuses by task id], or nothing while one runs."""
    found = storage.call("Host.getAllTasksStatuses")
    return [found] if all(one["taskState"] == "finished" for one in found.values()) else []


def _which(one: Operation, storage: Storage) -> str:
    """Raises: AssertionError (neither)."""
    actual = {key: storage.look(key) for key in one.after}
    if actual == {key: without_writes(view) for key, view in one.after.items()} and _holds(one.after, storage):
        return "after"
    assert actual == {key: without_writes(view) for key, view in one.before.items()}, (one, actual)
    return "before"


def _holds(views: dict[str, View | None], storage: Storage) -> bool:
    """A write may or may not be there."""
    try:
        for key, view in views.items():
            if view is not None and not key.startswith("vm/"):
                storage.check_data(key, view)
    except AssertionError:
        return False
    return True


def check_all(ledger: Ledger, storage: Storage) -> None:
    """Everything is as it was told, and nothing else is there. Raises: AssertionError."""
    for key, view in ledger.things.items():
        actual = storage.look(key)
        assert actual == without_writes(view), (key, actual, view)
        if view is not None and not key.startswith("vm/"):
            storage.check_data(key, view)
    wanted = {key for key, view in ledger.things.items() if view is not None and not key.startswith("vm/")}

    def nothing_else() -> bool:
        there = {f"{sd_id}/{name}" for sd_id, path in storage.domains.items() for name in os.listdir(path / "images")}
        assert there == wanted, there ^ wanted
        return True

    eventually(nothing_else, within_s=30)  # remnants of what was removed are swept in the background
    master = next(iter(storage.domains.values()))
    assert os.listdir(master / "master/tasks") == []
    try:
        for sd_id in storage.domains:
            storage.call("StorageDomain.getInfo", storagedomainID=sd_id)
        storage.call("StoragePool.getInfo", storagepoolID=storage.pool_id)
    except Error as e:
        raise AssertionError(str(e)) from e
