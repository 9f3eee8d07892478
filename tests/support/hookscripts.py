# SPDX-License-Identifier: Apache-2.0
"""Hook scripts for tests: written as an administrator would install them."""

from pathlib import Path


def write_hook(hooks_dir: Path, point: str, body: str) -> Path:
    """One /bin/sh script for a point; a second call replaces it."""
    folder = hooks_dir / point
    for made in (hooks_dir, folder):
        made.mkdir(exist_ok=True)
        made.chmod(0o755)
    path = folder / "50_test"
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return path
