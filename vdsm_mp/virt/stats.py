# SPDX-License-Identifier: Apache-2.0
"""Statistics from memory: the newest samples of each VM, turned into what the engine decodes, with its types.

The engine reads each field with a cast, so strings stay strings and numbers numbers, field by field; a key without a
value is left out, or has VDSM's word for that. The part that comes from a sample is made once, when the sample arrives;
a poll merges dicts.
"""

import threading
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from vdsm_mp.api.errors_host import HostHookFailed
from vdsm_mp.api.verb import handles
from vdsm_mp.api.vm import GetVmStats
from vdsm_mp.api.vm_host import GetAllVmStats
from vdsm_mp.common import clock
from vdsm_mp.common.hooks import HookFailed, Hooks
from vdsm_mp.virt.machine import VmStatus, reported
from vdsm_mp.virt.records import Drive, VmRecord
from vdsm_mp.virt.registry import Vms, down_info

Raw = Mapping[str, Any]

_GIGABIT = {"e1000", "e1000e", "virtio"}
#: In each report of a running VM until its agent tells better; VDSM's words for that. Not in events.
_UNTOLD: Raw = {
    "username": "Unknown",
    "session": "Unknown",
    "memUsage": "0",
    "guestCPUCount": -1,
    "appsList": [],
    "guestIPs": "",
    "guestFQDN": "",
}


class Sample(msgspec.Struct, frozen=True):
    """What libvirt said of one VM. taken_mono: from before the call, so that an old answer cannot look new."""

    taken_mono: float
    raw: Raw


class Stats:
    """The two newest samples of each VM and what follows from them. `timeout_s`: silence after which a VM is stuck."""

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._samples: dict[str, tuple[Sample | None, Sample]] = {}
        self._made: dict[str, dict[str, Any]] = {}
        self._answered_mono: dict[str, float] = {}
        # The sampler and single samples after a start may bring answers of one VM at the same time.
        self._lock = threading.Lock()

    def put(self, record: VmRecord, sample: Sample, *, answered: bool) -> None:
        """Take a sample. answered: QEMU itself took part, so it is not stuck."""
        with self._lock:
            previous = self._samples.get(record.vm_id)
            if previous is not None and previous[1].taken_mono >= sample.taken_mono:
                return
            last = previous[1] if previous is not None else None
            self._samples[record.vm_id] = (last, sample)
            if answered:
                self._answered_mono[record.vm_id] = sample.taken_mono
            self._made[record.vm_id] = _sampled(record, last, sample)

    def answered(self, vm_id: str) -> None:
        """QEMU answered something."""
        self._answered_mono[vm_id] = clock.mono_s()

    def stuck(self, vm_id: str) -> None:
        """libvirt's call to it timed out: no need to wait for the silence to grow."""
        self._answered_mono[vm_id] = clock.mono_s() - self._timeout_s

    def forget(self, vm_id: str) -> None:
        with self._lock:
            for table in (self._samples, self._made, self._answered_mono):
                table.pop(vm_id, None)

    def silent_s(self, vm_id: str, now: float) -> float:
        """How long QEMU has not answered."""
        return now - self._answered_mono.get(vm_id, now)

    # -- answers

    def of(self, record: VmRecord) -> dict[str, Any]:
        """One entry of Host.getAllVmStats."""
        now = clock.mono_s()
        status = reported(record.life, now)
        entry: dict[str, Any] = {
            "vmId": record.vm_id,
            "status": str(status),
            "statusTime": str(clock.notify_time()),
            "vmName": record.name,
            "vmType": "kvm",
            "kvmEnable": "true" if record.devices.kvm else "false",
            "acpiEnable": "true" if record.devices.acpi else "false",
        }
        if record.life.status is VmStatus.DOWN:
            return {**entry, **down_info(record)}
        if record.life.postcopy:
            # Its guest lives at the other host; what is known of it here is old.
            moved = {} if record.migration_progress is None else {"migrationProgress": record.migration_progress}
            return {**entry, **moved, "pauseCode": record.life.pause_code}
        return {**entry, **_UNTOLD, **self.running(record, now)}

    def running(self, record: VmRecord, now: float | None = None) -> dict[str, Any]:
        """What only a VM that is not Down has; also the body of the events that tell of a start."""
        now = clock.mono_s() if now is None else now
        entry: dict[str, Any] = {
            "elapsedTime": str(_elapsed_s(record)),
            "monitorResponse": "-1" if record.orphan or self.silent_s(record.vm_id, now) >= self._timeout_s else "0",
            "clientIp": record.client_ip,
            "timeOffset": record.time_offset,
            "pauseCode": record.life.pause_code,
            "vcpuCount": record.devices.vcpus,
            "vcpuUserLimit": record.vcpu_limit or "100",
            "vcpuQuota": str(-1 if record.vcpu_quota is None else record.vcpu_quota),
            "vcpuPeriod": 100_000 if record.vcpu_period is None else record.vcpu_period,
            "displayInfo": [
                {"type": g.type, "port": g.port, "tlsPort": g.tls_port, "ipAddress": g.address}
                for g in record.devices.graphics
            ],
            "cpuUser": "0.00",
            "cpuSys": "0.00",
            "cpuActual": False,
            "balloonInfo": {},
            "disks": {},
            "network": {},
            "ioTune": [dict(tune) for tune in record.io_tune],
        }
        if record.devices.hash:
            entry["hash"] = record.devices.hash
        if record.jobs is not None:
            entry["vmJobs"] = {job_id: dict(job) for job_id, job in record.jobs.items()}
        if record.watchdog is not None:
            entry["watchdogEvent"] = dict(record.watchdog)
        if record.migration_progress is not None:
            entry["migrationProgress"] = record.migration_progress
        return {**entry, **self._made.get(record.vm_id, {}), **record.external_hashes, **record.guest}


