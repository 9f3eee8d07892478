# SPDX-License-Identifier: Apache-2.0
"""A daemon that a session has one of, and what tests ask it for."""

import shutil
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.support.sanlock_daemon import SanlockDaemon
from vdsm_mp.storage import sanlock
from vdsm_mp.storage.locks import TEMPORARY_HOST_ID
from vdsm_mp.storage.sanlock import SanlockLock

_ALIGNMENT = 2**20


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


@pytest.fixture
def lock(daemon: SanlockDaemon, monkeypatch: pytest.MonkeyPatch) -> Iterator[SanlockLock]:
    """Of a domain that has nothing but its leases, on a disk: the daemon reads and writes past the page cache."""
    monkeypatch.setattr(sanlock, "ANSWERS_WITHIN_S", 0.5)
    place = Path(tempfile.mkdtemp(prefix="slk-", dir="/var/tmp"))
    for name in ("ids", "leases"):
        (place / name).write_bytes(bytes(2 * _ALIGNMENT))
    domain: Any = SimpleNamespace(
        sd_id=str(uuid.uuid4()),
        meta=SimpleNamespace(alignment=_ALIGNMENT, block_size=512),
        io=SimpleNamespace(path_of=lambda name: str(place / Path(name).name)),
    )
    made = SanlockLock(domain, io_timeout_s=1)
    made.initialize()
    yield made
    for host_id in (1, TEMPORARY_HOST_ID):
        made.release_host_id(host_id)
    shutil.rmtree(place)
