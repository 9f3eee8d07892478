# SPDX-License-Identifier: Apache-2.0
"""The scenarios as data: what is done, how often, and what may not be exceeded.

`UNDER_LOAD` run in one world with guests, storage and clients. `BY_TESTS` are injections that tests make on smaller
pieces; a passed test is one executed injection, a skipped one says what this machine lacks. `NOT_HERE` are known and
not run, with the reason.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial

from tests.faults import clocks, hostlife, network, outsiders, pressure, roads, scarcity, together
from tests.faults import injections as do
from tests.faults.world import World


@dataclass(frozen=True, slots=True)
class Scenario:
    """One row. quick, full: how often (0 = not). limits: {measure: at most, by p99}; "seen" and "ready" are seconds.

    at_once: injections that one time consists of.
    """

    id: str
    title: str
    inject: Callable[[World], None]
    quick: int
    full: int
    limits: Mapping[str, float] = field(default_factory=dict)
    at_once: int = 1


@dataclass(frozen=True, slots=True)
class ByTests:
    """One row of tests. nodes: "file::function" below tests/; every parametrisation counts."""

    id: str
    title: str
    nodes: tuple[str, ...]
    full_only: bool = False


WORKERS = ("storage", "network", "virt", "scheduler", "clientif")
_DEATH = {"seen": 0.2, "ready": 1.0}
_HANG = {"seen": 5.0, "ready": 6.0}


def _kill(worker: str, name: str, full: int, **more: float) -> Scenario:
    return Scenario(name, f"kill -9 {worker}", partial(do.kill_worker, worker=worker), 4, full, {**_DEATH, **more})


UNDER_LOAD: tuple[Scenario, ...] = (
    _kill("clientif", "A1", 70, **{"accepts again": 1.0}),
    _kill("virt", "A2", 70, **{"VMs known again": 3.0}),
    _kill("storage", "A3", 70),
    _kill("scheduler", "A4", 70),
    _kill("network", "A4n", 70),
    Scenario("A3i", "kill -9 the file access of a domain", do.kill_io_child, 3, 50, {"ready": 1.0}),
    Scenario("A5", "kill -9 of all workers at once", together.kill_workers, 1, 112,
             {"seen": 1.0, "ready": 2.0}, at_once=5),
    Scenario("A7", "kill -9 the master", do.kill_master, 3, 50, {"all gone": 1.0, "ready": 5.0}),
    Scenario("A8", "kill -9 a master while it forks", together.kill_master_while_it_forks, 2, 50,
             {"all gone": 2.0, "ready": 5.0}),
    Scenario("A16", "a worker dies whenever it is ready", partial(pressure.storm, worker="network"), 1, 3,
             {"processor share of the master": 0.25, "log MiB": 1.0}),
    *(Scenario(f"B1 {w}", f"SIGSTOP {w}", partial(do.freeze_worker, worker=w), 1, 8, _HANG) for w in WORKERS),
    Scenario("B1 all", "SIGSTOP of all workers at once", together.freeze_workers, 1, 54, _HANG, at_once=5),
    Scenario("B2", "SIGSTOP and SIGCONT after 2 s", partial(do.pause_worker, worker="storage"), 1, 50),
    Scenario("B1d", "virt in a debugger", partial(outsiders.hold_in_debugger, worker="virt"), 1, 8, _HANG),
    Scenario("B2h", "the whole house is suspended", outsiders.suspend, 1, 10, {"ready": 5.0}),
    Scenario("A17", "HUP and USR2 to every process", outsiders.signal_all, 1, 10),
    Scenario("B5s", "SIGSTOP the file access of a domain", do.freeze_io_child, 1, 10, {"ready": 5.0}),
    Scenario("B8", "SIGSTOP a guest's QEMU", do.freeze_qemu, 1, 20, {"slowest list": 1.0}),
    Scenario("B8a", "SIGSTOP of every guest's QEMU", together.freeze_guests, 1, 10,
             {"slowest list": 1.0, "ready": 5.0}),
    Scenario("C1", "kill -9 libvirtd, and a new one", do.kill_libvirtd, 3, 25, {"ready": 2.0}),
    Scenario("C2", "libvirtd stays away for 12 s", together.keep_libvirtd_away, 1, 5,
             {"slowest refusal": 1.0, "processor share of virt": 0.05, "ready": 5.0}),
    Scenario("C3", "SIGSTOP libvirtd", do.freeze_libvirtd, 1, 20, {"seen": 10.0, "ready": 5.0}),
    Scenario("C3s", "a libvirtd that answers every three seconds", outsiders.slow_libvirtd, 1, 10),
    Scenario("C9", "virsh suspends, resumes and ends a VM", outsiders.virsh, 1, 10, {"told": 3.0}),
    Scenario("E12", "a disk of the host is read-only, and all workers die", outsiders.read_only_disk, 1, 10,
             {"seen": 1.0, "ready": 2.0}, at_once=5),
    Scenario("E3", "want of memory, and a program that must be spared", hostlife.want_of_memory, 1, 3,
             {"serves again": 40.0}),
    Scenario("E10h", "the log's file system hangs", hostlife.hang_the_log, 1, 10,
             {**_DEATH, "slowest status": 1.0}),
    *(Scenario(f"E2 {w}", f"the kernel kills {w} for want of memory", partial(scarcity.memory_of_one, worker=w), 1, 5,
               {"replaced": 1.0})
      for w in ("storage", "virt", "clientif")),
    Scenario("E5", "a thousand questions that take a program each", scarcity.many_programs, 1, 3,
             {"programs at once": 32.0}),
    Scenario("E10f", "the log's disk is full", scarcity.full_log, 1, 10, {**_DEATH}),
    Scenario("E13", "the host's disk is full, and all workers die", partial(scarcity.full_disks, inodes=False), 1, 5,
             {"ready": 35.0}, at_once=5),
    Scenario("E13i", "no inode is left, and all workers die", partial(scarcity.full_disks, inodes=True), 1, 5,
             {"ready": 35.0}, at_once=5),
    Scenario("E1", "the door runs out of descriptors", pressure.no_more_descriptors, 1, 5,
             {"processor share of the door": 0.5}),
    Scenario("E4", "nothing can be forked", pressure.no_more_processes, 1, 5),
    Scenario("E6", "a worker has a twentieth of a processor", pressure.little_processor, 1, 3),
    Scenario("E6n", "four programs at nice -20", pressure.busy_neighbours, 1, 3),
    Scenario("E7", "the wall clock is set by an hour and a day, forth and back", clocks.set_clock, 1, 5,
             at_once=len(clocks.JUMPS)),
    Scenario("E9", "four more masters at once", pressure.race_masters, 1, 25),
    Scenario("E10", "log files moved, SIGHUP, folder without rights", pressure.move_logs, 1, 5),
    Scenario("F1", "2,000 connections that say nothing", partial(pressure.many_connections, count=2000), 1, 3,
             {"slowest ping": 1.0, "memory MiB": 100.0}),
    Scenario("F4", "other protocols at the port", pressure.garbage, 1, 50),
    Scenario("F14", "a slow road, and connections reset half-way", network.bad_road, 1, 20, {"ready": 1.0}),
    Scenario("F14t", "a road that is cut at any octet", roads.tear, 1, 10),
    Scenario("G1o", "operators who never ask", pressure.idle_operators, 1, 10),
    Scenario("H4", "another program is installed, and a worker dies", hostlife.upgrade, 1, 20,
             {"changes over": 10.0, "ready": 5.0}),
    Scenario("H1", "SIGTERM under load", do.stop_house, 2, 50, {"stopped": 10.0, "ready": 5.0}),
)  # fmt: skip


def _master(*names: str) -> tuple[str, ...]:
    return tuple(f"process/test_master.py::test_{name}" for name in names)


BY_TESTS: tuple[ByTests, ...] = (
    ByTests("A0", "every answer counted exactly, ids beside a journal of what ran",
            ("process/test_house_load.py::test_every_question_at_the_door_gets_exactly_one_answer_while_workers_are_killed",
             "process/test_bus.py::test_when_the_worker_is_killed_each_of_100_calls_gets_exactly_one_answer",
             "process/test_bus.py::test_safe_calls_survive_the_death_of_their_worker")),
    ByTests("A3c", "kill -9 storage, or SIGTERM to the house, in a copy",
            ("system/test_volumes.py::test_a_copy_cut_short_by_the_death_of_its_worker_is_undone",)),
    ByTests("A6", "root's helper is killed or hangs",
            ("process/test_root.py::test_a_helper_that_is_killed_fails_what_it_had_and_starts_again",
             "process/test_root.py::test_a_helper_that_hangs_is_replaced",
             "process/test_root.py::test_the_end_of_its_caller_ends_the_helper_and_its_programs")),
    ByTests("A9", "a supervised master, and a second one beside it",
            ("process/test_supervised.py::test_a_killed_master_is_started_again_and_nothing_of_the_old_house_is_left",
             "process/test_supervised.py::test_a_second_master_beside_the_supervised_one_gives_way",
             *_master("of_many_masters_started_at_once_exactly_one_serves",
                      "a_second_master_says_who_runs_and_leaves_the_first_alone"))),
    ByTests("A12", "SIGSEGV, and exits of every kind",
            _master("a_worker_that_dies_is_replaced_and_the_reason_kept", "a_crash_leaves_its_stack_in_the_log")),
    ByTests("A13", "a worker that can never start", (
        *_master("a_worker_that_can_never_start_again_is_left_alone_and_the_others_serve",
                 "a_house_that_cannot_be_built_stops_with_3"),
        "process/test_supervised.py::test_what_cannot_start_is_not_tried_again_and_says_why")),
    ByTests("A14", "exceptions nobody catches", _master("an_exception_nobody_catches_is_in_the_log")),
    ByTests("B3", "busy loop, a C call that keeps the GIL, a lock",
            _master("a_loop_that_hangs_is_dumped_killed_and_replaced", "a_stopped_worker_is_found_out_and_replaced")),
    ByTests("B5", "a child that hangs in the kernel and survives SIGKILL", (
        "process/test_master_kernel.py::test_a_child_that_cannot_be_killed_is_written_off_counted_capped_and_taken_back",
        "process/test_storage_io.py::test_a_hung_request_frees_its_caller_at_the_deadline",
        "process/test_storage_io.py::test_when_every_slot_hangs_the_child_is_replaced_and_then_left_in_peace",
        "process/test_storage_io.py::test_children_that_cannot_be_killed_are_counted_and_capped")),
    ByTests("B6", "a worker that hangs in the kernel itself", (
        "process/test_master_kernel.py::test_a_worker_that_hangs_in_the_kernel_itself_is_written_off_replaced_and_taken_back",)),
    ByTests("B7", "one storage domain hangs, the others are checked on time",
            ("process/test_storage_io.py::test_a_hung_domain_disturbs_nothing_else_and_comes_back_by_itself",)),
    ByTests("B7m", "a house with many storage domains, several of which hang",
            ("process/test_storage_many.py",)),
    ByTests("B9", "a guest's agent that is silent, or floods",
            ("system/virt/test_guest.py::test_an_agent_that_is_silent_or_floods_harms_nobody",)),
    ByTests("B8m", "more guests hang than libvirtd serves at a time", (
        "system/virt/test_vm_faults.py::test_more_guests_hang_than_libvirtd_serves_at_a_time_and_only_they_are_told",
        "system/virt/test_vm_faults.py::test_calls_that_hang_before_anybody_knows_hold_up_no_calls_of_other_vms",
        "system/virt/test_vm_hanging.py")),
    ByTests("B8d", "a stuck guest is destroyed",
            ("system/virt/test_vm_faults.py::test_a_stuck_guest_delays_nobody_and_can_be_destroyed",)),
    ByTests("B10", "programs that hang are killed with their children at their deadline", (
        "unit/common/test_command.py::test_a_program_that_overstays_is_killed_with_its_children",
        "unit/common/test_command.py::test_an_aborted_job_kills_its_program")),
    ByTests("C4", "libvirtd, QEMU or we die in the middle of snapshots, merges, copies and migrations",
            ("system/virt/test_vm_deaths.py",
             "system/virt/test_vm_migrations.py::test_a_death_at_a_step_leaves_exactly_one_vm",
             "system/virt/test_vm_two_copies.py",
             "system/virt/test_vm_mirrors_moved.py"), full_only=True),
    ByTests("C3u", "libvirtd freezes or dies with the answer to a start",
            ("system/virt/test_unanswered_starts.py",)),
    ByTests("C6", "as many events as libvirt can make, subscribers that are slow", (
        "process/test_event_storm.py",
        "process/test_bus.py::test_a_slow_subscriber_sees_a_resync_and_the_right_end")),
    ByTests("C9f", "a VM that somebody else defines and ends",
            ("system/virt/test_vms.py::test_a_vm_of_somebody_else_is_listed_and_left_alone",)),
    ByTests("C1d", "a VM that ends while libvirtd is away",
            ("system/virt/test_vm_faults.py::test_a_libvirtd_that_dies_and_comes_back_costs_no_guest_and_no_news",)),
    ByTests("D1", "every n-th step of storage operations fails, or is the last one",
            ("process/test_storage_deaths.py", "process/test_storage_domain_faults.py"), full_only=True),
    ByTests("D20", "several work on disks at random while something dies or a disk is full",
            ("system/test_disk_chaos.py",), full_only=True),
    ByTests("H8", "the power goes while several work on storage", ("testbed/test_power_cut.py",), full_only=True),
    ByTests("D12", "two hosts fight for the role; the SPM's lease is lost", ("system/test_spm_fight.py",),
            full_only=True),
    ByTests("D22", "a death at steps of leases, volumes with one, taking and leaving the role, moving the master",
            ("system/test_lease_deaths.py",)),
    ByTests("D11", "a sanlock daemon that is silent", ("system/test_sanlock_silent.py",)),
    ByTests("D21", "a domain's directory is moved away, mounted over or replaced while it is in use",
            ("process/test_storage_replaced.py",)),
    ByTests("D14", "task records that cannot be read",
            ("unit/tasks/test_tasks_handed_over.py::test_stored_tasks_that_cannot_be_read_are_set_aside_and_do_not_stop_the_spm",)),
    ByTests("D16", "links, pipes, sockets and devices in place of files", (
        "unit/storage/test_domain_io.py::test_nothing_planted_is_followed_or_opened",
        "unit/storage/test_domain_io.py::test_creating_stays_beneath_the_root",
        "unit/storage/test_domain_io.py::test_a_domain_directory_that_is_a_link_is_refused",
        "unit/storage/test_image_verbs.py::test_links_and_pipes_in_place_of_volumes_are_refused")),
    ByTests("D16r", "folders and files swapped for links while they are opened",
            ("unit/storage/test_swapped.py",)),
    ByTests("D18", "paths and worse in every parameter of every verb", ("system/test_hostile_parameters.py",)),
    ByTests("E2", "a worker runs out of memory",
            ("process/test_master_kernel.py::test_a_worker_that_runs_out_of_memory_dies_alone_and_says_why",
             "process/test_master_kernel.py::test_a_kill_by_hand_is_not_taken_for_want_of_memory")),
    ByTests("E10w", "a log disk that hangs, a log writer that dies", ("process/test_log_writer.py",)),
    ByTests("E7u", "a host that has just been switched on, or is up for ten years", ("process/test_clocks.py",)),
    ByTests("E14", "folders for temporary files that take nothing", ("process/test_no_tmp.py",)),
    ByTests("E10s", "a syslog that takes nothing", ("unit/priv/test_systemlog.py",)),
    ByTests("F1h", "handshakes and frames that begin and do not end", (
        "process/test_door_limits.py::test_who_only_begins_a_handshake_costs_no_tls_object_and_no_turn",
        "process/test_door_limits.py::test_frames_that_begin_and_do_not_end_hold_no_more_than_the_limit_for_all",
        "unit/clientif/test_newcomers.py::test_one_ipv6_network_has_one_turn_and_is_greedy_as_a_whole")),
    ByTests("F2", "clients that do not read", (
        "process/test_door_limits.py::test_a_subscriber_that_never_reads_is_dropped_and_others_hear_on",
        "process/test_door_limits.py::test_a_hundred_thousand_requests_unread_are_held_back_not_stored",
        "process/test_door_limits.py::test_handshakes_of_many_do_not_delay_a_call_for_long")),
    ByTests("F5", "mutated frames, envelopes, documents and requests", ("fuzz/test_wire.py", "fuzz/test_documents.py")),
    ByTests("F8", "hostile VM XML", ("unit/virt/test_domxml.py",)),
    ByTests("F11", "certificates that are not good", ("process/test_door_tls.py", "process/test_door_tls_life.py")),
    ByTests("F13", "clear text",
            ("unit/house/test_listener.py::test_clear_text_is_for_this_host_only_unless_it_is_forced",)),
    ByTests("F14l", "a road that loses packets", ("process/test_door_roads.py",)),
    ByTests("F14b", "clients that fall silent without a goodbye",
            ("process/test_door_reader.py::test_a_client_that_promised_beats_and_is_silent_is_dropped",)),
    ByTests("G1", "other users of this machine", (
        "process/test_master_desk.py::test_files_and_sockets_are_for_the_group_only",
        "process/test_master_desk.py::test_a_stranger_is_turned_away_from_the_control_socket",
        "process/test_master_kernel.py::test_a_careless_umask_opens_nothing_to_others")),
    ByTests("G2", "forged and broken messages on the bus", (
        "process/test_bus.py::test_a_forged_token_gets_no_answer_and_a_good_one_does",
        "process/test_bus.py::test_garbage_on_the_socket_harms_nobody",
        "process/test_bus.py::test_a_frame_larger_than_the_limit_drops_only_itself")),
    ByTests("G4", "sudo rules wider than ours", ("unit/priv/test_table.py", "unit/provisioning/test_sudo_rules.py")),
    ByTests("G6r", "a sudo that refuses, hangs or cannot be run", ("process/test_root_reasons.py",)),
    ByTests("G6", "a hostile caller at root's doors, real sudo", ("process/test_root.py",)),
    ByTests("G8", "hooks that are not to be trusted", ("process/test_hooks.py",)),
    ByTests("G9c", "real cores of workers that hold secrets", ("system/test_cores.py",)),
    ByTests("G9", "passwords in logs, arguments, answers and files", ("system/test_secrets.py",)),
    ByTests("G10", "readers of the metrics page who trickle, pry or are many", ("process/test_metrics.py",)),
    ByTests("H3", "a stop with a child that cannot be killed", (
        "process/test_master_kernel.py::test_a_stop_with_a_child_that_cannot_be_killed_ends_in_time_and_names_it",
        *_master("a_worker_that_does_not_leave_is_killed_and_the_master_still_exits_0"))),
    ByTests("H1e", "SIGTERM before the first fork, and before workers are ready",
            (*_master("a_stop_before_the_first_fork_takes_along_what_was_begun"),
             "process/test_master_kernel.py::test_a_stop_does_not_wait_for_a_worker_that_is_not_ready_yet")),
    ByTests("H5", "taking over what VDSM has left, and leaving what it can read", (
        "system/test_takeover.py", "system/virt/test_takeover.py", "unit/storage/test_foreign_tasks.py",
        "unit/network/test_persist.py::test_networks_that_vdsm_has_set_up_are_known",
        "system/virt/test_vm_migrations.py::test_a_vm_that_vdsm_was_sending_away_is_told_as_leaving_and_has_left"),
        full_only=True),
    ByTests("H6", "single workers beside an upgrade", ("process/test_upgrade.py",)),
    ByTests("H7", "configurations, folders and files that are wrong", ("process/test_master_start.py",)),
    ByTests("H11", "what the master was given, and what is taken away from it while it runs",
            ("process/test_master_inheritance.py", "process/test_premises.py")),
    ByTests("H12", "debuggers, floods of signals, a program that is removed, an address or folder that is not there", (
        "process/test_outsiders.py",
        "process/test_upgrade.py::test_a_worker_that_dies_when_the_program_was_removed_waits_for_it_and_the_others_serve",
        "unit/house/test_listener.py", "unit/house/test_incarnations.py", "unit/host/test_freespace.py",
        "unit/network/test_persist.py::test_a_state_folder_that_is_gone_keeps_nobody_from_starting")),
    ByTests("H9", "a Debian package comes and goes beside guests", ("testbed/test_package.py",), full_only=True),
    ByTests("H10", "supervisorctl, a supervisord that is killed, a start without room",
            ("process/test_supervised.py",)),
)  # fmt: skip

NOT_HERE: Mapping[str, str] = {
    "D9, D10": "iSCSI and device-mapper faults: block storage is not built",
    "D8": "NFS outages run in throw-away hosts: make testbed",
    "E7, the whole host": "a clock that is set by hours and months runs in a throw-away host: make testbed",
    "E12, entropy": "since Linux 5.18 getrandom waits for nothing after the first second of a boot",
    "E11, a whole day": "growth is told from the slope of half an hour (tests/faults/soak.py), in full runs",
    "H5, from a VDSM that runs": "its program is not here: what it leaves is made from facts",
    "H9, Enterprise Linux": "the package is Debian's; none is built for what could not be tried",
}
