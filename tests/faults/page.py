# SPDX-License-Identifier: Apache-2.0
"""The report of a fault run as one page without anything from elsewhere: tables and inline SVG."""

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 70rem; padding: 0 1rem; color: #1c2733; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2.2rem; }
.tiles { display: flex; flex-wrap: wrap; gap: .8rem; } .tile { border: 1px solid #d5dde5; border-radius: .5rem;
padding: .6rem 1rem; min-width: 8rem; } .tile b { display: block; font-size: 1.5rem; } .bad b { color: #b3261e; }
table { border-collapse: collapse; width: 100%; font-size: .9rem; } th, td { text-align: left; padding: .25rem .6rem;
border-bottom: 1px solid #e3e9ee; vertical-align: top; } td.n, th.n { text-align: right;
font-variant-numeric: tabular-nums; } .bad { color: #b3261e; } .dim { color: #66727f; }
svg { width: 100%; height: auto; } svg text { font: 12px system-ui, sans-serif; fill: #1c2733; }
@media (prefers-color-scheme: dark) { body { background: #12181f; color: #dde5ec; } svg text { fill: #dde5ec; }
.tile, th, td { border-color: #34404c; } .bad, .bad b { color: #ff8a80; } }
"""
_DOT, _WORST, _QUIET = "#3478b8", "#b3261e", "#8fa3b5"


def html(found: Mapping[str, Any]) -> str:
    """The page. found: as `tests.faults.run` makes it."""
    rows = found["rows"]
    parts = [
        "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width'>",
        f"<title>Fault run</title><style>{_STYLE}</style><h1>Fault run</h1>",
        _about(found), _tiles(found), _broken(found),
        "<h2>From the injection until the next process is ready</h2>",
        "<p class=dim>Each dot is one injection; the bar is the limit that was promised. Logarithmic.</p>",
        _times(found, "ready"),
        "<h2>From the injection until it was seen</h2>", _times(found, "seen"),
        "<h2>Calls that do not need the victim: p99 during the fault beside p99 of the same verbs in quiet times</h2>",
        _latencies(rows),
        "<h2>Scenarios</h2>", _table(rows),
    ]  # fmt: skip
    if found.get("not_here"):
        items = "".join(f"<tr><td>{escape(k)}<td>{escape(v)}" for k, v in found["not_here"].items())
        parts.append(f"<h2>Not run</h2><table>{items}</table>")
    return "\n".join(parts)


def _about(found: Mapping[str, Any]) -> str:
    machine = ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in found["machine"].items())
    kind = "full" if found["full"] else "quick"
    return f"<p class=dim>A {kind} run of {found['took_s'] / 60:.0f} minutes; {escape(machine)}.</p>"


def _tiles(found: Mapping[str, Any]) -> str:
    rows, asked = found["rows"], found["requests"]
    ready = [m["worst"] for row in rows if (m := row["measures"].get("ready"))]
    seen = [m["worst"] for row in rows if (m := row["measures"].get("seen"))]
    tiles = [
        (found["executed"], "injections executed", False),
        (asked["asked"], "requests", False),
        (asked["silent"], "requests without an answer", asked["silent"] > 0),
        (len(found["broken"]), "promises broken", bool(found["broken"])),
        (sum(len(row["missed"]) for row in rows), "limits exceeded", any(row["missed"] for row in rows)),
        (f"{max(ready, default=0):.2f} s", "worst until ready", False),
        (f"{max(seen, default=0):.2f} s", "worst until seen", False),
    ]
    inside = "".join(
        f"<div class='tile{' bad' if bad else ''}'><b>{value}</b>{what}</div>" for value, what, bad in tiles
    )
    return f"<div class=tiles>{inside}</div>"


def _broken(found: Mapping[str, Any]) -> str:
    lines = [*found["broken"], *(f"{row['id']}: {line}" for row in found["rows"] for line in row["missed"])]
    return "".join(f"<p class=bad>{escape(line)}</p>" for line in lines)


def _times(found: Mapping[str, Any], name: str) -> str:
    rows = [(row, found["raw"][row["id"]][name]) for row in found["rows"] if found["raw"].get(row["id"], {}).get(name)]
    if not rows:
        return "<p class=dim>Nothing was measured.</p>"
    left, right, height = 330, 1040, 22
    low, high = 0.001, max(10.0, *(max(values) for _, values in rows))

    def x(value: float) -> float:
        share = math.log(max(value, low) / low) / math.log(high / low)
        return left + share * (right - left)

    out = [f"<svg viewBox='0 0 1060 {len(rows) * height + 30}' role=img>"]
    for tick in (0.001, 0.01, 0.1, 1, 10, 100):
        if tick <= high:
            out.append(f"<line x1={x(tick):.0f} x2={x(tick):.0f} y1=0 y2={len(rows) * height} stroke='#8884'/>")
            out.append(f"<text x={x(tick):.0f} y={len(rows) * height + 18} text-anchor=middle>{tick:g} s</text>")
    for number, (row, values) in enumerate(rows):
        y = number * height + height / 2
        out.append(f"<text x=0 y={y + 4}>{escape(row['id'])} {escape(row['title'][:40])}</text>")
        limit = row["limits"].get(name)
        for value in values:
            colour = _WORST if limit is not None and value > limit else _DOT
            out.append(f"<circle cx={x(value):.1f} cy={y} r=3.5 fill='{colour}' fill-opacity=.55 />")
        if limit is not None:
            out.append(f"<rect x={x(limit):.1f} y={y - 8} width=2.5 height=16 fill='{_WORST}' />")
    return "".join([*out, "</svg>"])


def _latencies(rows: Sequence[Mapping[str, Any]]) -> str:
    rows = [row for row in rows if row["unaffected"]]
    if not rows:
        return "<p class=dim>Too few calls fell into a fault to say.</p>"
    left, right, height = 330, 900, 34
    most = max(max(r["unaffected"]["p99_ms"], r["unaffected"]["quiet_p99_ms"]) for r in rows)
    out = [f"<svg viewBox='0 0 1060 {len(rows) * height}' role=img>"]
    for number, row in enumerate(rows):
        y, told = number * height, row["unaffected"]
        out.append(f"<text x=0 y={y + 18}>{escape(row['id'])} {escape(row['title'][:40])}</text>")
        for offset, key, colour in ((2, "p99_ms", _DOT), (15, "quiet_p99_ms", _QUIET)):
            width = max(1.0, told[key] / most * (right - left))
            out.append(f"<rect x={left} y={y + offset} width={width:.1f} height=11 rx=2 fill='{colour}'/>")
        words = f"{told['p99_ms']:.1f} ms, {told['ratio']:.2f} of quiet, {told['calls']:.0f} calls"
        out.append(f"<text x={left + max(1, told['p99_ms'] / most * (right - left)) + 6:.0f} y={y + 12}>{words}</text>")
    return "".join([*out, "</svg>"])


def _table(rows: Sequence[Mapping[str, Any]]) -> str:
    out = ["<table><tr><th>id<th>what<th class=n>executed<th class=n>wanted<th>measured (p99, worst)<th>remarks"]
    for row in rows:
        measured = "; ".join(
            f"{escape(name)} {told['p99']:g}, {told['worst']:g}" for name, told in row["measures"].items()
        )
        remarks = [f"not run: {escape(row['not_run'])}"] if row["not_run"] else []
        remarks += [
            f"<span class=bad>{escape(line)}</span>" for line in dict.fromkeys([*row["broken"], *row["missed"]])
        ]
        out.append(
            f"<tr><td>{escape(row['id'])}<td>{escape(row['title'])}<td class=n>{row['executed']}"
            f"<td class=n>{row['wanted']}<td>{measured}<td>{'<br>'.join(remarks)}"
        )
    return "".join([*out, "</table>"])
