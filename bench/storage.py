# SPDX-License-Identifier: Apache-2.0
"""File storage on a local directory, against bare file operations in the same run. No master, bus or door: a room."""

import os
import shutil
import statistics
import tempfile
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.support.eventually import eventually
from tests.support.storage_room import StorageRoom
from vdsm_mp.api.types import BLANK

_LISTED = 10_000
_WATCHED = 50


def measure(repeats: int) -> dict[str, float]:
    """{what: figure}; times in milliseconds unless the name says otherwise."""
    place = Path(tempfile.mkdtemp(prefix="vdsm-mp-bench-storage-", dir="/var/tmp"))
    try:
        found = _ways(place, repeats)
        found |= _volumes(place / "volumes", 40 * repeats)
        found |= _listing(place / "listing")
        found |= _watching(place / "watching")
        return found
    finally:
        shutil.rmtree(place)


def ratios(found: dict[str, float]) -> dict[str, float]:
    return {
        "nothing -> active data centre, in bare file operations": found["nothing -> active data centre"]
        / found["the same files, bare"],
        "Volume.getInfo, in bare stat and reads": found["Volume.getInfo"] / found["stat and read, bare"],
    }


def _ms(work: Callable[[], Any]) -> float:
    began = time.perf_counter()
    work()
    return (time.perf_counter() - began) * 1000


def _ways(place: Path, repeats: int) -> dict[str, float]:
    ways, bare = [], []
    for n in range(repeats):
        root = place / f"way{n}"
        root.mkdir(parents=True)
        room = StorageRoom(root)
        ways.append(_ms(room.make))
        room.stop()
        bare.append(_ms(lambda: _bare_domain(root / "bare")))  # noqa: B023
    return {
        "nothing -> active data centre": statistics.median(ways),
        "the same files, bare": statistics.median(bare),
    }


def _bare_domain(root: Path) -> None:
    """The directories and files of a domain, each synced as it must be, and its metadata replaced as often."""
    for name in ("", "dom_md", "images", "master", "master/vms", "master/tasks"):
        (root / name).mkdir()
        _sync(root / name)
    for name, size in (("ids", 0), ("leases", 0), ("inbox", 2**24), ("outbox", 2**24), ("metadata", 500)):
        with (root / "dom_md" / name).open("wb") as f:
            f.truncate(size)
            os.fsync(f.fileno())
        _sync(root / "dom_md")
    with (root / "dom_md/metadata.new").open("wb") as f:
        f.write(bytes(500))
        os.fsync(f.fileno())
    (root / "dom_md/metadata.new").rename(root / "dom_md/metadata")
    _sync(root / "dom_md")


def _sync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    os.fsync(fd)
    os.close(fd)


def _volumes(root: Path, count: int) -> dict[str, float]:
    root.mkdir(parents=True)
    room = StorageRoom(root).make()
    began = time.perf_counter()
    made = [room.create() for _ in range(count)]
    creating_s = time.perf_counter() - began
    image_id, volume_id = made[0]
    info = [_ms(lambda: room.info(image_id, volume_id)) for _ in range(200)]
    path = room.image(image_id) / volume_id
    bare = [_ms(lambda: (path.stat(), path.with_suffix(".meta").read_bytes())) for _ in range(200)]
    room.stop()
    return {
        "volumes created, cleared (a second)": count / creating_s,
        "Volume.getInfo": statistics.median(info),
        "stat and read, bare": statistics.median(bare),
    }


def _listing(root: Path) -> dict[str, float]:
    root.mkdir(parents=True)
    room = StorageRoom(root).make()
    image_id, volume_id = room.create()
    template = (room.image(image_id) / f"{volume_id}.meta").read_text()
    for _ in range(_LISTED):
        image, volume = str(uuid.uuid4()), str(uuid.uuid4())
        room.image(image).mkdir()
        (room.image(image) / volume).touch()
        (room.image(image) / f"{volume}.meta").write_text(template.replace(image_id, image))
    found = {
        f"getVolumes of {_LISTED}": _ms(lambda: room.call("StorageDomain.getVolumes", storagedomainID=room.sd_id)),
        f"dump of {_LISTED}": _ms(lambda: room.call("StorageDomain.dump", sd_id=room.sd_id)),
        f"getInfo among {_LISTED}": _ms(lambda: room.info(image_id, volume_id)),
    }
    room.stop()
    return found


def _watching(root: Path) -> dict[str, float]:
    root.mkdir(parents=True)
    room = StorageRoom(root, sd_health_check_delay=1).make()
    for n in range(_WATCHED - 1):
        path = root / f"d{n}"
        path.mkdir()
        row = {"id": str(n), "connection": str(path)}
        params = {"storagepoolID": BLANK, "domainType": 4, "connectionParams": [row]}
        room.call("StoragePool.connectStorageServer", **params)
        sd_id = str(uuid.uuid4())
        spec = {"domainType": 4, "typeArgs": str(path), "name": "d", "domainClass": 1, "version": "5"}
        room.call("StorageDomain.create", storagedomainID=sd_id, **spec)
        room.call("Host.startMonitoringDomain", sdUUID=sd_id, hostID=1)
    eventually(lambda: all(row["actual"] for row in room.call("internal.domain_vitals").values()), within_s=60)
    before, began = _cpu_s(room), time.perf_counter()
    time.sleep(5)
    # Checks come every second here and every ten in earnest.
    share = (_cpu_s(room) - before) / (time.perf_counter() - began) / 10 * 100
    room.stop()
    return {f"monitoring {_WATCHED} domains (% of a CPU)": share}


def _cpu_s(room: StorageRoom) -> float:
    ticks = 0
    for pid in ["self", *room.room.children.pids.values()]:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")
