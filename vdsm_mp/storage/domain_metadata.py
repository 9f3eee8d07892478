# SPDX-License-Identifier: Apache-2.0
"""The KEY=VALUE lines of a domain and of the pool whose master it is: text, seal, and the typed view. No I/O.

Form and seal are VDSM's. Keys nobody here knows are kept when metadata is changed: they are under the seal.
"""

import hashlib
import logging
from collections.abc import Mapping

import msgspec
from msgspec.structs import replace

from vdsm_mp.api.errors_storage import (
    DomainMetadataInvalid,
    DomainMetadataRefused,
    DomainSealBroken,
    DomainVersionUnsupported,
)
from vdsm_mp.api.types import BLANK
from vdsm_mp.storage.domain_format import (
    LINE_ENDS,
    MIB,
    OLD_VERSIONS,
    VERSIONS,
    DomainClass,
    DomainType,
    Format,
    Role,
)

_log = logging.getLogger("storage.metadata")

SEAL = "_SHA_CKSUM"
#: A whole file of metadata; a pool of 100 domains needs 5 KiB.
LIMIT_BYTES = 256 * 1024

Pairs = dict[str, str]


def seal_of(pairs: Mapping[str, str]) -> str:
    """Lower-case hex SHA-1 over the sorted lines without separators, non-ASCII as decimal character references."""
    digest = hashlib.sha1(usedforsecurity=False)
    for key in sorted(pairs):
        if key != SEAL:
            digest.update(f"{key}={pairs[key]}".encode("ascii", "xmlcharrefreplace"))
    return digest.hexdigest()


def parse(sd_id: str, data: bytes) -> Pairs:
    """The pairs without the seal; {} for an empty file. sd_id: for the message.

    Raises: DomainMetadataInvalid (not text), DomainSealBroken.
    """
    try:
        text = data.rstrip(b"\0").decode("utf-8")
    except UnicodeDecodeError as e:
        raise DomainMetadataInvalid(sd_id, f"dom_md/metadata is not text (byte {e.start})") from None
    pairs: Pairs = {}
    for line in text.splitlines():
        key, equals, value = line.partition("=")
        if equals:
            pairs[key.strip()] = value
    declared = pairs.pop(SEAL, None)
    if declared is None:
        if pairs:
            _log.warning("domain %s: dom_md/metadata has no seal; it is used as it is", sd_id)
    elif declared != seal_of(pairs):
        raise DomainSealBroken(sd_id, f"dom_md/metadata: {SEAL} is {declared}, the content has {seal_of(pairs)}")
    return pairs


def serialize(sd_id: str, pairs: Mapping[str, str]) -> bytes:
    """Sorted lines and the seal. Raises: DomainMetadataRefused (it would be read as something else)."""
    for key, value in pairs.items():
        if LINE_ENDS.intersection(key + value) or "=" in key or key != key.strip():
            raise DomainMetadataRefused(sd_id, f"{key!r} cannot be stored with the value {value!r}")
    lines = [f"{key}={pairs[key]}" for key in sorted(pairs) if key != SEAL]
    lines.append(f"{SEAL}={seal_of(pairs)}")
    return ("\n".join(lines) + "\n").encode()


class LeaseParameters(msgspec.Struct, frozen=True):
    """Historic, seconds and a count; kept for the engine."""

    renewal_s: int = 5
    lease_s: int = 60
    io_timeout_s: int = 10
    retries: int = 3


class DomainMetadata(msgspec.Struct, frozen=True):
    """What a domain says of itself. pairs: everything as read, unknown keys included."""

    sd_id: str
    kind: DomainType
    cls: DomainClass
    role: Role
    version: int
    name: str
    pool_ids: tuple[str, ...]
    block_size: int
    alignment: int
    remote_path: str
    lease: LeaseParameters
    pairs: Mapping[str, str]

    @property
    def format(self) -> Format:
        return Format(self.kind, self.version)


_BLOCK_SIZES = (512, 4096)
_ALIGNMENTS = (MIB, 2 * MIB, 4 * MIB, 8 * MIB)


