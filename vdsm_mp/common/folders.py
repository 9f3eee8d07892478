# SPDX-License-Identifier: Apache-2.0
"""Names in a folder. pathlib's glob compiles every pattern it has not seen and keeps hundreds: one for each VM ever."""

import os
from pathlib import Path


def names(folder: Path) -> list[str]:
    """Of all entries; [] when there is no such folder. Raises OSError."""
    try:
        return os.listdir(folder)
    except FileNotFoundError:
        return []
