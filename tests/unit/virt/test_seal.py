# SPDX-License-Identifier: Apache-2.0
"""VM.seal on libvirt's own test driver, with virt-sysprep where there is one, and a program in its place elsewhere."""

import os
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support import appliance
from tests.support.eventually import eventually
from tests.support.virt_room import VirtRoom
from vdsm_mp.api.errors_virt import SealFailed
from vdsm_mp.api.internal import GetVirtJobs
from vdsm_mp.virt import seal

POOL = str(uuid.uuid4())


@pytest.fixture
def room(tmp_path: Path) -> Iterator[VirtRoom]:
    with VirtRoom("test:///default", tmp_path) as room:
        yield room


def disk(room: VirtRoom, folder: Path, *form: str) -> dict[str, str]:
    """A volume of 32 MiB; its ids as a client names them."""
    ids = {"sd_id": str(uuid.uuid4()), "img_id": str(uuid.uuid4()), "vol_id": str(uuid.uuid4())}
    path = folder / ids["vol_id"]
    subprocess.run(["qemu-img", "create", "-q", *form, str(path), "32M"], check=True, timeout=30)
    room.storage.images[ids["img_id"]] = path
    return ids


def sealed(room: VirtRoom, *images: dict[str, str]) -> dict[str, Any]:
    """The job when it has ended."""
    job_id = str(uuid.uuid4())
    room.call("VM.seal", vmID=str(uuid.uuid4()), job_id=job_id, sp_id=POOL, images=list(images))

    def over() -> Any:
        job = room.ask(GetVirtJobs())[job_id]
        return job if job["status"] in ("done", "failed") else None

    job = eventually(over, within_s=400)
    assert isinstance(job, dict)
    return job


def in_place_of_sysprep(folder: Path, monkeypatch: pytest.MonkeyPatch, body: str) -> None:
    program = folder / "virt-sysprep"
    program.write_text(f"#!/bin/sh\n{body}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")


def test_a_host_without_the_program_says_so_before_anything_is_begun(
    room: VirtRoom, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = disk(room, tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    with pytest.raises(SealFailed, match="not installed"):
        sealed(room, image)
    assert room.storage.prepared == []


@pytest.mark.parametrize("images", [[], [{"sd_id": "x"}], [{"sd_id": POOL, "img_id": POOL}]])
def test_disks_are_named_by_three_ids(room: VirtRoom, images: list[dict[str, str]]) -> None:
    with pytest.raises(SealFailed):
        sealed(room, *images)


def test_all_disks_go_into_one_run_by_their_own_formats_and_come_back(
    room: VirtRoom, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw, cow = disk(room, tmp_path, "-f", "raw"), disk(room, tmp_path, "-f", "qcow2")
    in_place_of_sysprep(tmp_path, monkeypatch, f'echo "$@" >> {tmp_path}/seen')
    assert sealed(room, raw, cow)["status"] == "done"
    expected = f"--format raw --add {tmp_path / raw['vol_id']} --format qcow2 --add {tmp_path / cow['vol_id']}\n"
    assert (tmp_path / "seen").read_text() == expected
    assert all(asked.allow_illegal for asked in room.storage.prepared)
    assert room.storage.released == [raw["img_id"], cow["img_id"]]


def test_what_the_program_says_is_the_error_of_the_job(
    room: VirtRoom, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = disk(room, tmp_path)
    said = f"echo no operating system found >&2; touch $TMPDIR/left; echo $TMPDIR > {tmp_path}/place; exit 1"
    in_place_of_sysprep(tmp_path, monkeypatch, said)
    job = sealed(room, image)
    assert not Path((tmp_path / "place").read_text().strip()).exists()
    assert job["status"] == "failed"
    assert "no operating system found" in job["error"]["message"]
    assert room.storage.released == [image["img_id"]]


def test_a_disk_that_is_not_there_fails_the_job_and_the_others_come_back(
    room: VirtRoom, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = disk(room, tmp_path)
    in_place_of_sysprep(tmp_path, monkeypatch, "exit 0")
    missing = {key: str(uuid.uuid4()) for key in image}
    assert sealed(room, image, missing)["status"] == "failed"
    assert image["img_id"] in room.storage.released


@pytest.mark.timeout(450)
def test_the_real_program_looks_into_the_disk(room: VirtRoom, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    appliance.prepare(monkeypatch, "virt-sysprep", seal)
    job = sealed(room, disk(room, tmp_path))
    assert job["status"] == "failed"
    assert "no operating systems were found" in job["error"]["message"]
