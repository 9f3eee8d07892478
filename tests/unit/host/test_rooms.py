# SPDX-License-Identifier: Apache-2.0
"""Rates of two samples, jobs as engines can read them, the memory policy, what an operator sees."""

from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from vdsm_mp.api.errors import PeerRestarted, PrivilegedFailed
from vdsm_mp.api.errors_host import KsmTuneFailed, MemoryPolicyFailed
from vdsm_mp.api.host import GetJobs
from vdsm_mp.api.internal import GetHostStatus, GetStorageJobs, GetStorageStatus, GetVirtJobs, GetVmCounts, VmCounts
from vdsm_mp.api.verb import Message
from vdsm_mp.host import cpu, samples
from vdsm_mp.host.hardware import Hardware
from vdsm_mp.host.jobs import entry, get_jobs
from vdsm_mp.host.ksm import Ksm
from vdsm_mp.host.machine import Machine, cpu_list
from vdsm_mp.host.owners import Owners
from vdsm_mp.host.policy import Policy, Switches, ksm_wanted
from vdsm_mp.host.samples import CpuTimes
from vdsm_mp.host.stats import _rates
from vdsm_mp.host.status import BeatStatus, get_host_status

MACHINE = Machine(Path(__file__).resolve().parents[2] / "data/machines/two-sockets")
JOB = {"id": "j", "status": "running", "description": "copy", "job_type": "storage"}
OTHER = {"id": "k", "status": "done", "description": "merge", "job_type": "virt"}
J, K = "11111111-1111-1111-1111-111111111111", "22222222-2222-2222-2222-222222222222"
V = "33333333-3333-3333-3333-333333333333"


class Others:
    def __init__(self, **away: bool) -> None:
        self.away = away

    def ask(self, message: Message, *, deadline_s: float | None = None) -> Any:
        owner, answer = {
            GetStorageJobs: ("storage", {J: JOB}),
            GetVirtJobs: ("virt", {K: OTHER, V: {**OTHER, "id": V, "job_type": "v2v"}}),
            GetStorageStatus: ("storage", {"domains": {}, "pools": {}, "tasks": {}}),
            GetVmCounts: ("virt", VmCounts(count=1, active=1, migrating=0, incoming=0, outgoing=0, vms={"v": {}})),
        }[type(message)]
        if self.away.get(owner):
            raise PeerRestarted(owner, type(message).__name__)
        return answer


