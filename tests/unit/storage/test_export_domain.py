# SPDX-License-Identifier: Apache-2.0
"""Images on their way to an export domain and back, and placeholders of templates there."""

import os
import subprocess
from pathlib import Path

import pytest

from tests.support.needs import needs_program
from tests.support.storage_room import (
    COW,
    MIB,
    RAW,
    SPARSE,
    StorageRoom,
    new_id,
    qemu_info,
    same_content,
    slow_copies,
    write_pattern,
)
from vdsm_mp.common.errors import Error

pytestmark = [needs_program("qemu-img", "qemu-io"), pytest.mark.timeout(60)]

COPY, MOVE = 1, 2


@pytest.fixture
def export(spm: StorageRoom) -> str:
    return spm.add_domain(domain_class=3, version=0)


def move(
    spm: StorageRoom, image_id: str, source: str, target: str, operation: int = COPY, *, force: bool = False
) -> tuple[str, int]:
    return spm.outcome(
        "Image.move",
        imageID=image_id,
        storagepoolID=spm.pool_id,
        storagedomainID=source,
        dstSdUUID=target,
        operation=operation,
        postZero=False,
        force=force,
    )


def collapse(
    spm: StorageRoom, image_id: str, volume_id: str, source: str, target: str, *, force: bool = False, role: int = 6
) -> tuple[str, int]:
    """As an engine copies a template to another domain."""
    return spm.outcome(
        "Volume.copy",
        **spm.names(image_id, volume_id, source),
        dstSdUUID=target,
        dstImgUUID=image_id,
        dstVolUUID=volume_id,
        desc="",
        volType=role,
        volFormat=3,
        preallocate=0,
        postZero=False,
        force=force,
    )


def delete(spm: StorageRoom, sd_id: str, image_id: str) -> tuple[str, int]:
    ids = {"storagepoolID": spm.pool_id, "storagedomainID": sd_id, "imageID": image_id}
    return spm.outcome("Image.delete", **ids, postZero=False, force=False)


OK = ("success", 0)


def vm_on_template(spm: StorageRoom) -> tuple[str, str, str, str]:
    """(template's image, template, image, volume); the template is raw and has data, and so has the volume."""
    template_image, template = spm.make_template(volFormat=RAW)
    write_pattern(spm.image(template_image) / template, "raw", 0x11, 0, MIB)
    image_id, volume_id = spm.create(srcImgUUID=template_image, srcVolUUID=template, volFormat=COW, preallocate=SPARSE)
    write_pattern(spm.image(image_id) / volume_id, "qcow2", 0x22, 2 * MIB, MIB)
    return template_image, template, image_id, volume_id


def test_a_chain_goes_to_an_export_domain_and_comes_back(spm: StorageRoom, export: str) -> None:
    image_id, base = spm.create()
    write_pattern(spm.image(image_id) / base, "qcow2", 0x31, 0, MIB)
    _, leaf = spm.create(image_id, srcImgUUID=image_id, srcVolUUID=base)
    write_pattern(spm.image(image_id) / leaf, "qcow2", 0x32, MIB, MIB)
    before = spm.root / f"{leaf}.raw"
    convert(spm.image(image_id) / leaf, before)

    assert move(spm, image_id, spm.sd_id, export, MOVE) == OK
    assert not spm.image(image_id).exists()
    there = spm.domain_of(export) / "images" / image_id
    assert {p.name for p in there.iterdir()} == {base, leaf, f"{base}.meta", f"{leaf}.meta"}
    assert "SIZE=32768\n" in (there / f"{leaf}.meta").read_text()
    assert qemu_info(there / leaf)["format-specific"]["data"]["compat"] == "0.10"
    assert spm.call("StorageDomain.getImages", storagedomainID=export) == [image_id]
    assert spm.info(image_id, leaf, export)["capacity"] == str(16 * MIB)
    assert same_content(there / leaf, "qcow2", before, "raw")

    assert move(spm, image_id, export, spm.sd_id) == OK
    assert same_content(spm.image(image_id) / leaf, "qcow2", before, "raw")
    assert spm.info(image_id, leaf)["voltype"] == "LEAF"
    assert delete(spm, export, image_id) == OK
    assert list(there.parent.iterdir()) == []


def convert(source: Path, target: Path) -> None:
    subprocess.run(["qemu-img", "convert", "-O", "raw", source, target], check=True)


