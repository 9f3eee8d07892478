# SPDX-License-Identifier: Apache-2.0
"""Daemons that a session has one of."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.sanlock_daemon import SanlockDaemon


@pytest.fixture(scope="session")
def _daemon_of_this_process() -> Iterator[SanlockDaemon]:
    """sanlock's library keeps the first run directory it is told: there is one for all tests of this process."""
    run_dir = Path(tempfile.mkdtemp(prefix="slk-", dir="/tmp"))
    started = SanlockDaemon(run_dir)
    yield started
    started.stop()
    shutil.rmtree(run_dir)


@pytest.fixture
def daemon(_daemon_of_this_process: SanlockDaemon, monkeypatch: pytest.MonkeyPatch) -> SanlockDaemon:
    """A sanlock daemon that this process and the programs it starts ask."""
    for name, value in _daemon_of_this_process.environment.items():
        monkeypatch.setenv(name, value)
    return _daemon_of_this_process
