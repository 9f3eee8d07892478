# SPDX-License-Identifier: Apache-2.0
"""TPM and NVRAM contents of a VM, which only root may read and write. Never logged, kept by us only as hashes.

The engine keeps them while a VM is down, and gives them back to the host that starts it (`_X_tpmdata`,
`_X_nvramdata`). A VM whose contents cannot be put in place does not start: with an empty TPM its disks stay locked.
Data are stable after two equal reads; a VM that is just writing must not have half of it stored by the engine.
"""

import base64
import bz2
import hashlib
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

import msgspec
from msgspec.structs import replace

from vdsm_mp.api.errors_virt import CannotCreateVm, ExternalDataFailed, InvalidVmParameter
from vdsm_mp.api.ports import Root
from vdsm_mp.api.verb import handles
from vdsm_mp.api.vm import GetVmExternalData
from vdsm_mp.common import log
from vdsm_mp.common.errors import Error
from vdsm_mp.virt.machine import VmStatus
from vdsm_mp.virt.records import VmRecord
from vdsm_mp.virt.registry import Vms

logger = log.named(__name__)

_OPERATION = {"tpm": "read-tpm", "nvram": "read-nvram"}
#: What a request to root may carry at once; a multiple of three, so that pieces of base64 are whole.
_PIECE = 30_000
_LIMIT = 4 << 20
_BZIP2 = "=0="


class _Read(msgspec.Struct, frozen=True):
    """hash: of the newest read; stable: of the newest content that was read twice, "" when there is none yet."""

    hash: str = ""
    stable: str = ""
    stable_data: str = ""


class ExternalData:
    """Reads through the root helper: `read-tpm` and `read-nvram` give base64 text for a VM's id and name."""

    def __init__(self, vms: Vms, root: Root) -> None:
        self._vms = vms
        self._root = root
        self._known: dict[tuple[str, str], _Read] = {}

    def beat(self) -> None:
        """Read all running VMs that have such data, and show the hashes in their statistics."""
        records = self._vms.all()
        present = {record.vm_id for record in records}
        self._known = {key: read for key, read in self._known.items() if key[0] in present}
        for record in records:
            if record.life.status is VmStatus.DOWN:
                continue
            hashes = {}
            for kind in _kinds(record):
                try:
                    hashes[f"{kind}Hash"] = self._read(record, kind).stable
                except ExternalDataFailed:
                    continue
                except Error as error:
                    logger.warning("vm=%s %s data cannot be read: %s", record.vm_id, kind, error)
            self._show(record.vm_id, {key: value for key, value in hashes.items() if value})

    def get(self, vm_id: str, kind: str, last_hash: str, *, force: bool) -> dict[str, str]:
        """{hash, _X_data}; the data are left out when the asker has them. Raises: ExternalDataFailed, NoSuchVm."""
        if kind not in _OPERATION:
            raise InvalidVmParameter(f"kind {kind!r}")
        record = self._vms.find(vm_id)
        if kind not in _kinds(record):
            raise ExternalDataFailed(f"the virtual machine has no {kind} data")
        read = self._known.get((vm_id, kind), _Read())
        if force or not read.stable:
            read = self._read(record, kind)
        if force and read.stable != read.hash:
            read = self._read(record, kind)
        if not read.stable:
            raise ExternalDataFailed(f"the {kind} data are not stable yet")
        return {"hash": read.stable} | ({} if read.stable == last_hash else {"_X_data": read.stable_data})

    def _read(self, record: VmRecord, kind: str) -> _Read:
        answer = self._root.do(_OPERATION[kind], vm_id=record.vm_id, vm_name=record.name)
        data = str(answer["data"] if isinstance(answer, Mapping) else answer)
        if not data:
            raise ExternalDataFailed(f"there are no {kind} data")
        digest = hashlib.sha256(data.encode()).hexdigest()
        old = self._known.get((record.vm_id, kind), _Read())
        new = _Read(digest, digest, data) if old.hash == digest else _Read(digest, old.stable, old.stable_data)
        self._known[record.vm_id, kind] = new
        return new

    def _show(self, vm_id: str, hashes: Mapping[str, str]) -> None:
        if hashes:
            self._vms.change(vm_id, lambda record: replace(record, external_hashes=dict(hashes)))


def given(params: Mapping[str, Any]) -> dict[str, bytes]:
    """{kind: contents} that VM.create brings. Raises: CannotCreateVm, which does not repeat them."""
    return {kind: _decode(kind, text) for kind in _OPERATION if (text := params.get(f"_X_{kind}data"))}


def put(root: Root, record: VmRecord, contents: Mapping[str, bytes]) -> None:
    """Before the VM starts. record: with the devices of its XML. Raises: CannotCreateVm, PrivilegedFailed."""
    for kind, content in contents.items():
        if kind not in _kinds(record):
            logger.info("vm=%s has no place for the %s data it comes with", record.vm_id, kind)
            continue
        if kind == "nvram" and PurePath(record.devices.nvram_path).name != f"{record.vm_id}.fd":
            raise CannotCreateVm("its NVRAM data are for a file named by its id")
        for offset in range(0, len(content), _PIECE):
            piece = base64.b64encode(content[offset : offset + _PIECE]).decode()
            last = offset + _PIECE >= len(content)
            root.do(f"write-{kind}", vm_id=record.vm_id, offset=offset, data=piece, last=last)
        logger.info("vm=%s %s data are in place, %d bytes", record.vm_id, kind, len(content))


def _decode(kind: str, text: Any) -> bytes:
    """Base64, perhaps in lines; after `=0=`, of what bzip2 made, as upstream's agents write it."""
    try:
        if not isinstance(text, str) or len(text) > 2 * _LIMIT:
            raise ValueError(kind)
        content = base64.b64decode(text.replace("\n", "").removeprefix(_BZIP2), validate=True)
        if text.startswith(_BZIP2):
            content = bz2.BZ2Decompressor().decompress(content, _LIMIT + 1)
        if not content or len(content) > _LIMIT:
            raise ValueError(kind)
    except (OSError, ValueError):
        raise CannotCreateVm(f"_X_{kind}data is not base64 of a sane size") from None
    return content


def _kinds(record: VmRecord) -> list[str]:
    return [kind for kind, there in (("tpm", record.devices.has_tpm), ("nvram", record.devices.nvram_path)) if there]


@handles(GetVmExternalData)
def get_external_data(data: ExternalData, ask: GetVmExternalData) -> dict[str, str]:
    return data.get(ask.vm_id, ask.kind, ask.last_hash or "", force=bool(ask.force_update))
