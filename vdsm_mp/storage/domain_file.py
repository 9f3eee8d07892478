# SPDX-License-Identifier: Apache-2.0
"""A storage domain made of directories: create it, read and change its metadata, measure it, destroy it.

Layout below the domain's directory: dom_md/{metadata,ids,leases,xleases,inbox,outbox}, images/, and on a master
master/{vms,tasks}. `metadata` is replaced by rename; `ids`, `leases` and `xleases` are written in place and never
replaced or truncated. Nothing here knows pools, SPM or locks.
"""

import contextlib
import errno
import re
import threading
from collections.abc import Callable

import msgspec

from vdsm_mp.api.errors_storage import (
    DomainNotEmpty,
    DomainNotFound,
    DomainTargetUnsupported,
    StorageAccessFailed,
    StorageFileExists,
    StorageFileMissing,
    StoragePermissionDenied,
)
from vdsm_mp.api.storage_domain import StorageDomainInfo, StorageDomainStats
from vdsm_mp.api.types import UUID_PATTERN
from vdsm_mp.common.clock import wall_s
from vdsm_mp.common.errors import Error
from vdsm_mp.storage.domain_format import (
    MIB,
    DomainClass,
    DomainType,
    Format,
    NewDomains,
    Role,
    alignment_of,
    block_size_of,
    check_description,
    check_version,
)
from vdsm_mp.storage.domain_io import DomainIO
from vdsm_mp.storage.domain_metadata import (
    LIMIT_BYTES,
    DomainMetadata,
    LeaseParameters,
    decode,
    encode,
    parse,
    serialize,
)
from vdsm_mp.storage.file_facts import Entry
from vdsm_mp.storage.xlease_index import format_index

METADATA = "dom_md/metadata"
IDS = "dom_md/ids"
LEASES = "dom_md/leases"
XLEASES = "dom_md/xleases"
INBOX = "dom_md/inbox"
OUTBOX = "dom_md/outbox"
MAILBOX_BYTES = 16 * MIB
ISO_IMAGE = "11111111-1111-1111-1111-111111111111"
#: The lease of a domain before version 3, when nobody has it: holder and time, in one sector.
FREE_STAMP = b"------FREE------0000000000000000".ljust(512, b"\0")

#: Prefixes of directories that are no domain yet, and none any more; nobody looks for domains by such names.
CREATING = ".creating-"
REMOVING = ".removing-"
#: Files of a block size probe, VDSM's and ours.
PROBE = ".prob-"
_ABANDONED_S = 24 * 3600

_UUID = re.compile(UUID_PATTERN)


class DomainSpec(msgspec.Struct, frozen=True):
    """A domain to be made. block_size: 0 = what the storage has."""

    sd_id: str
    kind: DomainType
    cls: DomainClass
    version: int
    name: str
    remote_path: str
    block_size: int = 512
    max_hosts: int = 250
    allow: NewDomains = msgspec.field(default_factory=NewDomains)


class FileDomain:
    """A domain that exists. `meta` is what was read last; `refresh` reads again. Thread-safe."""

    def __init__(self, sd_id: str, io: DomainIO) -> None:
        self.sd_id = sd_id
        self.io = io
        self._changing = threading.Lock()
        self._meta: DomainMetadata | None = None

    @property
    def path(self) -> str:
        """Absolute, below the repository; for links and for programs."""
        return self.io.root

    @property
    def meta(self) -> DomainMetadata:
        return self._meta or self.refresh()

    @property
    def iso_path(self) -> str:
        """Where the files of an ISO domain are."""
        return self.io.path_of(f"images/{ISO_IMAGE}")

    @property
    def format(self) -> Format:
        return self.meta.format

    def refresh(self, *, deadline_s: float | None = None) -> DomainMetadata:
        """Read the metadata from storage. Raises: DomainNotFound, DomainMetadataInvalid, DomainSealBroken."""
        try:
            data = self.io.read(METADATA, limit=LIMIT_BYTES, deadline_s=deadline_s)
        except StorageFileMissing:
            raise DomainNotFound(self.sd_id) from None
        self._meta = decode(self.sd_id, parse(self.sd_id, data))
        return self._meta

    def change(self, edit: Callable[[DomainMetadata], DomainMetadata]) -> DomainMetadata:
        """Replace the metadata by edit(what is on storage now); nothing is written when nothing changes.

        Raises: what reading raises, DomainMetadataRefused; nothing has changed then.
        """
        with self._changing:
            before = self.refresh()
            after = encode(edit(before))
            if after != before.pairs:
                self.io.replace(METADATA, serialize(self.sd_id, after))
            self._meta = decode(self.sd_id, after)
            return self._meta

    def info(self) -> StorageDomainInfo:
        """StorageDomain.getInfo, from what was read last."""
        meta = self.meta
        return StorageDomainInfo(
            uuid=meta.sd_id,
            type=meta.kind.value,
            domain_class=meta.cls.value,
            name=meta.name,
            role=meta.role.value,
            pool=list(meta.pool_ids),
            version=str(meta.version),
            block_size=meta.block_size,
            alignment=meta.alignment,
            remote_path=meta.remote_path,
        )

    def stats(self) -> StorageDomainStats:
        """StorageDomain.getStats."""
        found = self.io.statvfs()
        return StorageDomainStats(disktotal=str(found.total_bytes), diskfree=str(found.free_bytes))

    def make_master_tree(self) -> None:
        """`master/vms` and `master/tasks`; idempotent."""
        for path in ("master", "master/vms", "master/tasks"):
            self.io.mkdir(path, exist_ok=True)

    def make_mailboxes(self) -> None:
        """`inbox` and `outbox` are there and long enough; their content stays."""
        for path in (INBOX, OUTBOX):
            try:
                if self.io.stat(path).size_bytes < MAILBOX_BYTES:
                    self.io.truncate(path, MAILBOX_BYTES)
            except StorageFileMissing:
                self.io.create(path, mode=0o660, size=MAILBOX_BYTES)


