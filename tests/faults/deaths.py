# SPDX-License-Identifier: Apache-2.0
"""Runs one scenario on volumes again and again with a fault at step 1, 2, 3 … until a run passes untouched.

    python -m tests.faults.deaths SCENARIO DIRECTORY [STRIDE] [FAULT]

FAULT: see `lives`. A process of its own without threads, since it forks: each run is a session, each look afterwards is
a new worker that takes the SPM role over what the first one left. Prints one JSON line:
{"steps": how many, "deaths": faults that came, "outcomes": {outcome: count}, "problems": [text]}.
"""

import json
import os
import shutil
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from tests.faults.lives import Fault, Lives, in_session, run_all
from tests.faults.powercut import Stage, stage
from tests.faults.steps import Steps
from tests.support.eventually import eventually
from tests.support.storage_room import MIB, StorageRoom, qemu_check, qemu_info
from vdsm_mp.common.errors import Error
from vdsm_mp.tasks import undoing
from vdsm_mp.workers import storage  # once, before the many forks

_ = storage
#: For a worker that takes over, other work on the machine included.
PATIENCE_S = 30.0
IMAGE, BASE, LEAF, OTHER = (f"{n}0000000-aaaa-4bbb-8ccc-{n}00000000000" for n in (1, 2, 3, 4))
TEMPLATE_IMAGE, TEMPLATE = (f"{n}0000000-aaaa-4bbb-8ccc-{n}00000000000" for n in (5, 6))


@dataclass(frozen=True)
class Scenario:
    """act: returns a task id as soon as the verb answers. done, undone: raise unless the state is this one.

    means_done: what a task says whose operation is done.
    """

    act: Callable[[StorageRoom], str]
    done: Callable[[StorageRoom], None]
    undone: Callable[[StorageRoom], None]
    before: Callable[[StorageRoom], None] = lambda house: None
    means_done: str = "success"


def files(house: StorageRoom) -> dict[str, list[str]]:
    """{image directory: its files}. One that vanishes while we look (the new SPM sweeps remains) is not there."""
    images = house.domain / "images"
    found = {}
    for name in sorted(os.listdir(images)):
        with suppress(FileNotFoundError):
            found[name] = sorted(os.listdir(images / name))
    return found


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
    assert IMAGE not in files(house), files(house)  # it loses its name at once; what is left goes later
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


def with_snapshot(house: StorageRoom) -> None:
    house.create(IMAGE, LEAF, srcImgUUID=IMAGE, srcVolUUID=BASE)


def with_snapshot_and_its_task(house: StorageRoom) -> None:
    house.ended(house.start_create(IMAGE, LEAF, srcImgUUID=IMAGE, srcVolUUID=BASE))


def revert(house: StorageRoom) -> str:
    for task_id in house.call("Host.getAllTasksStatuses"):
        house.call("Task.revert", taskID=task_id)
        return str(task_id)
    return delete_leaf(house)  # who looks has cleared it


def with_two_snapshots(house: StorageRoom) -> None:
    with_snapshot(house)
    house.create(IMAGE, OTHER, srcImgUUID=IMAGE, srcVolUUID=LEAF)


def delete_leaf(house: StorageRoom) -> str:
    params = {"imageID": IMAGE, "storagepoolID": house.pool_id, "storagedomainID": house.sd_id}
    task_id: str = house.call("Image.deleteVolumes", **params, volumeList=[LEAF])
    return task_id


def leaf_not_deleted(house: StorageRoom) -> None:
    """There in part or whole: what is left says so, and deleting again ends it."""
    found = files(house)
    assert f"{LEAF}.meta" in found[IMAGE], found
    qemu_check(house.image(IMAGE) / BASE)


def copy(house: StorageRoom) -> str:
    params = {
        **house.names(IMAGE, BASE),
        "dstSdUUID": house.sd_id,
        "dstImgUUID": OTHER,
        "dstVolUUID": LEAF,
        "desc": "",
        "volType": 8,
        "volFormat": 4,
        "preallocate": 2,
        "postZero": False,
        "force": False,
    }
    task_id: str = house.call("Volume.copy", **params)
    return task_id


def extend(house: StorageRoom) -> str:
    task_id: str = house.call("Volume.extendSize", **house.names(IMAGE, BASE), newSize=str(32 * MIB))
    return task_id