def test_an_image_without_its_template_stands_on_a_placeholder_there(spm: StorageRoom, export: str) -> None:
    template_image, template, image_id, volume_id = vm_on_template(spm)
    assert move(spm, image_id, spm.sd_id, export) == OK
    fake = spm.info(template_image, template, export)
    assert (fake["legality"], fake["voltype"], fake["format"], fake["description"]) == (
        "FAKE",
        "SHARED",
        "COW",
        "Fake volume",
    )
    images = spm.domain_of(export) / "images"
    assert (images / image_id / template).samefile(images / template_image / template)
    assert qemu_info(images / image_id / volume_id)["backing-filename-format"] == "qcow2"

    # Back to where the real one is, which is raw.
    assert delete(spm, spm.sd_id, image_id) == OK
    assert move(spm, image_id, export, spm.sd_id) == OK
    info = qemu_info(spm.image(image_id) / volume_id)
    assert (info["backing-filename"], info["backing-filename-format"]) == (template, "raw")
    for pattern, offset in ((0x11, 0), (0x22, 2 * MIB)):
        expect_pattern(spm, image_id, volume_id, pattern, offset)


def expect_pattern(spm: StorageRoom, image_id: str, volume_id: str, pattern: int, offset: int) -> None:
    out = spm.root / f"{volume_id}-{offset}.raw"
    convert(spm.image(image_id) / volume_id, out)
    with out.open("rb") as file:
        file.seek(offset)
        assert set(file.read(MIB)) == {pattern}


def test_the_real_template_takes_the_place_of_its_placeholder(spm: StorageRoom, export: str) -> None:
    template_image, template, image_id, _ = vm_on_template(spm)
    second, _ = spm.create(srcImgUUID=template_image, srcVolUUID=template)
    for one in (image_id, second):
        assert move(spm, one, spm.sd_id, export) == OK
    assert collapse(spm, template_image, template, spm.sd_id, export) == OK
    images = spm.domain_of(export) / "images"
    for one in (image_id, second):
        for suffix in ("", ".meta"):
            assert (images / one / f"{template}{suffix}").samefile(images / template_image / f"{template}{suffix}")
    real = spm.info(template_image, template, export)
    assert (real["legality"], real["voltype"], real["format"]) == ("LEGAL", "SHARED", "RAW")
    assert set((images / template_image / template).read_bytes()[:MIB]) == {0x11}
    # Not twice, as it is real now.
    with pytest.raises(Error, match="exists"):
        collapse(spm, template_image, template, spm.sd_id, export)


def test_a_placeholder_gives_way_to_the_template_as_an_image_as_well(spm: StorageRoom, export: str) -> None:
    template_image, template, image_id, _ = vm_on_template(spm)
    assert move(spm, image_id, spm.sd_id, export) == OK
    assert move(spm, template_image, spm.sd_id, export) == OK
    images = spm.domain_of(export) / "images"
    for suffix in ("", ".meta"):
        assert (images / image_id / f"{template}{suffix}").samefile(images / template_image / f"{template}{suffix}")
    real = spm.info(template_image, template, export)
    assert (real["legality"], real["voltype"], real["format"]) == ("LEGAL", "SHARED", "RAW")
    assert set((images / template_image / template).read_bytes()[:MIB]) == {0x11}


@pytest.mark.parametrize("with_template", [True, False])
def test_an_image_is_exported_over_its_last_export(spm: StorageRoom, export: str, *, with_template: bool) -> None:
    template_image, template, image_id, volume_id = vm_on_template(spm)
    if with_template:
        assert collapse(spm, template_image, template, spm.sd_id, export) == OK
    assert move(spm, image_id, spm.sd_id, export) == OK
    write_pattern(spm.image(image_id) / volume_id, "qcow2", 0x44, 2 * MIB, MIB)
    assert move(spm, image_id, spm.sd_id, export, force=True) == OK
    there = spm.domain_of(export) / "images" / image_id
    assert (there / template).samefile(there.with_name(template_image) / template)
    assert {path.name for path in there.iterdir()} == {path.name for path in spm.image(image_id).iterdir()}
    if with_template:
        assert same_content(there / volume_id, "qcow2", spm.image(image_id) / volume_id, "qcow2")


def test_nothing_of_the_last_export_is_left_when_the_chain_is_another_now(spm: StorageRoom, export: str) -> None:
    image_id, base = spm.create()
    _, gone = spm.create(image_id, srcImgUUID=image_id, srcVolUUID=base)
    assert move(spm, image_id, spm.sd_id, export) == OK
    names = {"storagepoolID": spm.pool_id, "storagedomainID": spm.sd_id, "imageID": image_id}
    assert spm.outcome("Image.deleteVolumes", **names, volumeList=[gone], postZero=False, force=False) == OK
    _, leaf = spm.create(image_id, srcImgUUID=image_id, srcVolUUID=base)
    assert move(spm, image_id, spm.sd_id, export, force=True) == OK
    found = spm.call("Image.getVolumes", **names | {"storagedomainID": export})
    assert sorted(found) == sorted([base, leaf])
    assert move(spm, image_id, export, spm.add_domain()) == OK