def domains_on(mount: DomainIO) -> dict[str, int]:
    """{id of a domain directly below a mount point: inode of its `dom_md`}."""
    found = {}
    for name in sorted(e.name for e in mount.readdir() if e.kind == "dir" and _UUID.match(e.name)):
        with contextlib.suppress(StorageFileMissing):
            found[name] = mount.stat(f"{name}/dom_md").inode
    return found


def _holds_domain(mount: DomainIO, name: str) -> bool:
    """Whatever it is called: what hides behind another name may be somebody's, put aside. Ours have a dot in front."""
    try:
        return not name.startswith(".") and mount.exists(f"{name}/dom_md")
    except StoragePermissionDenied:  # lost+found
        return False


def create(mount: DomainIO, spec: DomainSpec, initialize: Callable[[str], None]) -> None:
    """Make a domain on a mount point that holds none: all of it or nothing, by one rename at the end.

    initialize: called with the directory's name below the mount while it is not a domain yet, to write its locks.
    Raises: DomainVersionUnsupported, DomainMetadataRefused, NotAscii, DomainNotEmpty, DomainTargetUnsupported,
    BlockSizeMismatch, what initialize raises, storage errors; no domain was made.
    """
    sd_id = spec.sd_id
    fmt = Format(spec.kind, check_version(sd_id, spec.version, spec.cls))
    check_description(sd_id, spec.name, fmt)
    check_description(sd_id, spec.remote_path)
    present = [e.name for e in mount.readdir() if e.kind == "dir" and _holds_domain(mount, e.name)]
    if present:
        raise DomainNotEmpty(sd_id, f"{mount.root} holds storage domain {present[0]}")
    block_size = block_size_of(sd_id, fmt, spec.block_size, _probe(mount, sd_id), spec.allow)
    meta = DomainMetadata(
        sd_id=sd_id,
        kind=spec.kind,
        cls=spec.cls,
        role=Role.REGULAR,
        version=spec.version,
        name=spec.name,
        pool_ids=(),
        block_size=block_size,
        alignment=alignment_of(sd_id, block_size, spec.max_hosts),
        remote_path=spec.remote_path,
        lease=LeaseParameters(),
        pairs={},
    )
    directory = f"{CREATING}{sd_id}"
    sweep(mount, sd_id)
    try:
        mount.mkdir(directory)
        _fill(mount, directory, meta, fmt)
        initialize(directory)
        mount.rename(directory, sd_id)
    except StorageFileExists:
        mount.remove_tree(directory)
        raise DomainNotEmpty(sd_id, f"{mount.path_of(sd_id)} is in the way") from None
    except Error:
        mount.remove_tree(directory)
        raise


def _fill(mount: DomainIO, directory: str, meta: DomainMetadata, fmt: Format) -> None:
    mount.mkdir(f"{directory}/dom_md")
    for path, size in ((IDS, 0), (INBOX, MAILBOX_BYTES), (OUTBOX, MAILBOX_BYTES)):
        mount.create(f"{directory}/{path}", mode=0o660, size=size)
    mount.create(f"{directory}/{LEASES}", b"" if fmt.sanlock else FREE_STAMP, mode=0o660)
    if fmt.external_leases:
        mount.create(f"{directory}/{XLEASES}", mode=0o660)
        format_index(mount, f"{directory}/{XLEASES}", meta.sd_id, meta.block_size, meta.alignment)
    mount.mkdir(f"{directory}/images")
    if meta.cls is DomainClass.ISO:
        mount.mkdir(f"{directory}/images/{ISO_IMAGE}")
    mount.create(f"{directory}/{METADATA}", serialize(meta.sd_id, encode(meta)))


def _probe(mount: DomainIO, sd_id: str) -> int:
    try:
        return mount.probe_block_size()
    except StorageAccessFailed as e:
        if e.errno == errno.EINVAL:
            raise DomainTargetUnsupported(sd_id, f"{mount.root} cannot do direct I/O") from e
        raise


def destroy(mount: DomainIO, sd_id: str) -> None:
    """Remove a domain with everything in it: renamed first, so that half removed it is no domain any more."""
    sweep(mount, sd_id)
    mount.rename(sd_id, f"{REMOVING}{sd_id}")
    mount.remove_tree(f"{REMOVING}{sd_id}")


def sweep(mount: DomainIO, sd_id: str) -> None:
    """Remove what interrupted creations and removals left: of this domain, and of others when it is old."""
    for entry in mount.readdir():
        abandoned = entry.kind == "dir" and _is_old(mount, entry)
        if entry.name.startswith(REMOVING) or entry.name == f"{CREATING}{sd_id}" or abandoned:
            mount.remove_tree(entry.name)
        elif entry.name.startswith(PROBE) and _is_old(mount, entry):
            mount.unlink(entry.name, missing_ok=True)


def _is_old(mount: DomainIO, entry: Entry) -> bool:
    """Nothing creates or probes for so long; another host may be doing it this minute."""
    return entry.name.startswith((CREATING, PROBE)) and mount.stat(entry.name).changed_at < wall_s() - _ABANDONED_S
