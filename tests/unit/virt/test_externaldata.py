# SPDX-License-Identifier: Apache-2.0
"""TPM and NVRAM contents that VM.create brings: what is taken, and in which pieces root gets it."""

import base64
import bz2
import os
import uuid
from typing import Any

import pytest
from msgspec.structs import replace

from vdsm_mp.api.errors_virt import CannotCreateVm, ExternalDataFailed
from vdsm_mp.priv.table import OPERATIONS
from vdsm_mp.virt import externaldata
from vdsm_mp.virt.records import Devices, VmRecord

VM = str(uuid.uuid4())


class Pieces:
    """Root port that collects what is written, if the table of operations lets it through."""

    def __init__(self) -> None:
        self.written: dict[str, bytes] = {}
        self.ended: list[str] = []

    def do(self, operation: str, /, *, deadline_s: float = 30.0, **params: Any) -> Any:
        assert OPERATIONS["virt", operation].fault(params) is None
        so_far = self.written.get(operation, b"")
        assert params["offset"] == len(so_far)
        self.written[operation] = so_far + base64.b64decode(params["data"])
        if params["last"]:
            self.ended.append(operation)


def record(*, has_tpm: bool = True, nvram_path: str = f"/var/lib/libvirt/qemu/nvram/{VM}.fd") -> VmRecord:
    return VmRecord(vm_id=VM, name="vm", devices=replace(Devices(), has_tpm=has_tpm, nvram_path=nvram_path))


@pytest.mark.parametrize("size", [1, 30_000, 30_001, 540_672])
def test_contents_arrive_whole_and_end_once(size: int) -> None:
    content, root = os.urandom(size), Pieces()
    text = base64.b64encode(content).decode()
    externaldata.put(root, record(), externaldata.given({"_X_nvramdata": text, "_X_tpmdata": text}))
    assert root.written == {"write-tpm": content, "write-nvram": content}
    assert root.ended == ["write-tpm", "write-nvram"]


def test_compressed_contents_are_taken_too() -> None:
    content = b"variables" * 10_000
    text = "=0=" + base64.b64encode(bz2.compress(content)).decode()
    assert externaldata.given({"_X_nvramdata": text}) == {"nvram": content}


def test_contents_in_lines_are_taken_too() -> None:
    """VDSM 4.4.4 gave them to engines that way."""
    content = os.urandom(1000)
    assert externaldata.given({"_X_tpmdata": base64.encodebytes(content).decode()}) == {"tpm": content}


@pytest.mark.parametrize(
    "text",
    [
        *("secret!", 7, "=0=" + base64.b64encode(b"no bzip2").decode(), "=1=AAAA", "A" * (9 << 20)),
        "=0=" + base64.b64encode(bz2.compress(b"\0" * (64 << 20))).decode(),
    ],
    ids=["no-base64", "no-text", "no-bzip2", "unknown-form", "large", "bomb"],
)
def test_contents_that_make_no_sense_are_refused_and_not_repeated(text: object) -> None:
    with pytest.raises(CannotCreateVm) as caught:
        externaldata.given({"_X_tpmdata": text})
    assert "secret" not in str(caught.value)
    assert caught.value.__suppress_context__


def test_a_vm_without_a_place_for_contents_starts_without_them() -> None:
    root = Pieces()
    externaldata.put(root, record(has_tpm=False, nvram_path=""), {"tpm": b"x", "nvram": b"x"})
    assert root.written == {}
    assert externaldata.given({"_X_tpmdata": "", "_X_nvramdata": None}) == {}


def test_variables_for_a_file_that_root_does_not_write_are_refused() -> None:
    with pytest.raises(CannotCreateVm, match="named by its id"):
        externaldata.put(Pieces(), record(nvram_path="/var/lib/libvirt/qemu/nvram/vm_VARS.fd"), {"nvram": b"x"})


class Kept:
    """Root port whose reads give `data`, and the list of the one VM that has them."""

    def __init__(self, data: str) -> None:
        self.data = data

    def do(self, operation: str, /, *, deadline_s: float = 30.0, **params: Any) -> Any:
        return {"data": self.data, "modified": 1.0}

    def find(self, vm_id: str) -> VmRecord:
        return record()


def test_contents_are_given_under_the_name_that_engines_read() -> None:
    """An engine stores what it finds as `_X_data`, be it nothing, and does not show it in its log."""
    kept: Any = Kept("AAAA")
    data = externaldata.ExternalData(kept, kept)
    first = data.get(VM, "tpm", "", force=True)
    assert first["_X_data"] == "AAAA"
    assert set(first) == {"_X_data", "hash"}
    assert data.get(VM, "tpm", first["hash"], force=False) == {"hash": first["hash"]}


def test_contents_that_are_not_there_are_an_error() -> None:
    """An engine would store the nothing in place of what it has."""
    kept: Any = Kept("")
    with pytest.raises(ExternalDataFailed, match="no nvram data"):
        externaldata.ExternalData(kept, kept).get(VM, "nvram", "", force=True)