@handles(GetAllVmStats)
def get_all_vm_stats(vms: Vms, stats: Stats, hooks: Hooks, ask: GetAllVmStats) -> list[dict[str, Any]]:
    _ask_first(hooks, "before_get_all_vm_stats", {})
    found = [stats.of(record) for record in vms.known().all()]
    return _objects(hooks.json("after_get_all_vm_stats", found, raises=False), found)


@handles(GetVmStats)
def get_vm_stats(vms: Vms, stats: Stats, hooks: Hooks, ask: GetVmStats) -> list[dict[str, Any]]:
    _ask_first(hooks, "before_get_vm_stats", {"vmId": ask.vm_id})
    found = [stats.of(vms.find(ask.vm_id))]
    return _objects(hooks.json("after_get_vm_stats", found, {"vmId": ask.vm_id}, raises=False), found)


def may_block(hooks: Hooks, what: str) -> bool:
    """what: "vm_stats", "all_vm_stats". Hooks run in a pool; without any the answer comes from the loop."""
    return hooks.has(f"before_get_{what}") or hooks.has(f"after_get_{what}")


def _ask_first(hooks: Hooks, point: str, env: dict[str, str]) -> None:
    try:
        hooks.json(point, {}, env)
    except HookFailed as error:
        raise HostHookFailed(str(error)) from error


