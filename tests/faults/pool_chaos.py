# SPDX-License-Identifier: Apache-2.0
"""Two hosts, one pool on storage that both mount, an engine that works on it, and something dies in each round:

    python -m tests.faults.pool_chaos ROUNDS [SEED [disk]]

A round: a volume is made, the engine asks for one change of the pool while clients work on disks and leases, upload by
image tickets and sparsify; hosts visit another pool, too; and meanwhile a storage worker, an I/O child, a master, a
root helper, a sanlock daemon or a whole host is killed, a worker or a child is stopped and never goes on, or a file
system is frozen for both hosts for a while. Then the engine does what engines do (connects again, rebuilds the master
when it is refused, elects an SPM), while something may die once more, and asks for the change again until it is done.
In the end of each round disk, both hosts and a reader of its own must tell the same, every volume that was ever told
as made must be there, and disks and leases are what their clients were told.

With `disk` the list of domains is that on the master, not the engine's. Prints one JSON line:
{"rounds", "seed", "deaths": {what: n}, "changes": {what: n}, "disks": {what: n}, "problems": […]}.
"""

import contextlib
import json
import os
import random
import signal
import struct
import sys
import tempfile
import threading
import time
import traceback
import uuid
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

from tests.faults.pool_changes import changes
from tests.faults.pool_disks import ALONE, Disks
from tests.faults.pool_engine import LEASE_S, MIB, Engine, again
from tests.faults.pool_second import SecondPool
from tests.support.eventually import eventually
from tests.support.loopdevice import frozen
from tests.support.neighbour import Neighbour
from tests.support.sparsifier import slow_sparsifier
from tests.support.storage_hosts import StorageHost, storage_hosts
from vdsm_mp.common import controlsocket, kernel
from vdsm_mp.common.errors import Error
from vdsm_mp.storage.domain_metadata import decode_pool
from vdsm_mp.storage.mailbox_format import Extend, failed
from vdsm_mp.storage.volume_metadata import from_bytes


def die(engine: Engine, what: str, host: StorageHost) -> None:
    if what == "storage":
        os.kill(host.house.pid_of("storage"), signal.SIGKILL)
    elif what == "io":
        children = host.house.status()["children"]
        if children:
            os.kill(engine.random.choice(children)["pid"], signal.SIGKILL)
    elif what == "io stopped":
        children = host.house.status()["children"]
        if children:
            os.kill(engine.random.choice(children)["pid"], signal.SIGSTOP)
    elif what == "storage stopped":
        os.kill(host.house.pid_of("storage"), signal.SIGSTOP)
    elif what == "frozen":
        with frozen(engine.directory(engine.random.choice(list(engine.device_of))).parent):
            time.sleep(engine.random.uniform(0.5, 12.0))  # shorter and longer than a lease lasts
    elif what == "helper":
        for pid in helpers(host.house.pid_of("storage")):
            os.kill(pid, signal.SIGKILL)
    elif what == "master":
        assert host.house.process is not None
        host.house.process.kill()
        host.house.process.wait(10)
    elif what == "sanlock":
        host.kill_sanlock()
        host.begin_sanlock()
    elif what == "host":
        host.crash()
        host.begin_sanlock()


def once_more(engine: Engine) -> threading.Thread | None:
    """In every third round, another death while the engine brings its hosts back; not of a master, which it begins."""
    if engine.random.random() > 0.35 or (_CHOSEN and "twice" not in _CHOSEN.split(",")):
        return None
    what, host = engine.random.choice(("storage", "storage", "io")), engine.random.choice(engine.hosts)

    def strike() -> None:
        # A host that is not back yet has no worker, or nobody who tells its pid.
        with contextlib.suppress(controlsocket.NotRunning, controlsocket.Refused, OSError, TypeError):
            die(engine, what, host)
            print(f"  {what} of host {host.host_id} dies once more", file=sys.stderr, flush=True)

    made = threading.Timer(engine.random.uniform(0.0, 4.0), strike)
    made.start()
    return made


DEATHS = (
    "storage", "storage", "storage", "io", "io", "helper", "master", "host", "sanlock", "none",
    "io stopped", "storage stopped", "frozen",
)  # fmt: skip
#: VDSM_MP_CHAOS_HARMS chooses some, by their names; with "twice" something may die once more.
_CHOSEN = os.environ.get("VDSM_MP_CHAOS_HARMS", "")


