# SPDX-License-Identifier: Apache-2.0
"""Statistics from samples: rates, silence, and what a late sample must not undo."""

import time
import uuid
from typing import Any

from tests.support import decode
from vdsm_mp.virt.machine import Exit, ExitReason, Life, VmStatus
from vdsm_mp.virt.metadata import Metadata
from vdsm_mp.virt.records import Devices, Drive, Nic, VmRecord, VolumeIds
from vdsm_mp.virt.stats import Sample, Stats

IMAGE = str(uuid.uuid4())
DISK = Drive(name="vda", device="disk", ids=VolumeIds(IMAGE, IMAGE, IMAGE, IMAGE))
NIC = Nic(mac="56:6f:00:00:00:01", name="vnet0", model="virtio")


def record(**more: Any) -> VmRecord:
    values: dict[str, Any] = {
        "life": Life(status=VmStatus.UP, cpus_run=True),
        "devices": Devices(drives=(DISK,), nics=(NIC,), has_balloon=True, vcpus=3, memory_kib=2048, hash="1"),
        **more,
    }
    return VmRecord(vm_id=str(uuid.uuid4()), name="vm", **values)


def raw(**more: Any) -> dict[str, Any]:
    return {
        "cpu.time": 0, "cpu.system": 0, "vcpu.current": 1, "balloon.current": 1024, "balloon.maximum": 2048,
        "net.count": 1, "net.0.name": "vnet0", "net.0.rx.bytes": 7, "block.count": 1, "block.0.name": "vda",
        "block.0.rd.bytes": 0, "block.0.rd.reqs": 0, "block.0.rd.times": 0, **more,
    }  # fmt: skip


def sampled(vm: VmRecord, *samples: Sample) -> dict[str, Any]:
    stats = Stats(60)
    for sample in samples:
        stats.put(vm, sample, answered=True)
    found: dict[str, Any] = decode.check_vm_stats(stats.of(vm), running=True)
    return found


def test_rates_come_from_two_samples_and_their_distance() -> None:
    now = time.monotonic()
    later = raw(**{
        "cpu.time": 1_000_000_000, "cpu.system": 150_000_000, "cpu.user": 100_000_000,
        "block.0.rd.bytes": 4096, "block.0.rd.reqs": 4, "block.0.rd.times": 4000,
    })  # fmt: skip
    entry = sampled(record(), Sample(now - 2, raw()), Sample(now, later))
    assert (entry["cpuUser"], entry["cpuSys"], entry["cpuActual"]) == ("37.50", "12.50", True)
    disk = entry["disks"]["vda"]
    assert (disk["readRate"], disk["readLatency"], disk["imageID"]) == ("2048.0", "1000", IMAGE)
    assert entry["cpuUsage"] == "250000000"
    assert entry["network"]["vnet0"]["rx"] == "7"
    assert entry["balloonInfo"]["balloon_cur"] == "1024"


def test_what_no_agent_has_told_is_told_in_the_words_of_vdsm() -> None:
    """Engines and Python clients read these of every running VM."""
    stats, silent = Stats(60), record()
    entry = decode.check_vm_stats(stats.of(silent), running=True)
    untold = {"username": "Unknown", "session": "Unknown", "guestCPUCount": -1, "appsList": [], "guestIPs": ""}
    assert entry.items() >= {**untold, "guestFQDN": "", "memUsage": "0", "cpuActual": False}.items()
    assert not untold.keys() & stats.running(silent).keys(), "events tell what is new, and this is not"
    told = record(guest={"username": "ada", "guestCPUCount": 3})
    assert (stats.of(told)["username"], stats.of(told)["guestCPUCount"], stats.of(told)["session"]) == (
        "ada",
        3,
        "Unknown",
    )
    down = record(life=Life(status=VmStatus.DOWN, exit=Exit(0, ExitReason.SUCCESS, "")))
    assert not untold.keys() & stats.of(down).keys()


def test_an_older_sample_that_comes_later_is_dropped() -> None:
    now = time.monotonic()
    entry = sampled(record(), Sample(now, raw(**{"cpu.user": 5})), Sample(now - 1, raw(**{"cpu.user": 9})))
    assert entry["cpuUsage"] == "5"


def test_a_sample_from_before_a_change_does_not_hide_the_change() -> None:
    assert sampled(record(), Sample(time.monotonic(), raw()))["vcpuCount"] == 3


def test_counters_that_began_again_give_no_negative_rate() -> None:
    now = time.monotonic()
    entry = sampled(record(), Sample(now - 1, raw(**{"block.0.rd.bytes": 900})), Sample(now, raw()))
    assert entry["disks"]["vda"]["readRate"] == "0.0"


def test_the_memory_that_is_guaranteed_is_the_engines_or_what_vdsm_has_noted() -> None:
    noted = Metadata().with_values(memGuaranteedSize=16)
    found = [noted, noted.with_values(minGuaranteedMemoryMb=8), Metadata()]
    told = [sampled(record(metadata=one), Sample(time.monotonic(), raw()))["balloonInfo"] for one in found]
    assert [one["balloon_min"] for one in told] == ["16384", "8192", "0"]


def test_a_silent_qemu_is_told_after_its_time_and_not_before() -> None:
    stats, vm = Stats(60), record()
    assert stats.of(vm)["monitorResponse"] == "0"
    stats.put(vm, Sample(time.monotonic() - 30, raw()), answered=True)
    assert stats.of(vm)["monitorResponse"] == "0"
    stats.stuck(vm.vm_id)
    assert decode.check_vm_stats(stats.of(vm))["monitorResponse"] == "-1"


def test_a_vm_that_is_down_tells_its_exit_and_nothing_of_a_running_one() -> None:
    vm = record(life=Life(status=VmStatus.DOWN, exit=Exit.because(ExitReason.LOST_QEMU)))
    entry = decode.check_vm_stats(Stats(60).of(vm))
    assert (entry["exitCode"], entry["exitReason"]) == (1, 2)
    assert "vmJobs" not in entry
    assert "disks" not in entry
