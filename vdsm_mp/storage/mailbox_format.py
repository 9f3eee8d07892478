# SPDX-License-Identifier: Apache-2.0
"""Bytes of the SPM mailbox as hosts of a pool exchange them on the master domain: messages, checksums, events. Pure.

`inbox` (hosts to SPM) and `outbox` (SPM to hosts) are named from the SPM's side. In both, host N has the 4096 bytes at
4096 * N: 63 slots of 64 bytes, and in the host's own a checksum in the last four. The place of host 0 in `inbox` holds
no mailbox but the event: whoever has written changes the id there, so that the SPM need not read everything to notice.

A slot's life: empty -> request -> (reply in the outbox) -> clean -> (clean in the outbox) -> empty.
"""

import struct
import uuid

import msgspec

MAILBOX = 4096
MESSAGE = 64
SLOTS = 63
#: Places in a file; its length is MAILBOX * HOSTS.
HOSTS = 4096

EMPTY = bytes(MESSAGE)
CLEAN = b"\x01" * MESSAGE
NO_MAIL = bytes(MAILBOX)

_EXTEND = b"1xtnd"
_KIND = slice(1, 5)
#: What a reply repeats of its request: version, kind and both ids.
_NAMES = 37
_CHECKSUM_AT = MAILBOX - 4
_MIB_LIMIT = 2**32


class Extend(msgspec.Struct, frozen=True):
    """Make a volume at least so large. size_mib: 0 in a reply = it failed."""

    sd_id: str
    volume_id: str
    size_mib: int

    def encode(self) -> bytes:
        """Raises: ValueError (an id that is none, a size that has no place)."""
        if not 0 <= self.size_mib < _MIB_LIMIT:
            raise ValueError(f"{self.size_mib} MiB do not fit into a message")
        ids = _backwards(self.sd_id) + _backwards(self.volume_id)
        return _EXTEND + ids + f"{self.size_mib:016x}".encode() + b"0" * 11


def is_extend(message: bytes) -> bool:
    """By its four letters; nobody looks at the version before them."""
    return message[_KIND] == _EXTEND[_KIND]


def decode_extend(message: bytes) -> Extend:
    """Raises: ValueError (the size is no number)."""
    size = message[_NAMES : _NAMES + 16]
    if not size.isalnum():  # int() would take blanks, signs and underscores
        raise ValueError(f"size {size!r} is no number")
    return Extend(_forwards(message[5:21]), _forwards(message[21:_NAMES]), int(size, 16))


def failed(message: bytes) -> bytes:
    """The reply that says so."""
    return message[:_NAMES] + b"0" * (MESSAGE - _NAMES)


def answers(reply: bytes, request: bytes) -> bool:
    return reply[:_NAMES] == request[:_NAMES]


def seal(slots: bytes) -> bytes:
    """A host's mailbox: its slots (SLOTS * MESSAGE bytes) and their checksum."""
    body = slots.ljust(_CHECKSUM_AT, b"\0")
    return body + struct.pack("<I", _sum(body))


def is_sealed(mailbox: bytes) -> bool:
    """False while it is half written, or when somebody writes garbage."""
    return mailbox[_CHECKSUM_AT:] == struct.pack("<I", _sum(mailbox[:_CHECKSUM_AT]))


def messages(mailbox: bytes) -> list[bytes]:
    """Its SLOTS slots."""
    return [mailbox[n * MESSAGE : (n + 1) * MESSAGE] for n in range(SLOTS)]


def event() -> bytes:
    """The event block: a new id."""
    return (b"\0evt" + uuid.uuid4().bytes).ljust(MAILBOX, b"\0")


def event_of(block: bytes) -> bytes:
    """The id in it."""
    return block[4:20]


def _sum(body: bytes) -> int:
    return sum(body) % 2**32


def _backwards(text: str) -> bytes:
    return uuid.UUID(text).bytes[::-1]


def _forwards(raw: bytes) -> str:
    return str(uuid.UUID(bytes=raw[::-1]))
