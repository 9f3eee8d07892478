# SPDX-License-Identifier: Apache-2.0
"""JSON, tables and sizes for a terminal. Knows nothing of what it shows."""

import json
import shutil
import sys
from collections.abc import Iterable, Sequence
from typing import Any


def as_json(value: Any) -> str:
    """For people and for programs alike: indented, keys in their order. Letters that stdout has not are escaped."""
    return json.dumps(value, indent=2, ensure_ascii=not has_all_letters())


def has_all_letters() -> bool:
    """Whether stdout takes any text as it is."""
    return (sys.stdout.encoding or "").lower().replace("-", "").replace("_", "") == "utf8"


def table(head: Sequence[str], rows: Iterable[Sequence[object]], *, width: int = 0) -> str:
    """Columns as wide as their widest cell; numbers to the right. width: the last one ends there, 0 = nowhere."""
    cells = [[_cell(value) for value in row] for row in rows]
    if not cells:
        return ""
    widths = [max(len(row[n]) for row in [list(head), *cells]) for n in range(len(head))]
    right = [all(_is_number(row[n]) for row in cells) for n in range(len(head))]
    lines = [list(head), *cells]
    return "\n".join(
        _cut("  ".join(c.rjust(w) if r else c.ljust(w) for c, w, r in zip(line, widths, right, strict=True)), width)
        for line in lines
    )


def _cut(line: str, width: int) -> str:
    line = line.rstrip()
    if not 0 < width < len(line):
        return line
    more = "…" if has_all_letters() else "..."
    return line[: max(0, width - len(more))] + more


def terminal_width() -> int:
    """Of stdout; 0 when that is no terminal, where nothing has to be cut."""
    return shutil.get_terminal_size((0, 0)).columns if sys.stdout.isatty() else 0


def _cell(value: object) -> str:
    return "-" if value is None or value == "" else str(value)


def _is_number(text: str) -> bool:
    return text == "-" or text.replace(".", "", 1).replace("%", "").removesuffix(" s").isdigit()


def seconds(value: float | None) -> str:
    """45 s, 12 min, 3 h, 5 d."""
    if value is None:
        return "-"
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if value >= 2 * size:
            return f"{value / size:.0f} {unit}"
    return f"{value:.0f} s" if value >= 10 else f"{value:.1f} s"


def mib(kib: float | None) -> str:
    return "-" if not kib else f"{kib / 1024:.1f}"


def gib(octets: str | float | None) -> str:
    return "-" if octets in (None, "") else f"{float(octets) / 2**30:.1f} GiB"