def size_of_base(house: StorageRoom) -> int:
    """Metadata and file tell the same."""
    assert files(house) == BEFORE or f"{BASE}.meta.new" in files(house)[IMAGE], files(house)
    qemu_check(house.image(IMAGE) / BASE)
    virtual = int(qemu_info(house.image(IMAGE) / BASE)["virtual-size"])
    assert int(house.info(IMAGE, BASE)["capacity"]) == virtual
    meta = (house.image(IMAGE) / f"{BASE}.meta").read_text()
    assert f"CAP={virtual}\n" in meta, meta
    return virtual


def is_size(size: int) -> Callable[[StorageRoom], None]:
    def check(house: StorageRoom) -> None:
        assert size_of_base(house) == size

    return check


def with_larger_leaf(house: StorageRoom) -> None:
    house.create(IMAGE, LEAF, srcImgUUID=IMAGE, srcVolUUID=BASE, size=str(32 * MIB))


def prepare_merge(house: StorageRoom) -> str:
    subchain = {"sd_id": house.sd_id, "img_id": IMAGE, "base_id": BASE, "top_id": LEAF}
    task_id: str = house.call("StoragePool.prepareMerge", storagepoolID=house.pool_id, subchainInfo=subchain)
    return task_id


def base_is(size: int) -> Callable[[StorageRoom], None]:
    """Metadata and file tell the same."""

    def check(house: StorageRoom) -> None:
        path = house.image(IMAGE) / BASE
        found = int(qemu_info(path)["virtual-size"]), int(house.info(IMAGE, BASE)["capacity"])
        assert found == (size, size), found
        qemu_check(path)

    return check


def finalize(house: StorageRoom) -> str:
    subchain = {"sd_id": house.sd_id, "img_id": IMAGE, "base_id": BASE, "top_id": LEAF}
    task_id: str = house.call("StoragePool.finalizeMerge", storagepoolID=house.pool_id, subchainInfo=subchain)
    return task_id


def merged(house: StorageRoom) -> None:
    assert house.info(IMAGE, LEAF)["status"] == "ILLEGAL"
    assert house.info(IMAGE, OTHER)["parent"] == BASE
    assert qemu_info(house.image(IMAGE) / OTHER)["backing-filename"] == BASE
    house.call("Image.prepare", **house.names(IMAGE, OTHER))
    house.call("Image.teardown", **house.names(IMAGE, OTHER))


def not_merged(house: StorageRoom) -> None:
    """The disk can be used, whatever step was reached: header and metadata name volumes with the same content."""
    house.call("Image.prepare", **house.names(IMAGE, OTHER), allowIllegal=True)
    house.call("Image.teardown", **house.names(IMAGE, OTHER))
    qemu_check(house.image(IMAGE) / OTHER)


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
    "delete volume": Scenario(delete_leaf, as_before, leaf_not_deleted, with_snapshot),
    "revert": Scenario(
        revert,
        as_before,
        created(IMAGE, extra={IMAGE: sorted(both(BASE) + both(LEAF))}, base="INTERNAL"),
        with_snapshot_and_its_task,
        means_done="cleanSuccess",
    ),
    "copy": Scenario(copy, created(OTHER, extra={OTHER: both(LEAF)}), as_before),
    "extend": Scenario(extend, is_size(32 * MIB), is_size(16 * MIB)),
    "prepare merge": Scenario(prepare_merge, base_is(32 * MIB), base_is(16 * MIB), with_larger_leaf),
    "finalize": Scenario(finalize, merged, not_merged, with_two_snapshots),
}


def make_template(root: Path, scenario: Scenario) -> None:
    house = StorageRoom(root).make()
    house.create(IMAGE, BASE)
    house.create(TEMPLATE_IMAGE, TEMPLATE)
    meta = house.image(TEMPLATE_IMAGE) / f"{TEMPLATE}.meta"
    meta.write_text(meta.read_text().replace("VOLTYPE=LEAF", "VOLTYPE=SHARED"))
    scenario.before(house)
    house.stop()
    for name in ("data-center", "run"):  # only what is on storage is handed on
        shutil.rmtree(root / name)


