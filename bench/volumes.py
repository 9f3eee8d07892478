# SPDX-License-Identifier: Apache-2.0
"""Volumes on a local domain, through the storage room's verbs, beside the bare programs and syncs in the same run.

    python -m bench.volumes [--count 100] [--many 2000] [--copy-mib 1024]

The room is called as its worker calls it, without bus and door. "bare create" is what cannot be left out: qemu-img,
and a sync for each of the files that must last (volume, metadata, task before and after) and of their directories.
"""

import argparse
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from tests.support.eventually import eventually
from tests.support.storage_room import MIB, RAW, StorageRoom, new_id


def measure(count: int = 100, many: int = 2000, copy_mib: int = 1024) -> dict[str, float]:
    """Figures by name: ms each unless the name says otherwise."""
    place = Path(tempfile.mkdtemp(prefix="vdsm-mp-bench-", dir="/var/tmp"))
    house = StorageRoom(place).make()
    try:
        return {
            **_volumes(house, count),
            "bare create": _each_ms(count, lambda: _bare_create(place / "bare" / new_id())),
            **_many(house, many),
            **_copy(house, copy_mib),
        }
    finally:
        house.stop()
        shutil.rmtree(place)


def ratios(found: dict[str, float]) -> dict[str, float]:
    return {
        "create, of bare create": found["create"] / found["bare create"],
        "copy_data, of bare convert": found["copy_data"] / found["bare convert"],
    }


def _each_ms(count: int, call: Callable[[], object]) -> float:
    began = time.perf_counter()
    for _ in range(count):
        call()
    return (time.perf_counter() - began) * 1000 / count


def _volumes(house: StorageRoom, count: int) -> dict[str, float]:
    made: list[tuple[str, str]] = []
    create = _each_ms(count, lambda: made.append(house.create()))
    info = _each_ms(count, lambda: house.info(*made[0]))
    began = time.perf_counter()
    for task_id in [house.start_create(new_id(), new_id()) for _ in range(count)]:
        house.finished(task_id)
    burst = (time.perf_counter() - began) * 1000 / count
    ids = {"storagepoolID": house.pool_id, "storagedomainID": house.sd_id, "postZero": False, "force": False}
    waiting = iter(made)
    delete = _each_ms(count, lambda: house.finished(house.call("Image.delete", imageID=next(waiting)[0], **ids)))
    return {"create": create, "create in a burst": burst, "getInfo": info, "delete image": delete}


def _bare_create(image: Path) -> None:
    task = image / "task"
    task.mkdir(parents=True)
    volume = image / "volume"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", "-o", "compat=1.1", volume, "16M"], check=True)
    _sync(volume)
    _write(image / "meta", b"x" * 300)
    for n in range(11):  # the files of a task, as it is stored twice
        _write(task / str(n), b"x" * 200)
    for directory in (task, task, image, image.parent):
        _sync(directory)


def _write(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _sync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _many(house: StorageRoom, count: int) -> dict[str, float]:
    """A domain of so many volumes, made by copying files: what a look at one of them, and at all, costs."""
    image_id, volume_id = house.create(volFormat=RAW, size=str(MIB))
    source = house.image(image_id)
    text = (source / f"{volume_id}.meta").read_text()
    ids = [(new_id(), new_id()) for _ in range(count)]
    for other_image, other in ids:
        house.image(other_image).mkdir()
        (house.image(other_image) / f"{other}.meta").write_text(text.replace(image_id, other_image))
        (house.image(other_image) / other).write_bytes(b"")
    waiting = iter(ids)
    info = _each_ms(min(count, 500), lambda: house.info(*next(waiting)))
    listing = _each_ms(1, lambda: house.call("StorageDomain.getImages", storagedomainID=house.sd_id))
    for other_image, _ in ids:
        shutil.rmtree(house.image(other_image))
    return {f"getInfo among {count} volumes": info, f"list {count} images": listing}


def _copy(house: StorageRoom, mib: int) -> dict[str, float]:
    source_image, source = house.create(volFormat=RAW, size=str(mib * MIB))
    some = os.urandom(8 * MIB)
    with (house.image(source_image) / source).open("r+b") as disk:
        for n in range(0, mib, 16):
            disk.seek(n * MIB)
            disk.write(some)
        os.fsync(disk.fileno())
    image_id, leaf = house.create(volFormat=RAW, size=str(mib * MIB))
    path, bare = house.image(source_image) / source, house.root / "bare copy"
    argv = ["qemu-img", "convert", "-t", "none", "-T", "none", "-f", "raw", "-O", "raw", path, bare]
    ref = {"endpoint_type": "div", "sd_id": house.sd_id}
    one = {**ref, "img_id": source_image, "vol_id": source}
    other = {**ref, "img_id": image_id, "vol_id": leaf}

    def copy_data() -> None:
        job_id = new_id()
        house.call("SDM.copy_data", job_id=job_id, source=one, destination=other)
        eventually(lambda: house.call("internal.storage_jobs")[job_id]["status"] == "done", within_s=600)

    bare_ms = min(_each_ms(1, lambda: subprocess.run(argv, check=True)) for _ in range(3))
    return {"bare convert": bare_ms, "copy_data": min(_each_ms(1, copy_data) for _ in range(3))}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--many", type=int, default=2000)
    parser.add_argument("--copy-mib", type=int, default=1024)
    options = parser.parse_args()
    found = measure(options.count, options.many, options.copy_mib)
    for what, value in [*found.items(), *ratios(found).items()]:
        print(f"{what:52}{value:12.2f}")


if __name__ == "__main__":
    main()
