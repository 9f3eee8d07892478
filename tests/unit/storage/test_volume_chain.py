# SPDX-License-Identifier: Apache-2.0
"""Chains, against what VDSM reads in its own domains and against what must not be believed."""

from pathlib import Path

import pytest
from msgspec.structs import replace

from tests.support import domains
from vdsm_mp.api.errors_volume import ImageDoesNotExist, ImageIsNotLegalChain, VolumeDoesNotExist
from vdsm_mp.api.types import BLANK
from vdsm_mp.storage.volume_chain import chain_of, chain_to, children_of
from vdsm_mp.storage.volume_metadata import VolumeMetadata, from_bytes

IMAGE = "439e5e46-f8b1-5899-8b38-4ef7f033ee80"
BASE, MIDDLE, LEAF, TEMPLATE = (f"{n}0000000-0000-0000-0000-000000000000" for n in (1, 2, 3, 4))

one = VolumeMetadata(2**20, 0, "", "DATA", "sd", "COW", 0, IMAGE, "LEGAL", BLANK, "SPARSE", "INTERNAL")
VOLUMES = {BASE: one, MIDDLE: replace(one, parent=BASE), LEAF: replace(one, parent=MIDDLE, voltype="LEAF")}


def test_chains_of_vdsm_are_walked_as_vdsm_does(tmp_path: Path) -> None:
    for domain in domains.unpack(tmp_path).values():
        for image_id, chain in domain.facts["chains"].items():
            volumes = {
                path.name.removesuffix(".meta"): from_bytes(path.name, path.read_bytes())
                for path in (domain.root / "images" / image_id).glob("*.meta")
            }
            assert chain_of(volumes, image_id, domain.sd_id) == chain
            assert chain_to(volumes, image_id, chain[-1]) == chain


def test_a_chain_ends_at_any_volume_that_is_asked_for() -> None:
    assert chain_to(VOLUMES, IMAGE, LEAF) == [BASE, MIDDLE, LEAF]
    assert chain_to(VOLUMES, IMAGE, MIDDLE) == [BASE, MIDDLE]
    assert chain_of(VOLUMES, IMAGE, "sd") == [BASE, MIDDLE, LEAF]


def test_a_template_ends_a_chain_whatever_its_own_parent_says() -> None:
    template = replace(one, voltype="SHARED", image_id="other", parent=TEMPLATE)
    volumes = {**VOLUMES, BASE: template}
    assert chain_of(volumes, IMAGE, "sd") == [BASE, MIDDLE, LEAF]


def test_a_template_alone_is_its_own_chain() -> None:
    assert chain_of({TEMPLATE: replace(one, voltype="SHARED")}, IMAGE, "sd") == [TEMPLATE]


def test_circles_holes_and_two_leaves_are_no_chains() -> None:
    for bad in (
        {**VOLUMES, BASE: replace(one, parent=MIDDLE)},
        {**VOLUMES, BASE: replace(one, parent=BASE)},
        {LEAF: VOLUMES[LEAF], BASE: one},
        {**VOLUMES, TEMPLATE: VOLUMES[LEAF]},
        {BASE: one},
    ):
        with pytest.raises(ImageIsNotLegalChain):
            chain_of(bad, IMAGE, "sd")


def test_what_is_not_there_is_told_by_name() -> None:
    with pytest.raises(ImageDoesNotExist):
        chain_of({}, IMAGE, "sd")
    with pytest.raises(ImageDoesNotExist):
        chain_of({TEMPLATE: replace(one, image_id="other", voltype="SHARED")}, IMAGE, "sd")
    with pytest.raises(VolumeDoesNotExist):
        chain_to(VOLUMES, IMAGE, TEMPLATE)


def test_children_are_those_that_stand_on_a_volume() -> None:
    assert children_of(VOLUMES, BASE) == [MIDDLE]
    assert children_of(VOLUMES, LEAF) == []
