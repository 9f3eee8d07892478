# SPDX-License-Identifier: Apache-2.0
"""Small, safe ElementTree helpers: XML of others is parsed under limits, ours is written without surprises.

No document type, hence no entities; bounded size, depth and number of elements, because a deep document parses well
and then kills the serialiser.
"""

import xml.etree.ElementTree as ET
from collections.abc import Mapping
from typing import Any

from vdsm_mp.common.errors import BadRequest

MAX_BYTES = 1 << 20
MAX_DEPTH = 64
MAX_ELEMENTS = 20_000


class BadXml(BadRequest):
    """XML is not well formed or beyond our limits; `detail` says which."""

    code = 91
    msg = "Bad XML: {self.detail}"

    def __init__(self, detail: str) -> None:
        super().__init__(detail)
        self.detail = detail


class _Limited(ET.TreeBuilder):
    """A tree builder that refuses while it reads, not afterwards."""

    def __init__(self) -> None:
        super().__init__()
        self._depth = 0
        self._count = 0

    def start(self, tag: Any, attrs: Any, /) -> ET.Element:
        self._depth += 1
        self._count += 1
        if self._depth > MAX_DEPTH:
            raise BadXml(f"more than {MAX_DEPTH} elements deep")
        if self._count > MAX_ELEMENTS:
            raise BadXml(f"more than {MAX_ELEMENTS} elements")
        return super().start(tag, attrs)

    def end(self, tag: str, /) -> ET.Element:
        self._depth -= 1
        return super().end(tag)

    def doctype(self, name: str, pubid: str | None, system: str | None) -> None:
        raise BadXml("a document type is not allowed")


def parse(untrusted_text: str) -> ET.Element:
    """The root element. Raises: BadXml."""
    if len(untrusted_text) > MAX_BYTES:
        raise BadXml(f"more than {MAX_BYTES} characters")
    try:
        parser = ET.XMLParser(target=_Limited())  # noqa: S314 - that is what the limits are for
        parser.feed(untrusted_text)
        root: ET.Element = parser.close()
    except (ET.ParseError, ValueError, UnicodeError) as error:
        raise BadXml(str(error)) from error
    return root


def dump(element: ET.Element) -> str:
    """The element as text, without declaration."""
    return ET.tostring(element, encoding="unicode")


def add(parent: ET.Element, tag: str, text: str | None = None, /, **attributes: str) -> ET.Element:
    """Append a child with text and attributes."""
    child = ET.SubElement(parent, tag, attributes)
    child.text = text
    return child


def attributes(element: ET.Element | None, *names: str) -> Mapping[str, str]:
    """{name: value} of the attributes that are there, all of them when no names are given."""
    if element is None:
        return {}
    return {name: value for name, value in element.attrib.items() if not names or name in names}


def text_of(parent: ET.Element, path: str, default: str = "") -> str:
    """The stripped text of a descendant; default when it is absent or empty."""
    return (parent.findtext(path) or "").strip() or default
