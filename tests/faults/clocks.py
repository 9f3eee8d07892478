# SPDX-License-Identifier: Apache-2.0
"""The wall clock of a house under load is set by an hour and by a day, forth and back.

It cannot be set for some processes alone, so what the C library says of it is moved: a few lines of C stand before
`clock_gettime`, `gettimeofday` and `time` in every process of the house, for OpenSSL as well, and add what a shared
page says. CLOCK_MONOTONIC, timers and times of files stay the kernel's. The clock of a whole host: `make testbed`.
"""

import calendar
import contextlib
import mmap
import shutil
import struct
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.faults.injections import CannotRun
from tests.faults.world import Fault, World
from tests.support.eventually import eventually
from tests.system.test_storage_house import SD
from vdsm_mp.wire.client import Client

_SOURCE = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static volatile long long none, *moved = &none;
static int (*asked)(clockid_t, struct timespec *);

__attribute__((constructor)) static void begin(void) {
    const char *path = getenv("MOVED_CLOCK");
    int page = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    asked = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
    if (page >= 0) {
        void *at = mmap(NULL, 4096, PROT_READ, MAP_SHARED, page, 0);
        if (at != MAP_FAILED) moved = at;
        close(page);
    }
}

int clock_gettime(clockid_t id, struct timespec *now) {
    int failed = asked ? asked(id, now) : (int)syscall(SYS_clock_gettime, id, now);
    if (!failed && (id == CLOCK_REALTIME || id == CLOCK_REALTIME_COARSE)) now->tv_sec += *moved;
    return failed;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone) {
    struct timespec found;
    (void)zone;
    clock_gettime(CLOCK_REALTIME, &found);
    now->tv_sec = found.tv_sec;
    now->tv_usec = found.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *kept) {
    struct timespec found;
    clock_gettime(CLOCK_REALTIME, &found);
    if (kept) *kept = found.tv_sec;
    return found.tv_sec;
}
"""
_HOUR_S, _DAY_S = 3600, 86400
#: Certificates of the house begin now and last thirty days: all of this lies between.
_BASE_S = 2 * _DAY_S
#: One after the other, from the base.
JUMPS = (_HOUR_S, -_HOUR_S, _DAY_S, -_DAY_S)
_LOOK_S = 6.0
#: What the house tells of the time is as old as its last sample.
_SAMPLE_S = 20.0
_MOST_S = 5.0


class _MovedClock:
    """The library, and the page that says by how much."""

    def __init__(self, folder: Path) -> None:
        if shutil.which("cc") is None:
            raise CannotRun("no C compiler is here")
        source, self._library, self._page = folder / "clock.c", folder / "clock.so", folder / "clock"
        source.write_text(_SOURCE)
        subprocess.run(["cc", "-O2", "-shared", "-fPIC", "-o", self._library, source, "-ldl"], check=True, timeout=60)
        self._page.write_bytes(bytes(mmap.PAGESIZE))
        for path in (self._library, self._page):
            path.chmod(0o644)
        self.environment = {"LD_PRELOAD": str(self._library), "MOVED_CLOCK": str(self._page)}

    def move(self, by_s: int) -> None:
        with open(self._page, "r+b") as file:
            file.write(struct.pack("q", by_s))


def _started_anew(world: World, environment: dict[str, str]) -> None:
    """No injection of its own, but a time in which nothing is compared."""
    house = world.house
    with world.fault("") as fault:
        house.terminate(within_s=20)
        house.environment = environment
        house.begin()
        world.until_answers(fault)
        house.wait_ready()
    time.sleep(2.0)  # the clients have connected again


@contextlib.contextmanager
def _moved(world: World) -> Iterator[_MovedClock]:
    clock = _MovedClock(world.house.root)
    clock.move(_BASE_S)
    _started_anew(world, clock.environment)
    try:
        yield clock
    finally:
        _started_anew(world, {})


def _told_s(world: World) -> float:
    """The wall clock as the house tells it, against ours."""
    told = str(world.house.call("Host.getStats")["dateTime"])
    return calendar.timegm(time.strptime(told, "%Y-%m-%dT%H:%M:%S GMT")) - time.time()


def set_clock(world: World) -> None:
    """Each setting is an injection; it happened when the house told the time that was set."""
    with _moved(world) as clock, world.connect() as listener:
        listener.subscribe()
        for by_s in JUMPS:
            with world.fault("none") as fault:
                _one(world, clock, listener, fault, _BASE_S + by_s)


def _one(world: World, clock: _MovedClock, listener: Client, fault: Fault, wanted_s: int) -> None:
    before, lost, tasks = world.house.all_pids()[:6], world.load.reconnects, len(world.record.tasks)
    clock.move(wanted_s)
    stamps = list[tuple[float, int]]()
    until = time.monotonic() + _LOOK_S
    while time.monotonic() < until:
        stamps += [(time.monotonic(), int(vm["statusTime"])) for vm in world.house.call("Host.getAllVmStats")[:1]]
        stamps += [
            (time.monotonic(), int(event.params["notify_time"]))
            for event in listener.events(timeout_s=0.2)
            if "notify_time" in event.params
        ]
    fault.broken += _uneven(stamps)
    eventually(lambda: abs(_told_s(world) - wanted_s) < _SAMPLE_S, within_s=2 * _SAMPLE_S, every_s=0.5)
    fault.happened = True
    domain: dict[str, Any] = world.house.call("Host.getStats")["storageDomains"][SD]
    if domain["valid"] is not True or float(domain["lastCheck"]) > 2 * 10 + _MOST_S:
        fault.broken.append(f"the domain is not looked at any more: {domain}")
    eventually(lambda: len(world.record.tasks) > tasks, within_s=20)
    if world.house.all_pids()[:6] != before:
        fault.broken.append(f"a clock set by {wanted_s} s cost a process")
    if world.load.reconnects != lost:
        fault.broken.append(f"a clock set by {wanted_s} s cost {world.load.reconnects - lost} connections")


def _uneven(stamps: list[tuple[float, int]]) -> list[str]:
    """Stamps in ms with our own time of each: what engines order events by may not follow the wall clock."""
    if len(stamps) < 2:
        return [f"{len(stamps)} stamps were seen: they prove nothing"]
    (began, first), *rest = stamps
    off = [(at, ms) for at, ms in rest if abs((ms - first) / 1e3 - (at - began)) > _MOST_S]
    return [f"a stamp is {off[0][1] - first} ms after the first, {off[0][0] - began:.1f} s later"] if off else []
