# SPDX-License-Identifier: Apache-2.0
"""Numbers that others wrote as text.

`str.isdigit` says yes to what `int` refuses (a raised two), and `int` takes digits of every script and five thousand
of them, which neither libvirt nor a float can carry.
"""

#: What libvirt, the disk and a client carry in common.
MOST = 2**63 - 1


def whole(text: str | None, most: int = MOST) -> int | None:
    """The number that ASCII digits alone make; None when it is another text, or more than `most`."""
    if not text or not (text.isascii() and text.isdigit()) or len(text) > len(str(MOST)):
        return None
    number = int(text)
    return number if number <= most else None
