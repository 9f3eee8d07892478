# SPDX-License-Identifier: Apache-2.0
"""The head of an HTTP request for an OVF store: its line and headers, checked. Pure."""

import re
from collections.abc import Mapping

import msgspec

_LINE = re.compile(r"(PUT|GET) /[!-~]* HTTP/1\.[01]\Z")
_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+\Z")
_RANGE = re.compile(r"bytes=0-([0-9]{1,15})\Z")
_NUMBER = re.compile(r"[0-9]{1,15}\Z")


class BadHead(Exception):
    """Not a request that is understood here. status: HTTP's code for it."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Head(msgspec.Struct, frozen=True):
    """method: PUT or GET. content_length: of a PUT. last: offset of the last octet that a GET wants."""

    method: str
    pool_id: str
    sd_id: str
    image_id: str
    volume_id: str | None
    content_length: int = 0
    last: int = 0
    expects_continue: bool = False


def parse_head(octets: bytes) -> Head:
    """A head without its blank line. Raises: BadHead."""
    line, *rest = octets.decode("latin-1").split("\r\n")
    match = _LINE.match(line)
    if match is None:
        raise BadHead(400, "Only PUT and GET are understood here")
    headers = _headers(rest)
    pool_id, sd_id = _required(headers, "Storage-Pool-Id"), _required(headers, "Storage-Domain-Id")
    image_id, volume_id = _required(headers, "Image-Id"), headers.get("volume-id") or None
    if match[1] == "GET":
        return Head("GET", pool_id, sd_id, image_id, volume_id, last=_last(_required(headers, "Range")))
    if "transfer-encoding" in headers or "content-length" not in headers:
        raise BadHead(411, "Content-Length is required")
    length = headers["content-length"]
    if not _NUMBER.match(length):
        raise BadHead(400, "Content-Length is not a number")
    expects = headers.get("expect", "").lower() == "100-continue"
    return Head("PUT", pool_id, sd_id, image_id, volume_id, content_length=int(length), expects_continue=expects)


def _headers(lines: list[str]) -> dict[str, str]:
    headers: dict[str, str] = {}
    for line in lines:
        name, colon, value = line.partition(":")
        if not colon or not _NAME.match(name):
            raise BadHead(400, "A header line is malformed")
        if headers.setdefault(name.lower(), value.strip(" \t")) != value.strip(" \t"):
            raise BadHead(400, f"Header {name} contradicts itself")
    return headers


def _required(headers: Mapping[str, str], name: str) -> str:
    try:
        return headers[name.lower()]
    except KeyError:
        raise BadHead(400, f"Header {name} is required") from None


def _last(text: str) -> int:
    match = _RANGE.match(text)
    if match is None:
        raise BadHead(400, "Range must be bytes=0-<last>")
    return int(match[1])
