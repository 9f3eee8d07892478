# SPDX-License-Identifier: Apache-2.0
"""Reads /proc, /sys and /etc of this machine, or of a recorded one below another root. Never fails: absent is empty."""

from pathlib import Path

import msgspec


class Machine(msgspec.Struct, frozen=True):
    root: Path = Path("/")

    def path(self, name: str) -> Path:
        return self.root / name.lstrip("/")

    def text(self, name: str) -> str:
        """Content without surrounding white space; "" when it cannot be read."""
        try:
            return self.path(name).read_text(encoding="utf-8", errors="replace").strip()
        except OSError:
            return ""

    def number(self, name: str, default: int = 0) -> int:
        try:
            return int(self.text(name))
        except ValueError:
            return default

    def names(self, folder: str) -> list[str]:
        """What is in a folder, sorted; [] when there is none."""
        try:
            return sorted(entry.name for entry in self.path(folder).iterdir())
        except OSError:
            return []

    def exists(self, name: str) -> bool:
        return self.path(name).exists()


def cpu_list(text: str) -> list[int]:
    """The kernel's "0-3,8" as [0, 1, 2, 3, 8]; [] for anything else."""
    found: list[int] = []
    for piece in text.split(","):
        low, _, high = piece.partition("-")
        if low.isdigit() and (not high or high.isdigit()):
            found.extend(range(int(low), int(high or low) + 1))
    return found