def decode(sd_id: str, pairs: Mapping[str, str]) -> DomainMetadata:
    """The typed view. sd_id: the id the domain's directory has.

    Raises: DomainMetadataInvalid, naming the key; DomainVersionUnsupported; DomainMetadataRefused (a format that has no
    choice of block sizes and alignments says that it has another).
    """
    if pairs.get("SDUUID") != sd_id:
        raise _invalid(sd_id, "SDUUID", pairs)
    version = _number(sd_id, pairs, "VERSION")
    if version not in (*OLD_VERSIONS, *VERSIONS):
        raise DomainVersionUnsupported(sd_id, f"dom_md/metadata: VERSION is {version}")
    block_size, alignment = 512, MIB
    if "BLOCK_SIZE" in pairs:  # VDSM takes a domain of any version without the two
        block_size = _number(sd_id, pairs, "BLOCK_SIZE")
    if "ALIGNMENT" in pairs:
        alignment = _number(sd_id, pairs, "ALIGNMENT")
    if version < 5 and (block_size, alignment) != (512, MIB):
        raise DomainMetadataRefused(sd_id, f"version {version} has no blocks of {block_size} aligned to {alignment}")
    if block_size not in _BLOCK_SIZES:
        raise _invalid(sd_id, "BLOCK_SIZE", pairs)
    if alignment not in _ALIGNMENTS:
        raise _invalid(sd_id, "ALIGNMENT", pairs)
    try:
        kind = DomainType(pairs.get("TYPE", "").upper())
    except ValueError:
        raise _invalid(sd_id, "TYPE", pairs) from None
    try:
        cls = DomainClass(pairs.get("CLASS", "").capitalize())
    except ValueError:
        raise _invalid(sd_id, "CLASS", pairs) from None
    try:
        role = Role(pairs.get("ROLE", "").capitalize())
    except ValueError:
        raise _invalid(sd_id, "ROLE", pairs) from None
    pools = tuple(p for p in pairs.get("POOL_UUID", "").split(",") if p and p != BLANK)
    return DomainMetadata(
        sd_id=sd_id,
        kind=kind,
        cls=cls,
        role=role,
        version=version,
        name=pairs.get("DESCRIPTION", ""),
        pool_ids=pools,
        block_size=block_size,
        alignment=alignment,
        remote_path=pairs.get("REMOTE_PATH", ""),
        lease=LeaseParameters(
            renewal_s=_lenient(pairs, "LOCKRENEWALINTERVALSEC", 5),
            lease_s=_lenient(pairs, "LEASETIMESEC", 60),
            io_timeout_s=_lenient(pairs, "IOOPTIMEOUTSEC", 10),
            retries=_lenient(pairs, "LEASERETRIES", 3),
        ),
        pairs=dict(pairs),
    )


def encode(meta: DomainMetadata) -> Pairs:
    """All pairs to write: those of the view, over what was read."""
    pairs = dict(meta.pairs)
    pairs.update(
        SDUUID=meta.sd_id,
        VERSION=str(meta.version),
        TYPE=meta.kind.value,
        CLASS=meta.cls.value,
        ROLE=meta.role.value,
        DESCRIPTION=meta.name,
        POOL_UUID=",".join(meta.pool_ids),
        LOCKRENEWALINTERVALSEC=str(meta.lease.renewal_s),
        LEASETIMESEC=str(meta.lease.lease_s),
        IOOPTIMEOUTSEC=str(meta.lease.io_timeout_s),
        LEASERETRIES=str(meta.lease.retries),
        REMOTE_PATH=meta.remote_path,
    )
    pairs.setdefault("LOCKPOLICY", "")
    if meta.format.block_size_keys:
        pairs.update(BLOCK_SIZE=str(meta.block_size), ALIGNMENT=str(meta.alignment))
    return pairs


# --- the pool's keys, on the master only


