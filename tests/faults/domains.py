# SPDX-License-Identifier: Apache-2.0
# SPDX-License-Identifier: Apache-2.0
"""Runs one operation on domains, the pool or OVFs again and again with a fault at its step 1, 2, 3 …, until none is
left:

    python -m tests.faults.domains SCENARIO FAULT DIRECTORY [STRIDE]

FAULT: see `lives`. Then a new worker looks: every piece of metadata is
readable and sealed, the operation is done or can be asked for again and is done then, and nothing is left over. Prints
one JSON line as `deaths` does.
"""

import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.faults.deaths import note_hit
from tests.faults.domain_changes import (
    NO_MASTER,
    SECOND,
    FaultReported,
    activated,
    attached,
    connect_second,
    create_second,
    created,
    destroy,
    destroyed,
    formatted,
    in_pool,
    old_volumes,
    pool_2,
    pool_2_made,
    rebuild,
    rebuilt,
    second,
    status_of_second,
    switch,
    switched,
    upgrade,
    upgraded,
    with_ovf,
)
from tests.faults.domain_contents import (
    NEW,
    OLD,
    VM_1,
    VM_2,
    export,
    exported,
    make_store,
    move,
    moved,
    ovf_removed,
    ovfs_updated,
    put_store,
    remove_ovf,
    store_is_put,
    update_ovfs,
    with_export,
    with_second,
)
from tests.faults.lives import Fault, Lives, in_session, run_all
from tests.faults.powercut import Stage, stage
from tests.support.eventually import eventually
from tests.support.storage_room import StorageRoom
from vdsm_mp.common.errors import Error
from vdsm_mp.tasks import undoing


@dataclass(frozen=True)
class Scenario:
    """prepare: makes what act needs. act: the operation. done: True or False; AssertionError when it is neither.

    ends_pool: there may be no pool to connect to afterwards.
    """

    prepare: Callable[[StorageRoom], object]
    act: Callable[[StorageRoom], object]
    done: Callable[[StorageRoom], bool]
    version: str = "5"
    ends_pool: bool = False


SCENARIOS = {
    "move": Scenario(with_second, move, moved),
    "export": Scenario(with_export, export, exported),
    "update OVFs": Scenario(
        lambda house: update_ovfs(house, **{VM_1: OLD}),
        lambda house: update_ovfs(house, **{VM_1: NEW, VM_2: NEW}),
        ovfs_updated,
    ),
    "remove OVF": Scenario(lambda house: update_ovfs(house, **{VM_1: OLD, VM_2: OLD}), remove_ovf, ovf_removed),
    "put OVF store": Scenario(make_store, put_store, store_is_put),
    "create": Scenario(connect_second, create_second, created),
    "format": Scenario(
        create_second,
        lambda house: house.call("StorageDomain.format", storagedomainID=SECOND, autoDetach=False),
        formatted,
    ),
    "pool": Scenario(create_second, pool_2, pool_2_made),
    "attach": Scenario(
        create_second,
        lambda house: in_pool(house, "attach"),
        lambda house: status_of_second(house) == "Attached" and second(house)["POOL_UUID"] == house.pool_id,
    ),
    "activate": Scenario(
        attached, lambda house: in_pool(house, "activate"), lambda house: status_of_second(house) == "Active"
    ),
    "detach": Scenario(
        attached,
        lambda house: in_pool(house, "detach", **NO_MASTER),
        lambda house: status_of_second(house) is None and second(house)["POOL_UUID"] == "",
    ),
    "destroy": Scenario(activated, destroy, destroyed, ends_pool=True),
    "rebuild": Scenario(activated, rebuild, rebuilt),
    "switch": Scenario(with_ovf, switch, switched),
    "upgrade": Scenario(old_volumes, upgrade, upgraded, version="3"),
}


def connected(root: Path, *, moved: bool = False, if_there: bool = False) -> StorageRoom:
    """As an engine comes back to a host: servers, pool, role. The pool's list is on disk, so nothing is only told.

    moved: the operation was said to be done; an engine believes that. if_there: the pool may be gone.
    """
    house = StorageRoom(root)
    connect_second(house)
    house.connect_server()
    pool = {"storagepoolID": house.pool_id, "hostID": 1, "scsiKey": ""}
    masters = [(house.sd_id, 1), (SECOND, 2)]
    if moved:
        masters.reverse()
    for sd_id, version in masters:
        try:
            house.call("StoragePool.connect", masterSdUUID=sd_id, masterVersion=version, **pool)
            break
        except Error:
            continue
    else:
        assert if_there, "nobody is master"
        return house
    start = {"prevID": -1, "prevLver": "-1", "enableScsiFencing": "false"}
    house.finished(house.call("StoragePool.spmStart", storagepoolID=house.pool_id, **start))
    return house


def make_template(root: Path, scenario: Scenario) -> None:
    StorageRoom(root).make(version=scenario.version).stop()
    forget_host(root)
    house = connected(root)
    scenario.prepare(house)
    house.stop()
    forget_host(root)


def forget_host(root: Path) -> None:
    """Only what is on storage is handed on."""
    for name in ("data-center", "run"):
        shutil.rmtree(root / name)


def live(stage: Stage, scenario: Scenario, fault: Fault, at: int, later: int) -> None:
    undoing.UNDO_PAUSE_S = 0.01
    steps = fault.steps(stage)
    house = connected(stage.root)
    fault.arm(steps, at, later)
    said = ""
    try:
        scenario.act(house)
    except (Error, FaultReported) as e:
        said = f"{type(e).__name__}: {e}"
    (stage.notes / "said" if said else stage.notes / "said-done").write_text(said)
    note_hit(stage, steps, at)
    house.stop()


def recover(stage: Stage, scenario: Scenario, fault: Fault, at: int) -> None:
    """A worker that comes back to what is there, with a fault at a step of that."""
    undoing.UNDO_PAUSE_S = 0.01
    steps = fault.steps(stage)
    fault.arm_next(steps, at)
    try:
        house = connected(stage.root, if_there=scenario.ends_pool)
        eventually(lambda: tasks_are_over(house), within_s=30)
    except (Error, AssertionError) as e:  # the role, or what it needs, was refused; an engine asks for it again
        print(f"refused: {e}", file=sys.stderr)
    note_hit(stage, steps, at)


def tasks_are_over(house: StorageRoom) -> bool:
    """What the dead worker left is undone: an engine asks for nothing new about an image before."""
    found = house.call("Host.getAllTasks")
    return all(status["taskState"] == "finished" for status in found.values())


def look(stage: Stage, scenario: Scenario) -> str:
    said_done = (stage.notes / "said-done").exists()
    house = connected(stage.root, moved=said_done, if_there=scenario.ends_pool)
    eventually(lambda: tasks_are_over(house), within_s=30)
    outcome = "done"
    if not scenario.done(house):
        assert not said_done, "it was said to be done, and is not"
        outcome = "done at the second try"
        scenario.act(house)
        assert scenario.done(house), "not even at the second try"
    house.stop()
    return outcome


def main() -> None:
    scenario, fault, directory = SCENARIOS[sys.argv[1]], Fault.of(sys.argv[2]), Path(sys.argv[3])
    stride = int(sys.argv[4]) if len(sys.argv) > 4 else 1
    where = stage(directory, cuts=fault.cuts, image=fault.takes_image)
    lives = Lives(
        lambda at, later: live(where, scenario, fault, at, later),
        lambda at: recover(where, scenario, fault, at),
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
