# SPDX-License-Identifier: Apache-2.0
"""Runs one scenario again and again, killed at step 1, 2, 3 … until a run passes untouched; prints what it found.

    python -m tests.faults.deaths SCENARIO DIRECTORY [STRIDE]

A process of its own without threads, since it forks: each run is a session that is killed as a whole, each look
afterwards is a new worker that takes the SPM role over what the dead one left. Prints one JSON line:
{"steps": how many, "deaths": how many runs were killed, "outcomes": {outcome: count}, "problems": [text]}.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.faults.steps import Steps
from tests.support.eventually import eventually
from tests.support.storage_room import StorageRoom, qemu_check
from vdsm_mp.workers import storage  # once, before the many forks

_ = storage
IMAGE, BASE, LEAF, OTHER = (f"{n}0000000-aaaa-4bbb-8ccc-{n}00000000000" for n in (1, 2, 3, 4))
TEMPLATE_IMAGE, TEMPLATE = (f"{n}0000000-aaaa-4bbb-8ccc-{n}00000000000" for n in (5, 6))


@dataclass(frozen=True)
class Scenario:
    """act: returns a task id as soon as the verb answers. after: raises AssertionError unless the state is this one."""

    act: Callable[[StorageRoom], str]
    done: Callable[[StorageRoom], None]
    undone: Callable[[StorageRoom], None]


def files(house: StorageRoom) -> dict[str, list[str]]:
    images = house.domain / "images"
    return {name: sorted(os.listdir(images / name)) for name in sorted(os.listdir(images))}


def both(volume_id: str) -> list[str]:
    return [volume_id, f"{volume_id}.meta"]


BEFORE = {IMAGE: both(BASE), TEMPLATE_IMAGE: both(TEMPLATE)}


def whole(house: StorageRoom, image_id: str, volume_id: str, voltype: str = "LEAF") -> None:
    info = house.info(image_id, volume_id)
    assert (info["status"], info["voltype"]) == ("OK", voltype), info
    qemu_check(house.image(image_id) / volume_id)


def as_before(house: StorageRoom) -> None:
    assert files(house) == BEFORE, files(house)
    whole(house, IMAGE, BASE)
    whole(house, TEMPLATE_IMAGE, TEMPLATE, "SHARED")


def created(image_id: str, *, extra: dict[str, list[str]], base: str = "LEAF") -> Callable[[StorageRoom], None]:
    def check(house: StorageRoom) -> None:
        assert files(house) == {**BEFORE, **extra}, files(house)
        whole(house, image_id, LEAF)
        whole(house, IMAGE, BASE, base)

    return check


def deleted(house: StorageRoom) -> None:
    eventually(lambda: files(house) == {TEMPLATE_IMAGE: both(TEMPLATE)})


def delete(house: StorageRoom) -> str:
    task_id: str = house.call(
        "Image.delete",
        imageID=IMAGE,
        storagepoolID=house.pool_id,
        storagedomainID=house.sd_id,
        postZero=False,
        force=False,
    )
    return task_id


SCENARIOS = {
    "create": Scenario(
        lambda house: house.start_create(OTHER, LEAF), created(OTHER, extra={OTHER: both(LEAF)}), as_before
    ),
    "snapshot": Scenario(
        lambda house: house.start_create(IMAGE, LEAF, srcImgUUID=IMAGE, srcVolUUID=BASE),
        created(IMAGE, extra={IMAGE: sorted(both(BASE) + both(LEAF))}, base="INTERNAL"),
        as_before,
    ),
    "clone": Scenario(
        lambda house: house.start_create(OTHER, LEAF, srcImgUUID=TEMPLATE_IMAGE, srcVolUUID=TEMPLATE),
        created(OTHER, extra={OTHER: sorted(both(TEMPLATE) + both(LEAF))}),
        as_before,
    ),
    "failure": Scenario(
        # The parent's size is refused late enough that there is something to undo.
        lambda house: house.start_create(OTHER, LEAF, size=str(2**62)),
        as_before,
        as_before,
    ),
    "delete": Scenario(delete, deleted, as_before),
}


def make_template(root: Path) -> None:
    house = StorageRoom(root).make()
    house.create(IMAGE, BASE)
    house.create(TEMPLATE_IMAGE, TEMPLATE)
    meta = house.image(TEMPLATE_IMAGE) / f"{TEMPLATE}.meta"
    meta.write_text(meta.read_text().replace("VOLTYPE=LEAF", "VOLTYPE=SHARED"))
    house.stop()
    for name in ("data-center", "run"):  # only what is on storage is handed on
        shutil.rmtree(root / name)


def live_and_die(root: Path, scenario: Scenario, die_at: int) -> None:
    steps = Steps()
    house = StorageRoom(root).take_role()
    steps.arm(die_at)
    task_id = scenario.act(house)
    (root / "acknowledged").write_text(task_id)
    house.ended(task_id)
    (root / "clearing").touch()
    house.call("Task.clear", taskID=task_id)
    steps.disarm()


def look(root: Path, scenario: Scenario) -> str:
    """What a new worker finds; AssertionError when that is not one of the two whole states."""
    acknowledged = root / "acknowledged"
    house = StorageRoom(root).take_role()
    eventually(lambda: all(one["taskState"] == "finished" for one in house.call("Host.getAllTasksStatuses").values()))
    statuses = house.call("Host.getAllTasksStatuses")
    results = {one["taskResult"] for one in statuses.values()}
    assert len(statuses) <= 1, statuses
    assert not any(one.get("taskState") == "unknown" for one in house.call("Host.getAllTasks").values())
    told = acknowledged.read_text() if acknowledged.exists() else ""
    if told and not (root / "clearing").exists():
        assert set(statuses) == {told}, f"a task that was acknowledged is lost: {statuses}"
    for task_id in statuses:
        house.call("Task.clear", taskID=task_id)
    assert os.listdir(house.domain / "master/tasks") == []
    outcome = "done"
    try:
        scenario.done(house)
    except (AssertionError, Exception) as first:
        if results == {"success"}:
            raise
        outcome = "undone"
        try:
            scenario.undone(house)
        except Exception as second:
            raise AssertionError(f"neither done ({first}) nor undone ({second})") from second
    if results == {"cleanSuccess"} and scenario.done is not scenario.undone:
        outcome += " after clean-up"
    if outcome.startswith("undone"):
        # Whatever was undone can be asked for again.
        house.ended(scenario.act(house))
        scenario.done(house)
    house.stop()
    return outcome


def in_session(function: Callable[[], None]) -> int:
    """Run in a forked session; its wait status as an exit code, negative = killed."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            os.setsid()
            function()
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def main() -> None:
    scenario, directory = SCENARIOS[sys.argv[1]], Path(sys.argv[2])
    stride = int(sys.argv[3]) if len(sys.argv) > 3 else 1
    template, root, report = directory / "template", directory / "run", directory / "outcome"
    template.mkdir()
    assert in_session(lambda: make_template(template)) == 0
    outcomes: Counter[str] = Counter()
    problems: list[str] = []
    n, deaths, code = 1, 0, -signal.SIGKILL
    while code == -signal.SIGKILL:
        if root.exists():
            shutil.rmtree(root)
        subprocess.run(["cp", "-a", template, root], check=True)
        code = in_session(lambda die_at=n: live_and_die(root, scenario, die_at))  # type: ignore[misc]
        deaths += code == -signal.SIGKILL
        report.unlink(missing_ok=True)
        looked = in_session(lambda: report.write_text(look(root, scenario)) and None)
        if code not in (0, -signal.SIGKILL) or looked != 0:
            problems.append(f"step {n}: the run ended with {code}, the look with {looked}")
        else:
            outcomes[report.read_text()] += 1
        n += stride
    print(json.dumps({"steps": n - stride - 1, "deaths": deaths, "outcomes": outcomes, "problems": problems}))


if __name__ == "__main__":
    main()