def live_and_die(stage: Stage, scenario: Scenario, fault: Fault, at: int, later: int) -> None:
    """Up to the fault; what is no death the worker survives, and goes on."""
    undoing.UNDO_PAUSE_S = 0.01
    steps = fault.steps(stage)
    house = StorageRoom(stage.root).take_role()
    fault.arm(steps, at, later)
    task_id = None
    try:
        task_id = scenario.act(house)
        (stage.notes / "acknowledged").write_text(task_id)
        room_soon(stage, house, task_id)
        (stage.notes / "result").write_text(house.ended(task_id)["taskResult"])
        (stage.notes / "clearing").write_text("")
        house.call("Task.clear", taskID=task_id)
        (stage.notes / "cleared").write_text("")
    except Error as e:
        print(f"refused: {e}", file=sys.stderr)
    note_hit(stage, steps, at)


def room_soon(stage: Stage, house: StorageRoom, task_id: str) -> None:
    """Somebody makes room once it was seen that a task cannot even be undone."""
    try:
        eventually(lambda: house.call("Task.getStatus", taskID=task_id)["taskState"] == "finished", within_s=1)
    except AssertionError:
        stage.balloon.unlink(missing_ok=True)


def note_hit(stage: Stage, steps: Steps, at: int) -> None:
    if steps.disarm() >= at:
        (stage.notes / "hit").touch()


def recover(stage: Stage, fault: Fault, at: int) -> None:
    """A worker that takes over, with a fault at a step of that."""
    undoing.UNDO_PAUSE_S = 0.01
    steps = fault.steps(stage)
    fault.arm_next(steps, at)
    try:
        house = StorageRoom(stage.root).take_role()
        eventually(lambda: all_over(house), within_s=PATIENCE_S)
    except (Error, AssertionError) as e:  # the role, or what it needs, was refused; an engine asks for it again
        print(f"refused: {e}", file=sys.stderr)
    note_hit(stage, steps, at)


def all_over(house: StorageRoom) -> bool:
    """What the dead worker left is dealt with."""
    return all(one["taskState"] == "finished" for one in house.call("Host.getAllTasksStatuses").values())


def look(stage: Stage, scenario: Scenario) -> str:
    """What a new worker finds; AssertionError when that is not one of the two whole states."""
    acknowledged, result = stage.notes / "acknowledged", stage.notes / "result"
    house = StorageRoom(stage.root).take_role()
    eventually(lambda: all_over(house), within_s=PATIENCE_S)
    statuses = house.call("Host.getAllTasksStatuses")
    results = {one["taskResult"] for one in statuses.values()}
    assert len(statuses) <= 1, statuses
    assert not any(one.get("taskState") == "unknown" for one in house.call("Host.getAllTasks").values())
    told = acknowledged.read_text() if acknowledged.exists() else ""
    if told and not (stage.notes / "clearing").exists():
        assert set(statuses) == {told}, f"a task that was acknowledged is lost: {statuses}"
    if (stage.notes / "cleared").exists():
        assert not statuses, f"a task that was cleared is back: {statuses}"
    if result.exists():
        results.add(result.read_text())
    for task_id in statuses:
        house.call("Task.clear", taskID=task_id)
    assert os.listdir(house.domain / "master/tasks") == []
    outcome = "done"
    try:
        scenario.done(house)
    except (AssertionError, Exception) as first:
        if scenario.means_done in results:
            raise
        outcome = "undone"
        try:
            scenario.undone(house)
        except Exception as second:
            raise AssertionError(f"neither done ({first}) nor undone ({second})") from second
    if results == {"cleanSuccess"} and scenario.means_done == "success" and scenario.done is not scenario.undone:
        outcome += " after clean-up"
    if outcome.startswith("undone"):
        # Whatever was undone can be asked for again.
        house.ended(scenario.act(house))
        scenario.done(house)
    house.stop()
    return outcome


def main() -> None:
    scenario, directory = SCENARIOS[sys.argv[1]], Path(sys.argv[2])
    stride = int(sys.argv[3]) if len(sys.argv) > 3 else 1
    fault = Fault.of(sys.argv[4] if len(sys.argv) > 4 else "kill")
    where = stage(directory, cuts=fault.cuts, image=fault.takes_image)
    lives = Lives(
        lambda at, later: live_and_die(where, scenario, fault, at, later),
        lambda at: recover(where, fault, at),
        lambda: look(where, scenario),
    )
    try:
        assert in_session(lambda: make_template(where.template, scenario)) == 0
        where.keep()
        print(json.dumps(run_all(where, fault, stride, lives, directory / "outcome")))
    finally:
        where.close()


if __name__ == "__main__":
    main()
