# SPDX-License-Identifier: Apache-2.0
"""One domain's health as a record, and what a check does to it. Pure: no I/O, no clock; `monitors.py` does the checks.

    not checked yet -> valid <-> invalid          each arrow into or between the last two is told (`Told`)

Until the first check is over a domain is reported with `actual: false` and code 0: no verdict, which an engine
ignores; leaving it out would count as a problem.
"""

import msgspec
from msgspec.structs import replace

from vdsm_mp.storage.monitor_space import DEFAULT, Limits, Space


class Checked(msgspec.Struct, frozen=True):
    """What one check found. code: 0 or VDSM's number of the error; the rest is None or unknown where it failed."""

    at_mono: float
    code: int = 0
    reason: str = ""
    delay_s: float | None = None
    version: int | None = None
    total_bytes: int | None = None
    free_bytes: int | None = None
    acquired: bool = False


class Watch(msgspec.Struct, frozen=True):
    """One domain being watched. last: None until the first check is over."""

    sd_id: str
    host_id: int
    begun_mono: float
    last: Checked | None = None
    version: int = -1
    space: Space = Space.ENOUGH
    limits: Limits = DEFAULT

    @property
    def valid(self) -> bool:
        """What is reported: a domain is valid until proven otherwise."""
        return self.last is None or self.last.code == 0


class Told(msgspec.Struct, frozen=True):
    """The verdict is new or has changed: publish it, and refresh what depends on it."""

    valid: bool
    reason: str


def checked(watch: Watch, result: Checked) -> tuple[Watch, Told | None]:
    """The watch after a check, and what is to be told."""
    after = replace(watch, last=result, version=watch.version if result.version is None else result.version)
    if result.total_bytes is not None and result.free_bytes is not None:
        after = replace(after, space=watch.limits.after(watch.space, result.total_bytes, result.free_bytes))
    if watch.last is None or watch.valid != after.valid:
        return after, Told(after.valid, result.reason)
    return after, None


def reported(watch: Watch, now_mono: float) -> dict[str, object]:
    """The entry of Host.getStats.storageDomains: code and version numbers, lastCheck and delay text."""
    last = watch.last
    return {
        "code": 0 if last is None else last.code,
        "lastCheck": f"{0.0 if last is None else max(0.0, now_mono - last.at_mono):.1f}",
        "delay": "0" if last is None or last.delay_s is None else f"{last.delay_s:.6f}",
        "valid": watch.valid,
        "version": watch.version,
        "acquired": last is not None and last.acquired,
        "actual": last is not None,
    }
