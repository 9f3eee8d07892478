# SPDX-License-Identifier: Apache-2.0
"""SDM.sparsify_volume, with virt-sparsify where there is one."""

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.support import appliance
from tests.support.eventually import eventually
from tests.support.needs import needs_program
from tests.support.storage_room import MIB, RAW, StorageRoom, new_id
from vdsm_mp.common.errors import Error
from vdsm_mp.storage import image_sparsify

pytestmark = [needs_program("qemu-img", "mkfs.ext4"), pytest.mark.timeout(450)]


def sparsify(house: StorageRoom, image_id: str, volume_id: str) -> str:
    ref = {"sd_id": house.sd_id, "img_id": image_id, "vol_id": volume_id, "generation": 0}
    job_id = new_id()
    house.call("SDM.sparsify_volume", job_id=job_id, vol_info=ref)
    return job_id


def refused(house: StorageRoom, image_id: str, volume_id: str) -> tuple[int, str]:
    with pytest.raises(Error) as e:
        sparsify(house, image_id, volume_id)
    assert house.info(image_id, volume_id)["generation"] == 0
    return e.value.code, str(e.value)


def a_program(directory: Path) -> None:
    """On PATH, and never run."""
    (directory / "virt-sparsify").write_text("#!/bin/false\n")
    (directory / "virt-sparsify").chmod(0o755)


def test_a_host_without_the_program_says_so_before_anything_is_begun(
    house: StorageRoom, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image_id, volume_id = house.create()
    monkeypatch.setenv("PATH", str(tmp_path))
    code, said = refused(house, image_id, volume_id)
    assert code == 250
    assert "virt-sparsify is not installed on this host" in said


def test_only_a_leaf_is_sparsified(house: StorageRoom, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    a_program(tmp_path)
    template_image, template = house.make_template()
    image_id, base = house.create()
    house.create(image_id, srcImgUUID=image_id, srcVolUUID=base)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert refused(house, template_image, template)[0] == 219
    assert refused(house, image_id, base)[0] == 220


def test_what_the_program_says_is_the_error_of_the_job(
    house: StorageRoom, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    a_program(tmp_path)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    image_id, volume_id = house.create()
    job_id = sparsify(house, image_id, volume_id)
    job = eventually(lambda: ended(house, job_id))
    assert job is not None
    assert (job["status"], job["error"]["code"]) == ("failed", 250)
    assert house.info(image_id, volume_id)["generation"] == 0
    assert house.info(image_id, volume_id)["legality"] == "LEGAL"


def ended(house: StorageRoom, job_id: str) -> dict[str, Any] | None:
    job: dict[str, Any] = house.call("internal.storage_jobs")[job_id]
    return job if job["status"] in ("done", "failed") else None


def test_space_that_a_file_system_does_not_use_is_given_back(
    house: StorageRoom, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    appliance.prepare(monkeypatch, "virt-sparsify", image_sparsify)
    image_id, volume_id = house.create(volFormat=RAW, size=str(64 * MIB))
    path = house.image(image_id) / volume_id
    subprocess.run(["mkfs.ext4", "-q", "-F", "-E", "nodiscard", path], check=True)
    (tmp_path / "junk").write_bytes(os.urandom(20 * MIB))
    for command in (f"write {tmp_path}/junk junk", "rm junk"):
        subprocess.run(["debugfs", "-w", "-R", command, path], check=True, capture_output=True)
    before = path.stat().st_blocks * 512
    assert before > 20 * MIB
    job_id = sparsify(house, image_id, volume_id)
    job = eventually(lambda: ended(house, job_id), within_s=400)
    assert job is not None
    assert job["status"] == "done", job
    assert path.stat().st_blocks * 512 < before - 15 * MIB
    subprocess.run(["fsck.ext4", "-fn", path], check=True, capture_output=True)
    assert house.info(image_id, volume_id)["generation"] == 1
