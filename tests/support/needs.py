# SPDX-License-Identifier: Apache-2.0
"""Skips that say what is missing. Two kinds, told apart by `scripts/check`:

- what packages and provisioning can give (`needs_program`, `needs_root`): missing = skipped here, but a failure of the
  whole check there, because it installs them;
- what only a machine can give (`lacks`): the reason begins with "this machine", and the summary counts it.
"""

import os
import shutil

import pytest


def needs_program(*programs: str) -> pytest.MarkDecorator:
    """Skip unless these programs can be run."""
    missing = [p for p in programs if shutil.which(p, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin") is None]
    return pytest.mark.skipif(bool(missing), reason=f"not installed: {', '.join(missing)}")


def needs_root() -> pytest.MarkDecorator:
    """Skip unless the tests run as root."""
    return pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


def lacks(what: str) -> None:
    """Skip this test now: the machine has no `what` ("loop devices", "a watchdog"), and no package would help."""
    pytest.skip(f"this machine lacks {what}")