class PoolMetadata(msgspec.Struct, frozen=True):
    """domains: {sd_id: "Active" or "Attached"}. lver, spm_id: -1 = none."""

    name: str = ""
    domains: Mapping[str, str] | None = None
    lver: int = -1
    spm_id: int = -1
    master_version: int = 0


_STATUS_WORDS = {"active": "Active", "attached": "Attached", "inactive": "Attached"}
#: Of a domain that does not count as attached; old pools may name one.
_NOT_ATTACHED = ("unattached", "unknown")


def status_word(word: str) -> str | None:
    """ "Active" or "Attached" for any spelling, None for a word that is no status of an attached domain."""
    return _STATUS_WORDS.get(word.strip().lower())


def decode_pool(sd_id: str, pairs: Mapping[str, str]) -> PoolMetadata:
    """Raises: DomainMetadataInvalid."""
    domains: dict[str, str] = {}
    for item in filter(None, pairs.get("POOL_DOMAINS", "").split(",")):
        # VDSM takes both parts in quotes, too.
        member, word = (part.strip().strip("'") for part in item.partition(":")[::2])
        status = status_word(word)
        if status is not None:
            domains[member] = status
        elif word.lower() not in _NOT_ATTACHED:
            raise _invalid(sd_id, "POOL_DOMAINS", pairs)
    return PoolMetadata(
        name=pairs.get("POOL_DESCRIPTION", ""),
        domains=domains,
        lver=_number(sd_id, pairs, "POOL_SPM_LVER") if "POOL_SPM_LVER" in pairs else -1,
        spm_id=_number(sd_id, pairs, "POOL_SPM_ID") if "POOL_SPM_ID" in pairs else -1,
        master_version=_number(sd_id, pairs, "MASTER_VERSION") if "MASTER_VERSION" in pairs else 0,
    )


def with_pool(meta: DomainMetadata, pool: PoolMetadata) -> DomainMetadata:
    """The domain with these pool keys in its pairs."""
    pairs = dict(meta.pairs)
    pairs.update(
        POOL_DESCRIPTION=pool.name,
        POOL_DOMAINS=",".join(f"{sd}:{status}" for sd, status in (pool.domains or {}).items()),
        POOL_SPM_LVER=str(pool.lver),
        POOL_SPM_ID=str(pool.spm_id),
        MASTER_VERSION=str(pool.master_version),
    )
    return replace(meta, pairs=pairs)


def with_pool_role(meta: DomainMetadata, spm_id: int, lver: int) -> DomainMetadata:
    """The master with who has the SPM role."""
    return with_pool(meta, replace(decode_pool(meta.sd_id, meta.pairs), spm_id=spm_id, lver=lver))


def without_pool(meta: DomainMetadata) -> DomainMetadata:
    """Of no pool any more: Regular, no pool keys."""
    return replace(without_pool_keys(meta), role=Role.REGULAR, pool_ids=())


def without_pool_keys(meta: DomainMetadata) -> DomainMetadata:
    """Not the place of the pool's keys any more."""
    return replace(meta, pairs={key: value for key, value in meta.pairs.items() if key not in POOL_KEYS})


POOL_KEYS = ("POOL_DESCRIPTION", "POOL_DOMAINS", "POOL_SPM_LVER", "POOL_SPM_ID", "MASTER_VERSION")


def _invalid(sd_id: str, key: str, pairs: Mapping[str, str]) -> DomainMetadataInvalid:
    if key not in pairs:
        return DomainMetadataInvalid(sd_id, f"dom_md/metadata: {key} is missing")
    return DomainMetadataInvalid(sd_id, f"dom_md/metadata: {key} is {pairs[key][:60]!r}")


def _number(sd_id: str, pairs: Mapping[str, str], key: str) -> int:
    text = pairs.get(key, "").strip()
    digits = text.removeprefix("-")
    if not (digits.isascii() and digits.isdigit() and len(digits) < 16):
        raise _invalid(sd_id, key, pairs)
    return int(text)


def _lenient(pairs: Mapping[str, str], key: str, default: int) -> int:
    try:
        return int(pairs.get(key, ""))
    except ValueError:
        return default
