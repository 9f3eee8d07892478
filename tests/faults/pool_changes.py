# SPDX-License-Identifier: Apache-2.0
"""What an engine may ask of a pool: each change can be asked for again until it is done."""

import contextlib
from collections.abc import Callable
from dataclasses import dataclass

from tests.faults.pool_engine import Engine
from tests.support.eventually import eventually
from vdsm_mp.api.errors import RemoteError
from vdsm_mp.api.types import BLANK


@dataclass(frozen=True)
class Change:
    """ask: the change itself; know: what the engine writes down once it is done."""

    name: str
    ask: Callable[[], object]
    know: Callable[[], object]


NO_MASTER = {"masterSdUUID": BLANK, "masterVersion": 1}


def changes(engine: Engine) -> list[Change]:
    """What could be asked for now."""
    pool = engine.pool
    found = []
    others = [sd_id for sd_id in engine.device_of if sd_id != pool.master]
    for sd_id in others:
        status = pool.status.get(sd_id)
        if status is None:
            found += [attach(engine, sd_id), remake(engine, sd_id)]
        elif status == "Attached":
            found += [activate(engine, sd_id), detach(engine, sd_id)]
        else:
            found += [
                deactivate(engine, sd_id), switch(engine, sd_id), switch(engine, sd_id), leave_master(engine, sd_id),
                rebuild(engine, sd_id),
            ]  # fmt: skip
    if pool.version != "5":
        found.append(upgrade(engine))
    if len(pool.status) == 1:
        found.append(destroy(engine))
    if engine.second is not None:
        found += [visit(engine)] * 2
    return [*found, stop_role(engine)]


def attach(engine: Engine, sd_id: str) -> Change:
    return Change(
        "attach", lambda: engine.in_pool("attach", sd_id), lambda: engine.pool.status.update({sd_id: "Attached"})
    )


def activate(engine: Engine, sd_id: str) -> Change:
    return Change(
        "activate", lambda: engine.in_pool("activate", sd_id), lambda: engine.pool.status.update({sd_id: "Active"})
    )


def deactivate(engine: Engine, sd_id: str) -> Change:
    return Change(
        "deactivate",
        lambda: engine.in_pool("deactivate", sd_id, **NO_MASTER),
        lambda: engine.pool.status.update({sd_id: "Attached"}),
    )


def detach(engine: Engine, sd_id: str) -> Change:
    def ask() -> None:
        # Asked again after it was done: it is in the pool no more.
        with contextlib.suppress(RemoteError) if engine.meta(sd_id).pool_ids == () else contextlib.nullcontext():
            engine.in_pool("detach", sd_id, **NO_MASTER)

    return Change("detach", ask, lambda: engine.pool.status.pop(sd_id, None))


def switch(engine: Engine, sd_id: str) -> Change:
    def ask() -> None:
        pool = engine.pool
        if pool.master == sd_id:
            return  # the engine learnt it while it settled
        names = {"oldMasterUUID": pool.master, "newMasterUUID": sd_id, "masterVersion": pool.master_version + 1}
        task_id = engine.spm.call("StoragePool.switchMaster", storagepoolID=pool.pool_id, **names)
        result = engine.result(engine.spm, task_id)
        assert result == "success", result
        pool.master, pool.master_version = sd_id, pool.master_version + 1

    return Change("switch", ask, lambda: None)


def leave_master(engine: Engine, sd_id: str) -> Change:
    old = engine.pool.master

    def ask() -> None:
        pool = engine.pool
        if pool.master == sd_id:
            engine.in_pool("deactivate", old, **NO_MASTER)
        else:
            engine.in_pool("deactivate", old, masterSdUUID=sd_id, masterVersion=pool.master_version + 1)
            pool.master, pool.master_version = sd_id, pool.master_version + 1

    return Change("leave master", ask, lambda: engine.pool.status.update({old: "Attached"}))


def rebuild(engine: Engine, sd_id: str) -> Change:
    def ask() -> None:
        engine.reconstruct(sd_id)
        engine.settle()

    return Change("rebuild", ask, lambda: None)


def upgrade(engine: Engine) -> Change:
    wanted = {"3": "4", "4": "5"}[engine.pool.version]

    def ask() -> None:
        engine.pool.version = wanted  # an engine writes it down before
        engine.spm.call("StoragePool.upgrade", storagepoolID=engine.pool.pool_id, targetDomVersion=int(wanted))

    def know() -> None:
        active = [sd_id for sd_id, status in engine.pool.status.items() if status == "Active"]
        eventually(lambda: {engine.meta(sd_id).version for sd_id in active} == {int(wanted)}, within_s=60)

    return Change("upgrade", ask, know)


def remake(engine: Engine, sd_id: str) -> Change:
    """The domain is formatted and another is made in its place."""
    device = engine.device_of[sd_id]
    made: list[str] = []

    def ask() -> None:
        host = engine.random.choice(engine.hosts)
        for there in host.mount_of(device).glob("????????-*"):
            host.call("StorageDomain.format", storagedomainID=there.name, autoDetach=False)
        made.append(engine.create_domain(host, device))

    def know() -> None:
        engine.device_of.pop(sd_id)
        engine.volumes.pop(sd_id)
        engine.device_of[made[-1]] = device
        engine.volumes[made[-1]] = []

    return Change("remake", ask, know)


def destroy(engine: Engine) -> Change:
    """And made again, by `settle`."""
    pool = engine.pool

    def ask() -> None:
        if engine.pool is pool:
            pool.doomed = True
            engine.spm.call("StoragePool.destroy", storagepoolID=pool.pool_id, hostID=1, scsiKey="")

    return Change("destroy", ask, lambda: None)


def stop_role(engine: Engine) -> Change:
    def ask() -> None:
        engine.stop_role(engine.spm)

    return Change("stop the role", ask, engine.settle)


def visit(engine: Engine) -> Change:
    """A host that is not SPM works in another pool for a while."""
    second = engine.second
    assert second is not None

    def ask() -> None:
        second.visit(next(host for host in engine.hosts if host is not engine.spm))

    return Change("visit the second pool", ask, engine.settle)
