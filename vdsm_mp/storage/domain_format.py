# SPDX-License-Identifier: Apache-2.0
"""What kinds and versions of storage domains there are, and what each allows. Tables and pure functions.

Numbers are VDSM's (API), names are what stands in metadata. Versions 0 and 2, whose cluster lock is not sanlock, are
what an engine makes ISO and export domains of; data domains of them are refused.
"""

import enum

import msgspec

from vdsm_mp.api.errors_storage import (
    BlockSizeMismatch,
    DomainMetadataRefused,
    DomainTypeUnsupported,
    DomainVersionUnsupported,
    NotAscii,
)


class DomainType(enum.Enum):
    """value: name in metadata and answers; `number`: in parameters."""

    NFS = "NFS"
    FCP = "FCP"
    ISCSI = "ISCSI"
    LOCALFS = "LOCALFS"
    CIFS = "CIFS"
    POSIXFS = "POSIXFS"
    GLUSTERFS = "GLUSTERFS"

    @property
    def number(self) -> int:
        return _TYPE_NUMBERS[self]

    @property
    def is_file(self) -> bool:
        return self not in (DomainType.FCP, DomainType.ISCSI)

    @property
    def is_local(self) -> bool:
        return self is DomainType.LOCALFS

    @staticmethod
    def of(number: int) -> "DomainType":
        """Raises: DomainTypeUnsupported."""
        for kind, known in _TYPE_NUMBERS.items():
            if known == number:
                return kind
        raise DomainTypeUnsupported("-", f"{number} is not known")


_TYPE_NUMBERS = {kind: number for number, kind in enumerate(DomainType, start=1)}


class DomainClass(enum.Enum):
    DATA = "Data"
    ISO = "Iso"
    BACKUP = "Backup"


CLASS_BY_NUMBER = {1: DomainClass.DATA, 2: DomainClass.ISO, 3: DomainClass.BACKUP}


class Role(enum.Enum):
    MASTER = "Master"
    REGULAR = "Regular"


MIB = 2**20
VERSIONS = (3, 4, 5)
#: For ISO and export domains only.
OLD_VERSIONS = (0, 2)
LATEST = 5
#: from: versions a domain can be converted to.
UPGRADES = {3: (4, 5), 4: (5,), 5: ()}
DESCRIPTION_CHARS = 50
#: Lines are cut here when metadata is read, by us and by VDSM: a value that holds one of these breaks the seal.
LINE_ENDS = frozenset("\n\r\v\f\x1c\x1d\x1e\x85\u2028\u2029")

_BLOCK_SIZES = {
    DomainType.LOCALFS: (512, 4096),
    DomainType.GLUSTERFS: (512, 4096),
    DomainType.NFS: (512,),
    DomainType.POSIXFS: (512,),
}
_HOSTS_BY_4K_ALIGNMENT = ((250, MIB), (500, 2 * MIB), (1000, 4 * MIB), (2000, 8 * MIB))


class Format(msgspec.Struct, frozen=True):
    """What a version of a type of domain has."""

    kind: DomainType
    version: int

    @property
    def sanlock(self) -> bool:
        """Its cluster lock, where it is shared; before that it was a time stamp (`stamp_lock.py`)."""
        return self.version >= 3

    @property
    def unicode(self) -> bool:
        return self.version >= 3

    @property
    def volume_leases(self) -> bool:
        return self.sanlock and not self.kind.is_local

    @property
    def external_leases(self) -> bool:
        return self.version >= 4 and not self.kind.is_local

    @property
    def block_size_keys(self) -> bool:
        return self.version >= 5

    @property
    def bitmaps(self) -> bool:
        return self.version >= 4

    @property
    def qcow2_compat(self) -> str:
        return "1.1" if self.version >= 4 else "0.10"


def check_version(sd_id: str, version: int, cls: DomainClass) -> int:
    """Raises: DomainVersionUnsupported."""
    allowed = VERSIONS if cls is DomainClass.DATA else (*OLD_VERSIONS, *VERSIONS)
    if version not in allowed:
        raise DomainVersionUnsupported(sd_id, f"version {version} is not supported for {cls.value}, only {allowed}")
    return version


class NewDomains(msgspec.Struct, frozen=True):
    """What the operator allows. gluster_4k: domains on gluster may take larger blocks than 512 bytes."""

    gluster_4k: bool = True


ALLOW_ALL = NewDomains()


def block_size_of(sd_id: str, fmt: Format, asked: int, probed: int, allow: NewDomains = ALLOW_ALL) -> int:
    """The block size of a new domain. asked: 0 = automatic. probed: 1 = the file system has no minimum.

    Raises: DomainMetadataRefused (never possible), BlockSizeMismatch (not on this file system).
    """
    allowed = _BLOCK_SIZES.get(fmt.kind, (512,)) if fmt.version >= 5 else (512,)
    if fmt.kind is DomainType.GLUSTERFS and not allow.gluster_4k:
        allowed = (512,)
    automatic = len(allowed) > 1
    if asked not in allowed and not (asked == 0 and automatic):
        raise DomainMetadataRefused(sd_id, f"block size {asked} is not one of {allowed}")
    if probed == 1:
        return asked or 512
    if asked in (0, probed):
        return probed
    raise BlockSizeMismatch(sd_id, f"block size {asked} was asked for, the storage has {probed}")


def alignment_of(sd_id: str, block_size: int, max_hosts: int) -> int:
    """Bytes of a sanlock area. Raises: DomainMetadataRefused (no alignment has room for so many hosts)."""
    if not 1 <= max_hosts <= 2000:
        raise DomainMetadataRefused(sd_id, f"{max_hosts} hosts are not possible, 1 to 2000 are")
    if block_size == 512:
        return MIB
    return next(align for hosts, align in _HOSTS_BY_4K_ALIGNMENT if max_hosts <= hosts)


def check_description(sd_id: str, text: str, fmt: Format | None = None) -> str:
    """A name that can be written. Raises: DomainMetadataRefused, NotAscii (formats before 3 know nothing else)."""
    if fmt is not None and not fmt.unicode and not text.isascii():
        raise NotAscii(sd_id, f"version {fmt.version} takes ASCII names only")
    if LINE_ENDS.intersection(text) or "\0" in text:
        raise DomainMetadataRefused(sd_id, "a name may not hold line ends or control separators")
    return text
