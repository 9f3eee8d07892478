# SPDX-License-Identifier: Apache-2.0
"""What keeps the house small: workers share what the master has loaded, load nothing that none needs, and sleep."""

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.house import RunningHouse
from tests.support.needs import needs_root

#: Large, and of no use to a worker that is idle; each was once a megabyte of somebody's.
NOT_WANTED = {"libvirt", "unittest", "doctest", "pdb", "multiprocessing", "pkg_resources", "setuptools", "pytest",
              "hypothesis", "xml.dom", "xml.sax", "sqlite3", "http.server", "importlib.metadata", "_strptime",
              "supervisor", "http.client", "email"}  # fmt: skip
#: Of a worker's own, not shared with the master: twice of what an idle one has would mean that sharing is broken.
MOST_OWN_KIB = 14 * 1024
#: Each worker's heartbeat may wake the master, and one more thing.
MOST_WAKES_A_S = 6.0

_PRELOAD = """
import gc, importlib, os, sys, threading
from vdsm_mp import master
from vdsm_mp.house import spawn
from vdsm_mp.ipc import handlers
from vdsm_mp.workers import table
for module in table.PRELOAD:
    importlib.import_module(module)
spawn.collect_freely()
links = [f"/proc/self/fd/{fd}" for fd in os.listdir("/proc/self/fd")]
kinds = [os.readlink(link) for link in links if os.path.lexists(link)]
thawed = len(gc.get_objects()) / gc.get_freeze_count()
print(threading.active_count(), len([kind for kind in kinds if "event" in kind]), thawed < 0.01)
print(handlers.read.cache_info().currsize)
print(*sys.modules)
"""


@pytest.fixture(scope="module")
def loaded() -> tuple[str, str, set[str]]:
    said = subprocess.run([sys.executable, "-c", _PRELOAD], capture_output=True, text=True, check=True, timeout=60)
    facts, tables, modules = said.stdout.splitlines()
    return facts, tables, set(modules.split())


def test_loading_what_workers_share_makes_no_thread_and_no_wake_up_descriptor_and_freezes_the_heap(
    loaded: tuple[str, str, set[str]],
) -> None:
    assert loaded[0] == "1 0 True"


def test_what_workers_handle_is_read_before_the_fork_but_for_the_one_whose_rooms_load_libvirt(
    loaded: tuple[str, str, set[str]],
) -> None:
    assert loaded[1] == "4"


def test_nothing_is_shared_that_no_worker_needs(loaded: tuple[str, str, set[str]]) -> None:
    assert not NOT_WANTED & loaded[2]


@pytest.fixture(scope="module")
def house() -> Iterator[RunningHouse]:
    with RunningHouse.start() as running:
        yield running


@needs_root()
def test_an_idle_worker_shares_most_of_its_memory(house: RunningHouse) -> None:
    own = {name: _own_kib(house.pid_of(name)) for name in ("storage", "network", "scheduler", "clientif")}
    assert max(own.values()) < MOST_OWN_KIB, own


@needs_root()
def test_only_the_worker_of_the_vms_loads_libvirt(house: RunningHouse) -> None:
    pids = {name: house.pid_of(name) for name in ("storage", "network", "virt", "scheduler", "clientif")}
    having = [name for name, pid in pids.items() if "libvirt" in Path(f"/proc/{pid}/maps").read_text()]
    assert having == ["virt"]


@needs_root()
def test_a_master_with_nothing_to_do_is_woken_by_heartbeats_only(house: RunningHouse) -> None:
    pid, seconds = house.all_pids()[0], 6.0
    time.sleep(1.0)  # who asked for the pids is gone
    before = _wakes(pid)
    time.sleep(seconds)
    assert _wakes(pid) - before < MOST_WAKES_A_S * seconds


def _wakes(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("voluntary_ctxt_switches:"))


def _own_kib(pid: int) -> int:
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Private_Dirty:"))
