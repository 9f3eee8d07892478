# SPDX-License-Identifier: Apache-2.0
"""A VM's UEFI variables and TPM state, which belong to QEMU's and swtpm's users. Root side, standard library only.

Written in pieces of base64 because a request line is short. UEFI variables are one file; the TPM state is a folder and
travels as VDSM packs it, a tar of swtpm's folder for the VM that xz compressed: it may come from such a host and go to
one. Names, count and size of its files are checked before anything is written.
"""

import base64
import contextlib
import io
import lzma
import os
import shutil
import stat
import tarfile
import threading
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from vdsm_mp.priv.beneath import open_beneath, open_root
from vdsm_mp.priv.child import Refused
from vdsm_mp.priv.context import Context

_LIMIT = 4 * 1024 * 1024
_FILES_LIMIT = 32
#: Where swtpm keeps the state of a TPM 2.0 within the VM's folder.
_TPM = "tpm2"
_XZ_MEMORY = 128 * 1024 * 1024

#: Pieces that have arrived for (kind, vm_id). Bounded by _LIMIT each and by _VMS in number.
_arriving: dict[tuple[str, str], bytearray] = {}
_VMS = 16
_lock = threading.Lock()


def read_nvram(context: Context, params: Mapping[str, Any]) -> dict[str, Any]:
    """-> {"data": base64, "modified": mtime}. A VM without such a file: data "", modified 0.0."""
    folder = open_root(context.config["nvram_dir"])
    try:
        for name in _nvram_names(params):
            try:
                fd = open_beneath(folder, name, os.O_RDONLY | os.O_NONBLOCK)
            except FileNotFoundError:
                continue
            with os.fdopen(fd, "rb") as file:
                info = os.fstat(file.fileno())
                if not stat.S_ISREG(info.st_mode) or info.st_size > _LIMIT:
                    raise Refused("the UEFI variables are not a plain file of a sane size")
                return {"data": _text(file.read(_LIMIT)), "modified": info.st_mtime}
    finally:
        os.close(folder)
    return {"data": "", "modified": 0.0}


def write_nvram(context: Context, params: Mapping[str, Any]) -> bool:
    """Put the variables in place with the last piece: a new file renamed over the old one, same owner as before."""
    content = _gather("nvram", params)
    if content is None:
        return False
    folder = open_root(context.config["nvram_dir"])
    name = _nvram_names(params)[0]
    try:
        _replace(folder, name, content)
    finally:
        os.close(folder)
    return True


def read_tpm(context: Context, params: Mapping[str, Any]) -> dict[str, Any]:
    """-> {"data", "modified"} as read_nvram, of a tar that is the same bytes as long as no file changed."""
    folder = _tpm_folder(context, params["vm_id"])
    if folder is None:
        return {"data": "", "modified": 0.0}
    try:
        packed, modified = _pack(folder)
    finally:
        os.close(folder)
    return {"data": _text(packed), "modified": modified}


def write_tpm(context: Context, params: Mapping[str, Any]) -> bool:
    """Replace the TPM state with the last piece's tar. libvirt gives the files to swtpm's user when it starts it."""
    content = _gather("tpm", params)
    if content is None:
        return False
    files = _unpack(content)
    # libvirt makes it with the first TPM that runs on this host, which may be this one.
    Path(context.config["tpm_dir"]).mkdir(mode=0o711, exist_ok=True)
    root = open_root(context.config["tpm_dir"])
    vm_id = params["vm_id"]
    try:
        owner = os.fstat(root)
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(vm_id, dir_fd=root)
        for made in (vm_id, f"{vm_id}/{_TPM}"):
            os.mkdir(made, 0o711, dir_fd=root)
        folder = open_beneath(root, f"{vm_id}/{_TPM}", os.O_RDONLY | os.O_DIRECTORY)
        try:
            for name, data in files.items():
                _replace(folder, name, data)
            os.fchown(folder, owner.st_uid, owner.st_gid)
        finally:
            os.close(folder)
    finally:
        os.close(root)
    return True