def test_a_whole_chain_gives_way_to_the_one_volume_that_it_is_now(spm: StorageRoom, export: str) -> None:
    image_id, base = spm.create()
    _, leaf = spm.create(image_id, srcImgUUID=image_id, srcVolUUID=base)
    assert move(spm, image_id, spm.sd_id, export) == OK
    assert collapse(spm, image_id, leaf, spm.sd_id, export, force=True, role=8) == OK
    assert {path.name for path in (spm.domain_of(export) / "images" / image_id).iterdir()} == {leaf, f"{leaf}.meta"}
    assert move(spm, image_id, export, spm.add_domain()) == OK


def test_the_last_export_stays_when_a_new_one_cannot_begin(spm: StorageRoom, export: str) -> None:
    image_id, leaf = spm.create()
    assert move(spm, image_id, spm.sd_id, export) == OK
    there = spm.domain_of(export) / "images" / image_id

    def files() -> dict[str, tuple[int, int, int]]:
        """Whoever reads them may change their access times."""
        stats = {path.name: path.stat() for path in there.iterdir()}
        return {name: (one.st_ino, one.st_size, one.st_mtime_ns) for name, one in stats.items()}

    before = files()
    source = spm.image(image_id) / leaf
    subprocess.run(
        ["qemu-img", "create", "-q", "-f", "qcow2", "-u", "-b", "/etc/passwd", "-F", "raw", source, "1M"], check=True
    )
    assert move(spm, image_id, spm.sd_id, export, force=True) == ("cleanSuccess", 262)
    assert collapse(spm, image_id, leaf, spm.sd_id, export, force=True, role=8) == ("cleanSuccess", 262)
    assert files() == before
    assert move(spm, image_id, export, spm.add_domain()) == OK


def test_a_second_export_that_waited_for_the_first_leaves_it_alone(
    spm: StorageRoom, export: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image_id, volume_id = spm.create()
    write_pattern(spm.image(image_id) / volume_id, "qcow2", 0x51, 0, 16 * MIB)
    monkeypatch.setenv("PATH", f"{slow_copies(tmp_path / 'bin', 16 * MIB)}:{os.environ['PATH']}")
    first, second = (
        spm.call(
            "Image.move",
            imageID=image_id,
            storagepoolID=spm.pool_id,
            storagedomainID=spm.sd_id,
            dstSdUUID=export,
            operation=COPY,
            postZero=False,
            force=False,
        )
        for _ in range(2)
    )
    spm.finished(first)
    status = spm.ended(second)
    spm.call("Task.clear", taskID=second)
    assert (status["taskResult"], status["code"]) == ("cleanSuccess", 212)
    there = spm.domain_of(export) / "images" / image_id / volume_id
    assert same_content(there, "qcow2", spm.image(image_id) / volume_id, "qcow2")


def test_a_template_that_is_used_may_go_from_an_export_domain_and_leaves_a_placeholder(
    spm: StorageRoom, export: str
) -> None:
    template_image, template, image_id, _ = vm_on_template(spm)
    assert collapse(spm, template_image, template, spm.sd_id, export) == OK
    assert move(spm, image_id, spm.sd_id, export) == OK
    assert spm.info(template_image, template, export)["legality"] == "LEGAL"
    assert delete(spm, export, template_image) == OK
    assert spm.info(template_image, template, export)["legality"] == "FAKE"
    assert delete(spm, export, image_id) == OK
    assert delete(spm, export, template_image) == OK
    assert list((spm.domain_of(export) / "images").iterdir()) == []


def test_a_placeholder_that_was_cut_short_is_made_anew(spm: StorageRoom, export: str) -> None:
    template_image, template, image_id, _ = vm_on_template(spm)
    assert move(spm, image_id, spm.sd_id, export) == OK
    meta = spm.domain_of(export) / "images" / template_image / f"{template}.meta"
    meta.write_text(meta.read_text().replace("FAKE", "ILLEGAL").replace("SHARED", "LEAF"))
    assert delete(spm, export, image_id) == OK
    assert move(spm, image_id, spm.sd_id, export) == OK
    assert spm.info(template_image, template, export)["legality"] == "FAKE"


def test_an_unknown_image_is_told_on_an_export_domain(spm: StorageRoom, export: str) -> None:
    with pytest.raises(Error, match=r"Image .* does not exist in domain"):
        move(spm, new_id(), export, spm.sd_id)