def _objects(answer: Any, ours: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Whatever hooks made of it, an engine needs a list of objects, each with its VM."""
    fine = isinstance(answer, list) and all(isinstance(one, dict) and "vmId" in one for one in answer)
    return answer if fine else ours


def _elapsed_s(record: VmRecord) -> int:
    return 0 if record.started_wall is None else max(0, int(clock.wall_s() - record.started_wall))


# -- from samples


def _sampled(record: VmRecord, last: Sample | None, new: Sample) -> dict[str, Any]:
    made: dict[str, Any] = {
        "disks": {drive.name: _disk(record, drive, last, new) for drive in record.devices.drives},
        "network": dict(_networks(record, new)),
        "balloonInfo": _balloon(record, new.raw),
    }
    if "cpu.time" in new.raw:
        made["cpuUsage"] = str(new.raw.get("cpu.user", 0) + new.raw.get("cpu.system", 0))
    made |= _cpu(last, new)
    memory = _memory(last, new)
    if memory:
        made["memoryStats"] = memory
        total, free = int(memory["mem_total"]), int(memory["mem_free"])
        if total > 0:
            made["memUsage"] = str(round(100 * (total - free) / total))
    return made


def _cpu(last: Sample | None, new: Sample) -> dict[str, Any]:
    """As VDSM: system is what QEMU needs for itself, in the kernel or not; user is what is left for the guest."""
    if last is None or "cpu.time" not in new.raw or "cpu.time" not in last.raw:
        return {"cpuActual": False}
    window_ns = (new.taken_mono - last.taken_mono) * 1e9
    system = _delta(last, new, "cpu.system") + _delta(last, new, "cpu.user")
    user = max(0, _delta(last, new, "cpu.time") - system)
    return {
        "cpuUser": f"{100 * user / window_ns:.2f}",
        "cpuSys": f"{100 * system / window_ns:.2f}",
        "cpuActual": True,
    }


def _balloon(record: VmRecord, raw: Raw) -> dict[str, Any]:
    if not record.devices.has_balloon or "balloon.current" not in raw:
        return {}
    maximum = str(raw.get("balloon.maximum", record.devices.max_memory_kib))
    target = record.metadata.number("balloonTarget")
    return {
        "balloon_max": maximum,
        "balloon_min": str(record.metadata.guaranteed_kib()),
        "balloon_cur": str(raw["balloon.current"]),
        "balloon_target": str(int(target)) if target is not None else str(record.devices.memory_kib),
        "ballooning_enabled": record.metadata.flag("ballooningEnabled", default=True),
    }


def _memory(last: Sample | None, new: Sample) -> dict[str, Any]:
    """{} unless the balloon driver in the guest reports."""
    raw = new.raw
    if "balloon.available" not in raw or "balloon.unused" not in raw:
        return {}
    free = int(raw["balloon.unused"]) + int(raw.get("balloon.disk_caches", 0))
    faults = {"majflt": "balloon.major_fault", "minflt": "balloon.minor_fault"}
    rates = {name: _rate(last, new, key) for name, key in faults.items()}
    return {
        "mem_total": str(raw["balloon.available"]),
        "mem_unused": str(raw["balloon.unused"]),
        "mem_free": str(free),
        "swap_in": _rate(last, new, "balloon.swap_in"),
        "swap_out": _rate(last, new, "balloon.swap_out"),
        "pageflt": rates["majflt"] + rates["minflt"],
        **rates,
    }


def _networks(record: VmRecord, new: Sample) -> Iterable[tuple[str, dict[str, Any]]]:
    raw = new.raw
    by_name = {raw.get(f"net.{i}.name"): i for i in range(int(raw.get("net.count", 0)))}
    for nic in record.devices.nics:
        i = by_name.get(nic.name)
        if i is None:
            continue
        count = {
            name: str(raw.get(f"net.{i}.{key}", 0))
            for name, key in (
                ("rx", "rx.bytes"), ("tx", "tx.bytes"), ("rxErrors", "rx.errs"), ("txErrors", "tx.errs"),
                ("rxDropped", "rx.drop"), ("txDropped", "tx.drop"),
            )
        }  # fmt: skip
        yield (
            nic.name,
            {
                "name": nic.name,
                "macAddr": nic.mac,
                "speed": "1000" if nic.model in _GIGABIT else "100",
                "state": "unknown",
                "sampleTime": float(new.taken_mono),
                **count,
            },
        )


def _disk(record: VmRecord, drive: Drive, last: Sample | None, new: Sample) -> dict[str, Any]:
    raw, i = new.raw, _block(new.raw, drive.name)
    entry: dict[str, Any] = {
        "truesize": str(raw.get(f"block.{i}.allocation") or drive.true_size_bytes),
        "apparentsize": str(raw.get(f"block.{i}.physical") or drive.apparent_size_bytes),
        "readOps": str(raw.get(f"block.{i}.rd.reqs", 0)),
        "writeOps": str(raw.get(f"block.{i}.wr.reqs", 0)),
        "readBytes": str(raw.get(f"block.{i}.rd.bytes", 0)),
        "writtenBytes": str(raw.get(f"block.{i}.wr.bytes", 0)),
        "readRate": "0.0",
        "writeRate": "0.0",
        "readLatency": "0",
        "writeLatency": "0",
        "flushLatency": "0",
    }
    if drive.ids is not None:
        entry["imageID"] = drive.ids.image_id
    elif drive.guid:
        entry["lunGUID"] = drive.guid
    if last is not None and i is not None and _block(last.raw, drive.name) == i:
        window = new.taken_mono - last.taken_mono
        for name, key in (("read", "rd"), ("write", "wr")):
            entry[f"{name}Rate"] = str(_delta(last, new, f"block.{i}.{key}.bytes") / window)
        for name, key in (("read", "rd"), ("write", "wr"), ("flush", "fl")):
            operations = _delta(last, new, f"block.{i}.{key}.reqs")
            spent_ns = _delta(last, new, f"block.{i}.{key}.times")
            entry[f"{name}Latency"] = str(spent_ns // operations if operations else 0)
    return entry


def _block(raw: Raw, name: str) -> int | None:
    for i in range(int(raw.get("block.count", 0))):
        # Lower images of a chain are listed under the same name, after the active one.
        if raw.get(f"block.{i}.name") == name:
            return i
    return None


def _delta(last: Sample, new: Sample, key: str) -> int:
    """Growth of a counter; 0 when it is not there or began again."""
    return max(0, int(new.raw.get(key, 0)) - int(last.raw.get(key, 0)))


def _rate(last: Sample | None, new: Sample, key: str) -> int:
    if last is None:
        return 0
    return round(_delta(last, new, key) / (new.taken_mono - last.taken_mono))