def _nvram_names(params: Mapping[str, Any]) -> list[str]:
    """By id, as engines name the file in the domain XML, or by name, as libvirt does on its own."""
    by_name = [f"{params['vm_name']}_VARS.fd"] if params.get("vm_name") else []
    return [f"{params['vm_id']}.fd", *by_name]


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _gather(kind: str, params: Mapping[str, Any]) -> bytes | None:
    key, piece = (kind, params["vm_id"]), base64.b64decode(params["data"], validate=True)
    with _lock:
        if params["offset"] == 0:
            if key not in _arriving and len(_arriving) >= _VMS:
                _arriving.pop(next(iter(_arriving)))
            _arriving[key] = bytearray()
        so_far = _arriving.get(key)
        if so_far is None or len(so_far) != params["offset"] or len(so_far) + len(piece) > _LIMIT:
            _arriving.pop(key, None)
            raise Refused("the pieces do not follow each other, or are too much")
        so_far += piece
        return bytes(_arriving.pop(key)) if params["last"] else None


def _replace(folder: int, name: str, content: bytes) -> None:
    fresh = f"{name}.new"
    with contextlib.suppress(FileNotFoundError):
        os.unlink(fresh, dir_fd=folder)
    fd = open_beneath(folder, fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(fd, "wb") as file:
        owner = os.fstat(folder)
        with contextlib.suppress(FileNotFoundError):
            owner = os.stat(name, dir_fd=folder, follow_symlinks=False)
        os.fchown(file.fileno(), owner.st_uid, owner.st_gid)
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.rename(fresh, name, src_dir_fd=folder, dst_dir_fd=folder)


def _tpm_folder(context: Context, vm_id: str) -> int | None:
    root = open_root(context.config["tpm_dir"])
    try:
        return open_beneath(root, f"{vm_id}/{_TPM}", os.O_RDONLY | os.O_DIRECTORY)
    except FileNotFoundError:
        return None
    finally:
        os.close(root)


def _pack(folder: int) -> tuple[bytes, float]:
    packed, modified = io.BytesIO(), 0.0
    with tarfile.open(fileobj=packed, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for place in ("./", f"./{_TPM}/"):
            member = tarfile.TarInfo(place)
            member.type, member.mode = tarfile.DIRTYPE, 0o711
            tar.addfile(member)
        for name in sorted(os.listdir(folder))[:_FILES_LIMIT]:
            fd = open_beneath(folder, name, os.O_RDONLY | os.O_NONBLOCK)
            with os.fdopen(fd, "rb") as file:
                info = os.fstat(fd)
                if not stat.S_ISREG(info.st_mode) or name.startswith("."):
                    continue
                if packed.tell() + info.st_size > _LIMIT:
                    raise Refused("the TPM state is larger than it may be")
                member = tarfile.TarInfo(f"./{_TPM}/{name}")
                member.size, member.mtime, member.mode = info.st_size, int(info.st_mtime), 0o600
                tar.addfile(member, file)
                modified = max(modified, info.st_mtime)
    return lzma.compress(packed.getvalue(), preset=0), modified


def _unpack(content: bytes) -> dict[str, bytes]:
    files: dict[str, bytes] = {}
    try:
        with tarfile.open(fileobj=io.BytesIO(_expanded(content)), mode="r:") as tar:
            for member in tar:
                place = PurePosixPath(member.name)
                if member.isdir() or place.name == ".lock":
                    continue
                if not member.isreg() or str(place.parent) != _TPM or len(files) >= _FILES_LIMIT:
                    raise Refused("the TPM state has other things than a few plain files")
                file = tar.extractfile(member)
                files[place.name] = file.read(_LIMIT) if file else b""
    except (tarfile.TarError, lzma.LZMAError) as error:
        raise Refused(f"the TPM state is not readable: {error}") from None
    return files


def _expanded(content: bytes) -> bytes:
    packed = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_XZ_MEMORY)
    data = packed.decompress(content, _LIMIT + 1)
    if len(data) > _LIMIT or not packed.eof:
        raise Refused("the TPM state is larger than it may be, or not whole")
    return data
