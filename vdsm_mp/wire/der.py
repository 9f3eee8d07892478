# SPDX-License-Identifier: Apache-2.0
"""Just enough of DER to tell from when until when a certificate, or a revocation list, is valid (RFC 5280).

The standard library parses only certificates of peers; ours has to be looked at too. Raises ValueError on anything
that is not what it should be.
"""

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import NamedTuple

_SEQUENCE, _UTC_TIME, _GENERALIZED_TIME, _INTEGER = 0x30, 0x17, 0x18, 0x02
_VERSION = 0xA0


class Validity(NamedTuple):
    """Seconds since the epoch."""

    not_before_s: int
    not_after_s: int


def _items(octets: bytes) -> Iterator[tuple[int, bytes]]:
    """(tag, content) of each element."""
    at = 0
    while at < len(octets):
        if at + 2 > len(octets):
            raise ValueError("truncated DER")
        tag, length = octets[at], octets[at + 1]
        at += 2
        if length & 0x80:
            size = length & 0x7F
            if not 0 < size <= 4:
                raise ValueError("DER length out of range")
            length = int.from_bytes(octets[at : at + size])
            at += size
        if at + length > len(octets):
            raise ValueError("truncated DER")
        yield tag, octets[at : at + length]
        at += length


def _inner(octets: bytes) -> list[tuple[int, bytes]]:
    """Elements of the signed part of a certificate or revocation list."""
    for tag, content in _items(octets):
        for inner_tag, inner in _items(content):
            if tag == inner_tag == _SEQUENCE:
                return list(_items(inner))
            break
        break
    raise ValueError("not a signed DER structure")


def _time(tag: int, content: bytes) -> int:
    text = content.decode("ascii")
    if tag == _UTC_TIME:
        # Two digits of the year; RFC 5280 puts 50-99 into the last century.
        text = ("19" if text[:2] >= "50" else "20") + text
    elif tag != _GENERALIZED_TIME:
        raise ValueError("not a time")
    digits = text[:14]
    if len(text) != 15 or not digits.isdigit() or text[14] != "Z":
        raise ValueError("not a time in UTC")
    month, day, hour, minute, second = (int(digits[at : at + 2]) for at in range(4, 14, 2))
    return int(datetime(int(digits[:4]), month, day, hour, minute, second, tzinfo=UTC).timestamp())


def validity(certificate: bytes) -> Validity:
    """When a certificate is valid."""
    fields = [item for item in _inner(certificate) if item[0] != _VERSION]
    # serial number, signature algorithm, issuer, validity
    if len(fields) < 4:
        raise ValueError("not a certificate")
    times = list(_items(fields[3][1]))
    if len(times) != 2:
        raise ValueError("a validity has two times")
    return Validity(_time(*times[0]), _time(*times[1]))


class Revocations(NamedTuple):
    """A revocation list. until_s: seconds since the epoch, None when it does not say. serials: what it revokes."""

    until_s: int | None
    serials: frozenset[int]


def revocations(revocation_list: bytes) -> Revocations:
    """What a revocation list says. Its signature is not looked at."""
    fields = [item for item in _inner(revocation_list) if item[0] != _INTEGER]
    # signature algorithm, issuer, this update, perhaps next update, perhaps the revoked, perhaps extensions
    if len(fields) < 3:
        raise ValueError("not a revocation list")
    until_s = None
    serials: list[int] = []
    for tag, content in fields[3:]:
        if tag in (_UTC_TIME, _GENERALIZED_TIME):
            until_s = _time(tag, content)
        elif tag == _SEQUENCE:
            serials += [int.from_bytes(next(_items(entry))[1], signed=True) for _, entry in _items(content)]
    return Revocations(until_s, frozenset(serials))