class Root:
    """Remembers; says no when told to."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.refuses = False

    def do(self, operation: str, /, *, deadline_s: float = 30.0, **params: Any) -> Any:
        self.asked.append((operation, params))
        if self.refuses:
            raise PrivilegedFailed(operation, "no")
        return {}


def sample(**what: Any) -> samples.Sample:
    taken = samples.take(MACHINE, agent_pids=(), ksmd_pid=None, free_mib={})
    return replace(taken, **what)


# Rates


def test_rates_are_shares_of_the_time_between_two_samples() -> None:
    old = sample(at_mono=100.0, all_cpus=CpuTimes(1000, 500, 8000, 10000), agent_user=0, ksmd=0)
    new = sample(at_mono=110.0, all_cpus=CpuTimes(1250, 600, 8650, 11000), agent_user=100, ksmd=50)
    rates = _rates(old, new)
    assert (rates["cpuUser"], rates["cpuSys"], rates["cpuIdle"]) == ("25.00", "10.00", "65.00")
    assert rates["cpuUserVdsmd"] == "10.00"
    assert rates["ksmCpu"] == 5


def test_a_counter_that_goes_back_gives_no_negative_rate() -> None:
    old = sample(at_mono=100.0, all_cpus=CpuTimes(1000, 500, 8000, 10000))
    new = sample(at_mono=115.0, all_cpus=CpuTimes(900, 500, 8000, 9900))
    rates = _rates(old, new)
    assert (rates["cpuUser"], rates["cpuSys"], rates["cpuIdle"]) == ("0.00", "0.00", "100.00")


def test_a_count_of_the_kernels_that_goes_back_is_no_load() -> None:
    # Waiting went back by more than all the others went on.
    old = sample(at_mono=100.0, all_cpus=CpuTimes(user=1000, system=500, idle=8000, total=12000))
    new = sample(at_mono=115.0, all_cpus=CpuTimes(user=1010, system=505, idle=8085, total=10000))
    told = _rates(old, new)
    assert (told["cpuUser"], told["cpuSys"], told["cpuIdle"]) == ("10.00", "5.00", "85.00")


def test_processors_are_counted_where_there_is_no_sysfs(tmp_path: Path) -> None:
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/cpuinfo").write_text("processor\t: 0\ncpu MHz\t: inf\n\nprocessor\t: 3\n")
    read = cpu.read(Machine(tmp_path))
    assert [thread.cpu_id for thread in read.threads] == [0, 3]
    assert read.speed_mhz == 0.0


def test_a_cpu_that_came_online_between_the_samples_is_left_out_once() -> None:
    old = sample(at_mono=100.0)
    old = replace(old, cpus={n: times for n, times in old.cpus.items() if n != 3})
    rates = _rates(old, sample(at_mono=115.0))
    assert set(rates["cpuStatistics"]) == {"0", "1", "2", "4", "5", "6", "7"}
    assert rates["cpuStatistics"]["7"]["nodeIndex"] == 1


@pytest.mark.parametrize(
    ("text", "cpus"), [("0-3,8", [0, 1, 2, 3, 8]), ("0", [0]), ("", []), ("x", []), ("1-", [1]), ("-1", [])]
)
def test_the_kernels_lists_of_cpus_are_read(text: str, cpus: list[int]) -> None:
    assert cpu_list(text) == cpus


# Jobs


def test_jobs_of_both_owners_come_in_one_answer() -> None:
    assert set(get_jobs(Owners(Others()), GetJobs())) == {J, K, V}
    assert set(get_jobs(Owners(Others()), GetJobs(job_type="virt"))) == {K}
    assert set(get_jobs(Owners(Others()), GetJobs(job_ids=[J]))) == {J}
    assert set(get_jobs(Owners(Others()), GetJobs(job_type="", job_ids=[]))) == {J, K, V}
    assert get_jobs(Owners(Others()), GetJobs(job_type="v2v")).keys() == {V}


def test_a_partial_list_of_jobs_is_never_given() -> None:
    with pytest.raises(PeerRestarted):
        get_jobs(Owners(Others(virt=True)), GetJobs())
    assert set(get_jobs(Owners(Others(virt=True)), GetJobs(job_type="storage"))) == {J}


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ({"status": "aborting"}, {"status": "running"}),
        ({"progress": 42}, {"progress": 42.0}),
        ({"progress": 142.5}, {"progress": 100.0}),
        ({"error": {"code": 100, "message": "no"}}, {"error": {"code": 100, "message": "no"}}),
    ],
)
def test_a_job_is_told_in_the_words_that_engines_know(given: dict[str, Any], shown: dict[str, Any]) -> None:
    told = entry("j", {**JOB, **given})
    assert shown.items() <= told.items()
    assert "progress" not in told or type(told["progress"]) is float


def test_what_a_job_does_not_have_is_absent_and_not_null() -> None:
    assert entry("j", {**JOB, "progress": None, "error": None}) == JOB


# Memory policy

IDLE = Ksm(running=False, merge_across_nodes=True, pages_to_scan=100, sleep_ms=20, sharing_mib=0)
ON = Switches(ksm=True)


def test_ksm_starts_below_a_fifth_and_stops_above_three_tenths() -> None:
    running = replace(IDLE, running=True)
    assert ksm_wanted(ON, IDLE, {"MemTotal": 1000, "MemAvailable": 250}) == {}
    assert ksm_wanted(ON, IDLE, {"MemTotal": 1000, "MemAvailable": 190})["run"] == 1
    assert ksm_wanted(ON, running, {"MemTotal": 1000, "MemAvailable": 250})["run"] == 1
    assert ksm_wanted(ON, running, {"MemTotal": 1000, "MemAvailable": 310}) == {"run": 0}


def test_ksm_scans_faster_the_less_memory_there_is() -> None:
    total = 64 << 20
    slow = ksm_wanted(ON, IDLE, {"MemTotal": total, "MemAvailable": total * 19 // 100})
    fast = ksm_wanted(ON, IDLE, {"MemTotal": total, "MemAvailable": total // 20})
    assert slow["pages_to_scan"] < fast["pages_to_scan"] <= 12500


def test_ksm_that_is_switched_off_is_stopped_once() -> None:
    assert ksm_wanted(Switches(), replace(IDLE, running=True), {}) == {"run": 0}
    assert ksm_wanted(Switches(), IDLE, {}) == {}


def test_nodes_are_kept_apart_when_asked() -> None:
    wanted = ksm_wanted(Switches(ksm=True, merge_across_nodes=False), IDLE, {"MemTotal": 10, "MemAvailable": 1})
    assert wanted["merge_across_nodes"] == 0


def test_switches_survive_a_restart(tmp_path: Path) -> None:
    Policy(Root(), MACHINE, str(tmp_path)).set({"balloonEnabled": True, "ksmEnabled": "true", "unknown": 1})
    again = Policy(Root(), MACHINE, str(tmp_path))
    again.load()
    assert again.switches == Switches(balloon=True, ksm=True)
    again.set({"ksmMergeAcrossNodes": False})
    assert again.switches == Switches(balloon=True, ksm=True, merge_across_nodes=False)


def test_unreadable_switches_count_as_absent(tmp_path: Path) -> None:
    (tmp_path / "memory-policy.json").write_text("{half")
    policy = Policy(Root(), MACHINE, str(tmp_path))
    policy.load()
    assert policy.switches == Switches()


def test_switches_that_cannot_be_kept_are_not_in_force(tmp_path: Path) -> None:
    policy = Policy(Root(), MACHINE, str(tmp_path / "absent"))
    with pytest.raises(MemoryPolicyFailed):
        policy.set({"ksmEnabled": True})
    assert not policy.switches.ksm


def test_the_policy_changes_ksm_through_root_only(tmp_path: Path) -> None:
    root = Root()
    policy = Policy(root, MACHINE, str(tmp_path))
    policy.apply()
    assert root.asked == [("ksm-tune", {"run": 0})]
    policy.tune({"run": "1", "pages_to_scan": 300, "other": 1})
    assert root.asked[-1] == ("ksm-tune", {"run": 1, "pages_to_scan": 300})
    root.refuses = True
    with pytest.raises(KsmTuneFailed):
        policy.tune({"run": 1})
    with pytest.raises(KsmTuneFailed):
        policy.tune({"run": "fast"})


# Hardware and status


def test_hardware_is_asked_once_and_again_only_after_a_failure() -> None:
    root = Root()
    root.refuses = True
    hardware = Hardware(root, MACHINE)
    assert hardware.known() == {}
    root.refuses = False
    hardware.known()
    hardware.known()
    assert len(root.asked) == 2


def test_status_names_the_owner_that_does_not_answer() -> None:
    beats = BeatStatus(lambda: {"sample VMs": {"missed": 1, "failures": 0, "error": ""}})
    found = get_host_status(Owners(Others(virt=True)), beats, GetHostStatus())
    assert set(found["errors"]) == {"virt"}
    assert found["storage"]["tasks"] == {}
    assert found["beats"]["sample VMs"]["missed"] == 1
    assert get_host_status(Owners(Others()), beats, GetHostStatus())["vms"] == {"v": {}}