def helpers(session: int) -> list[int]:
    """Programs of root's that work for a storage worker."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        facts = kernel.process(int(path.name))
        with contextlib.suppress(OSError):
            if facts is not None and facts.session == session and b"helper-storage" in (path / "cmdline").read_bytes():
                found.append(int(path.name))
    return found


def play(engine: Engine, disks: Disks, outcome: dict[str, Any]) -> None:
    for _ in range(engine.random.choice((0, 1, 2))):
        engine.make_volume(clear=engine.random.random() < 0.5)
    change = engine.random.choice(changes(engine))
    what = engine.random.choice([one for one in DEATHS if not _CHOSEN or one in _CHOSEN.split(",")])
    host = engine.spm if engine.random.random() < 0.7 else engine.random.choice(engine.hosts)
    was_spm, pid = host is engine.spm, host.house.pid_of("storage")
    term = engine.spm_status(host)["spmLver"]
    print(f"round {outcome['rounds']}: {change.name}, {what} of host {host.host_id} dies", file=sys.stderr, flush=True)
    errors: list[str] = []

    def ask() -> None:
        try:
            change.ask()
        except (Error, OSError, AssertionError, RuntimeError) as e:
            errors.append(f"{type(e).__name__}: {e}")

    if change.name not in ALONE:
        disks.begin()
        time.sleep(engine.random.uniform(0.0, 1.5))
    asking = threading.Thread(target=ask)
    asking.start()
    time.sleep(engine.random.choice((0.0, 0.02, 0.05, 0.1, 0.2, 0.4)))
    with contextlib.suppress(ProcessLookupError):
        die(engine, what, host)
    if what == "host":
        disks.host_died(host.host_id)
    asking.join(LEASE_S + 60)
    assert not asking.is_alive(), f"{change.name} is never answered"
    disks.end()
    if what == "sanlock" and was_spm:
        # The lease is gone, and whoever had it must notice within the watchdog's pause.
        eventually(lambda: noticed(engine, host, pid, term), within_s=40)
    second = None if change.name in ALONE else once_more(engine)
    engine.settle()
    if second is not None:
        second.join()
        engine.settle()
    if errors:
        print(f"  {errors}", file=sys.stderr, flush=True)
        for attempt in range(5):
            try:
                change.ask()
                break
            except (Error, AssertionError) as e:
                print(f"  again: {e}", file=sys.stderr, flush=True)
                if attempt == 4:
                    raise
                time.sleep(1)
                engine.settle()
    change.know()
    engine.settle()
    disks.settle()
    outcome["deaths"][what] += 1
    outcome["changes"][change.name] += 1


def noticed(engine: Engine, host: StorageHost, pid: int, term: int) -> bool:
    """The role is given up, maybe taken anew since (a rebuilt master's is), or the worker that had it is gone."""
    try:
        status = engine.spm_status(host)
        return host.house.worker("storage")["pid"] != pid or (status["spmStatus"], status["spmLver"]) != ("SPM", term)
    except Error:
        return True  # of no pool any more


def check(engine: Engine) -> None:
    """Disk, hosts and an outsider agree with the engine's database."""
    pool = engine.pool
    if engine.second is not None:
        engine.second.check()
    eventually(lambda: masters(engine) == [pool.master], within_s=30)
    for sd_id in engine.device_of:
        meta = engine.meta(sd_id)
        attached = pool.status.get(sd_id)
        assert meta.pool_ids == ((pool.pool_id,) if attached else ()), (sd_id, meta.pool_ids, attached)
        assert engine.meta(sd_id, engine.hosts[1]) == meta
        for host in engine.hosts:
            info = again(partial(host.call, "StorageDomain.getInfo", storagedomainID=sd_id))
            told = (info["role"], info["pool"], info["version"], info["name"])
            assert told == (meta.role.value, list(meta.pool_ids), str(meta.version), meta.name), (told, meta)
        assert_volumes(engine, sd_id)
        left = [p.name for p in engine.directory(sd_id).parent.iterdir() if p.name not in (sd_id, "lost+found")]
        # What somebody else may be making or trying this minute goes when it is a day old.
        assert [name for name in left if not name.startswith((".prob-", ".creating-"))] == [], left
    for sd_id in [one for one, status in pool.status.items() if status == "Active"]:
        assert engine.meta(sd_id).version == int(pool.version), sd_id
        assert (engine.directory(sd_id) / "dom_md/xleases").exists() == (int(pool.version) >= 4)
    check_hosts(engine)
    if not engine.memory:
        told = decode_pool(pool.master, engine.meta(pool.master).pairs)
        assert (told.domains, told.master_version, told.spm_id) == (
            pool.status,
            pool.master_version,
            engine.spm.host_id,
        ), told
    owner, timestamp = sdm(engine.directory(pool.master))
    assert (owner, timestamp > 0) == (engine.spm.host_id, True), (owner, timestamp)
    request = Extend(pool.master, str(uuid.uuid4()), 1024)
    reply = Neighbour(engine.directory(pool.master) / "dom_md", 9).ask(0, request)
    assert reply == failed(request.encode())


def masters(engine: Engine) -> list[str]:
    return [sd_id for sd_id in engine.device_of if engine.meta(sd_id).role.value == "Master"]


def assert_volumes(engine: Engine, sd_id: str) -> None:
    for image_id, volume_id in engine.volumes[sd_id]:
        path = engine.directory(sd_id) / "images" / image_id / volume_id
        found = from_bytes(volume_id, path.with_name(f"{volume_id}.meta").read_bytes())
        assert (found.sd_id, found.image_id, found.legality, found.capacity) == (sd_id, image_id, "LEGAL", MIB), found
        assert path.stat().st_size == MIB
        assert path.with_name(f"{volume_id}.lease").stat().st_size == MIB


def check_hosts(engine: Engine) -> None:
    pool = engine.pool
    active = {sd_id for sd_id, status in pool.status.items() if status == "Active"}
    for host in engine.hosts:
        info = host.call("StoragePool.getInfo", storagepoolID=pool.pool_id)
        assert (info["info"]["master_uuid"], info["info"]["master_ver"]) == (pool.master, pool.master_version)
        assert {sd_id: row["status"] for sd_id, row in info["dominfo"].items()} == pool.status
        status = eventually(partial(spm_seen, engine, host), within_s=30)
        assert (status["spmStatus"] == "SPM") == (host is engine.spm), status
        directory = host.repository / pool.pool_id
        wanted = {sd_id: engine.directory(sd_id, host) for sd_id in active}
        wanted["mastersd"] = wanted[pool.master]
        eventually(lambda d=directory, w=wanted: {p.name: Path(os.readlink(p)) for p in d.iterdir()} == w, within_s=30)  # type: ignore[misc]
        eventually(partial(healthy, host, active), within_s=60)


def spm_seen(engine: Engine, host: StorageHost) -> dict[str, Any] | None:
    status = engine.spm_status(host)
    return status if status["spmId"] == engine.spm.host_id else None


def healthy(host: StorageHost, active: set[str]) -> bool:
    """Every active domain is watched, seen to be good, and this host has its host id there."""
    found = host.call("Host.getStorageRepoStats", domains=[])
    return set(found) == active and all(row["actual"] and row["valid"] and row["acquired"] for row in found.values())


def sdm(directory: Path) -> tuple[int, int]:
    """(owner, timestamp) of the lease, read without our own reader."""
    with (directory / "dom_md/leases").open("rb") as file:
        file.seek(MIB)
        data = file.read(512)
    assert struct.unpack_from("<I", data)[0] == 0x06152010
    return struct.unpack_from("<Q", data, 32)[0], struct.unpack_from("<Q", data, 152)[0]


def main() -> None:
    rounds = int(sys.argv[1])
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else random.randrange(2**32)
    print(f"seed {seed}", file=sys.stderr)
    outcome: dict[str, Any] = {"rounds": 0, "seed": seed, "deaths": Counter(), "changes": Counter(), "problems": []}
    with contextlib.ExitStack() as stack:
        place = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="pool-", dir="/tmp")))
        place.chmod(0o755)
        os.environ["PATH"] = f"{slow_sparsifier(place / 'bin')}:{os.environ['PATH']}"
        hosts, devices = stack.enter_context(storage_hosts(devices=4, table="tests.support.pool_table"))
        engine = Engine(hosts, devices[:3], seed, memory="disk" not in sys.argv[3:])
        engine.second = SecondPool(engine, devices[3])
        disks = Disks(engine, hosts[0].house.root / "ledger")
        try:
            engine.make()
            check(engine)
            for outcome["rounds"] in range(1, rounds + 1):
                play(engine, disks, outcome)
                check(engine)
        except Exception:
            outcome["problems"].append(traceback.format_exc()[-3000:])
            for host in hosts:
                print(f"--- host {host.host_id}\n{host.house.log_text()[-15000:]}", file=sys.stderr)
        finally:
            disks.stop()
        outcome["disks"] = disks.told
    print(json.dumps(outcome))


if __name__ == "__main__":
    main()
