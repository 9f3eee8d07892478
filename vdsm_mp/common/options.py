# SPDX-License-Identifier: Apache-2.0
"""Every section and option of `vdsm.conf`, with default, unit and reason. This file is the manual.

VDSM's own section and option names are kept, so that an existing /etc/vdsm/vdsm.conf goes on working; ours are in
`[vdsm_mp]`. Frozen after loading; handed to rooms by section, never imported by them.
"""

from typing import Annotated

import msgspec
from msgspec import Meta


class Section(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Parent of all sections."""


class Vars(Section, frozen=True, kw_only=True):
    """[vars] the daemon as a whole."""

    # TLS for the API and for migration. Off: clear text, to this host only.
    ssl: bool = True
    # A client's certificate must name its address, or what a reverse lookup of the address gives.
    verify_client_cert: bool = False
    # OVF stores by PUT and GET on the same port.
    http_enable: bool = True
    # CPUs of the agent: a list (1,3), `auto` = the second one, empty = all. Programs it starts are not bound.
    cpu_affinity: str = "auto"
    # False: no process of the agent leaves a core, wherever kernel.core_pattern sends them. True: as far as the host's
    # limits allow, the newest three in `cores` below state_dir; never the one that holds the host's key, the door.
    core_dump_enable: bool = True
    # What libvirt's library in the agent says of itself, in its own words (libvirt.org/logging.html): the values of
    # LIBVIRT_DEBUG, LIBVIRT_LOG_FILTERS and LIBVIRT_LOG_OUTPUTS. Empty: nothing.
    libvirt_env_variable_debug: str = ""
    libvirt_env_variable_log_filters: str = ""
    libvirt_env_variable_log_outputs: str = ""
    # Tell engines that there are as many cores as threads, so that VMs may have more processors than there are cores.
    report_host_threads_as_cores: bool = False
    # Seconds between two samples.
    vm_sample_interval: Annotated[int, Meta(ge=1)] = 15
    host_sample_stats_interval: Annotated[int, Meta(ge=1)] = 15
    # Seconds until a libvirt call counts as stuck; older statistics mean that the VM does not respond.
    vm_command_timeout: Annotated[int, Meta(ge=1)] = 60
    # Seconds a guest's users have to save their work, and seconds each way of shutting down gets before the next.
    user_shutdown_timeout: int = 30
    sys_shutdown_timeout: int = 120
    # Set the clock of a guest by its agent when it goes on after a pause; after its sleep that is always done.
    time_sync_cont_enable: bool = False
    # Where guests write to disks that last as long as they do: snapshots that are plugged to be read.
    transient_disks_repository: str = "/var/lib/vdsm/transient"
    # How many VMs may leave and come at the same time; an engine's own limits go before.
    max_outgoing_migrations: Annotated[int, Meta(ge=1)] = 2
    max_incoming_migrations: Annotated[int, Meta(ge=1)] = 2
    # Seconds until a destination that is busy is asked again; seconds it may take to get ready for a VM; seconds a
    # VM may take to arrive.
    migration_retry_timeout: Annotated[int, Meta(ge=1)] = 10
    migration_create_timeout: Annotated[int, Meta(ge=1)] = 600
    migration_destination_timeout: Annotated[int, Meta(ge=1)] = 21600
    # MiB a second for each migration when the engine does not say; 0 = as fast as it goes.
    migration_max_bandwidth: Annotated[int, Meta(ge=0)] = 52
    # Seconds between two looks at a migration: progress is told, and what does not converge is helped; 0 = never.
    migration_monitor_interval: Annotated[int, Meta(ge=0)] = 10
    # When the engine gives no schedule: milliseconds a guest may stand still in the end, reached in so many steps.
    migration_downtime: Annotated[int, Meta(ge=1)] = 500
    migration_downtime_steps: Annotated[int, Meta(ge=2)] = 5
    # MiB kept for the host; MiB a VM needs on top of its memory; MiB for other programs.
    host_mem_reserve: Annotated[int, Meta(ge=0)] = 256
    guest_ram_overhead: Annotated[int, Meta(ge=0)] = 65
    extra_mem_reserve: Annotated[int, Meta(ge=0)] = 65
    # Report KVM where there is none, for a test data centre on small machines; memory in MiB, 0 = the real one.
    fake_kvm_support: bool = False
    fake_kvm_memory: Annotated[int, Meta(ge=0)] = 0
    # Patterns of NICs, bonds and VLANs that are not reported; of virtual NICs that are.
    hidden_nics: str = "w*,usb*"
    hidden_bonds: str = ""
    hidden_vlans: str = ""
    fake_nics: str = "dummy_*,veth_*"
    # Listen to what switches say of themselves when an engine asks.
    enable_lldp: bool = True


class Irs(Section, frozen=True, kw_only=True):
    """[irs] storage."""

    # Where mounts, pools and domains are found; other programs of the host know this path.
    repository: str = "/rhev/data-center"
    # Seconds between two checks of a domain.
    sd_health_check_delay: Annotated[int, Meta(ge=1)] = 10


class Gluster(Section, frozen=True, kw_only=True):
    """[gluster] volumes of gluster as storage domains."""

    # Numbers of replicas that a volume may have, comma separated.
    allowed_replica_counts: Annotated[str, Meta(pattern=r"^[0-9]+( *, *[0-9]+)*$")] = "1,3"
    # New domains may take the 4096-byte blocks of their storage.
    enable_4k_storage: bool = True


class Addresses(Section, frozen=True, kw_only=True):
    """[addresses] where the door is."""

    # 0: any free port (tests).
    management_port: Annotated[int, Meta(ge=0, le=65535)] = 54321
    # `::` is both families; 0.0.0.0 where the kernel has no IPv6.
    management_ip: str = "::"
    # Destinations that are requests, comma separated, and the one that carries events.
    request_queues: str = "jms.topic.vdsm_requests,jms.topic.vdsm_irs_requests"
    event_queue: str = "jms.queue.events"


class Sanlock(Section, frozen=True, kw_only=True):
    """[sanlock] cluster locks."""

    # Seconds; all lease times are multiples of it, and hosts that share storage must agree on it.
    io_timeout: Annotated[int, Meta(ge=1, le=60)] = 10


class Jobs(Section, frozen=True, kw_only=True):
    """[jobs] host jobs."""

    # Seconds a finished job is still listed; negative: for ever.
    autodelete_delay: int = 3600


class Sampling(Section, frozen=True, kw_only=True):
    """[sampling] periodic work."""

    # Statistics of the host and of VMs.
    enable: bool = True
    # Seconds between two looks for VMs that others started, and between two reads of TPM and NVRAM data.
    external_vm_lookup_interval: Annotated[int, Meta(ge=1)] = 60
    tpm_data_update_interval: Annotated[int, Meta(ge=1)] = 60
    nvram_data_update_interval: Annotated[int, Meta(ge=1)] = 60


class GuestAgent(Section, frozen=True, kw_only=True):
    """[guest_agent] qemu-guest-agent in the guests."""

    enable_qga_poller: bool = True
    # Seconds that an agent may take for one answer, and between two rounds of questions.
    qga_command_timeout: Annotated[int, Meta(ge=1)] = 1
    qga_polling_period: Annotated[int, Meta(ge=1)] = 5


class Devel(Section, frozen=True, kw_only=True):
    """[devel] for those who work on the agent."""

    # Show Python's warnings in the log.
    python_warnings_enable: bool = False


class House(Section, frozen=True, kw_only=True):
    """[vdsm_mp] what VDSM does not have."""

    # Who the agent runs as. Other names are for tests and for development without root.
    user: str = "vdsm"
    group: str = "kvm"
    # Control socket, lock, pid file; one directory a master start below it holds the bus.
    run_dir: str = "/run/vdsm-mp"
    # Links to prepared images and the like, where VDSM and its neighbours expect them.
    vdsm_run_dir: str = "/run/vdsm"
    state_dir: str = "/var/lib/vdsm"
    log_dir: str = "/var/log/vdsm"
    libexec_dir: str = "/usr/libexec/vdsm-mp"
    # keys/vdsmkey.pem, certs/vdsmcert.pem, certs/cacert.pem below it.
    pki_dir: str = "/etc/pki/vdsm"
    # Certificate revocation list (PEM) of the CA; empty: none.
    crl_file: str = ""
    # Common names of the engine's certificate, comma separated. When set, other hosts may only call what a migration
    # needs; everything is left to the engine and to this host. Empty: every certificate of the CA may call everything.
    engine_names: str = ""
    vdsm_id_file: str = "/etc/vdsm/vdsm.id"
    hooks_dir: str = "/usr/libexec/vdsm/hooks"
    logger_conf: str = "/etc/vdsm/logger.conf"
    libvirt_uri: str = "qemu:///system"
    # The libvirt of a migration's destination, as ours reaches it. {host}: its name or address as the engine gives
    # it; {transport}: tls, or tcp without ssl.
    migration_libvirt_uri: str = "qemu+{transport}://{host}/system"
    # Domain XML with <qemu:commandline> gives a guest's owner the host; no engine sends it, some hooks do.
    allow_qemu_commandline: bool = False
    # A storage domain with less free space (of the whole, in GiB) is named in the log, once; 0: never. An engine has
    # limits of its own and judges by the sizes.
    domain_low_space_percent: Annotated[int, Meta(ge=0, le=100)] = 10
    domain_critical_space_gib: Annotated[int, Meta(ge=0, le=2**20)] = 5
    # Clear text (ssl=false) listens on loopback only, unless this is set.
    force_plain_everywhere: bool = False


class Config(msgspec.Struct, frozen=True, kw_only=True):
    """All sections. `config.vars` is INI section [vars] and so on."""

    vars: Vars = Vars()
    irs: Irs = Irs()
    gluster: Gluster = Gluster()
    addresses: Addresses = Addresses()
    sanlock: Sanlock = Sanlock()
    jobs: Jobs = Jobs()
    sampling: Sampling = Sampling()
    guest_agent: GuestAgent = GuestAgent()
    devel: Devel = Devel()
    vdsm_mp: House = House()


#: Options of VDSM's that mean nothing here: read, named once in the log, and otherwise ignored.
ACCEPTED: dict[str, frozenset[str]] = {
    section: frozenset(names.split())
    for section, names in {
        "vars": """ethtool_opts migration_listener_timeout
            max_migration_listener_timeout migration_listener_prepare_disk_timeout guest_agent_timeout
            guest_lifecycle_event_reply_timeout hotunplug_timeout hotunplug_check_interval vm_watermark_interval
            vm_sample_jobs_interval vds_responsiveness_timeout vdsm_nice qemu_drive_cache fake_kvm_architecture
            fake_vmstats_enable fake_sriov_enable jsonrpc_enable broker_enable connection_stats_timeout
            host_numa_scheduling timeout_engine_clear_vms time_sync_snapshot_enable
            nowait_domain_stats trust_store_path""",
        "rpc": "worker_threads tasks_per_worker worker_timeout",
        "mom": "conf socket_path tuning_policy",
        "irs": """irs_enable hsm_tasks images irsd volume_utilization_percent volume_utilization_chunk_mb
            vol_size_sample_interval scsi_rescan_maximal_timeout udev_settle_timeout nfs_mount_options lock_util_path
            lock_cmd free_lock_cmd thread_pool_size max_tasks lvm_dev_whitelist md_backup_versions md_backup_dir
            maximum_allowed_pvs repo_stats_cache_refresh_timeout task_resource_default_timeout prepare_image_timeout
            gc_blocker_force_collect_interval maximum_domains_in_pool process_pool_timeout max_ioprocess_idle_time
            process_pool_max_slots_per_domain process_pool_max_queued_slots_per_domain iscsi_default_ifaces
            use_volume_leases progress_interval qcow2_compat""",
        "iscsi": "parallel_logins",
        "spm": "watchdog_enable watchdog_interval",
        "mailbox": "events_enable events_interval",
        "thinp": "monitor_timeout extend_timeout refresh_timeout",
        "multipath": "blacklist wait_timeout",
        "lvm": "config_method",
        "addresses": "broker_address broker_port",
        "sampling": "periodic_workers periodic_task_per_worker max_workers",
        "metrics": "enabled collector_address collector_type queue_size",
        "devel": """cpu_profile_enable cpu_profile_filename cpu_profile_format cpu_profile_builtins cpu_profile_clock
            memory_profile_enable memory_profile_port manhole_enable coverage_enable m2c_debug_enable api_strict_mode
            xml_minimal_changes""",
        "health": "monitor_enable check_interval",
        "performance": """use_dynamic_hugepages use_preallocated_hugepages reserved_hugepage_count
            reserved_hugepage_size""",
        "v2v": "kvm2ovirt_buffer_size",
        "guest_agent": """periodic_workers periodic_task_per_worker max_workers qga_task_timeout
            qga_initial_info_interval qga_info_period qga_sysinfo_period qga_active_users_period qga_disk_info_period
            qga_cpu_info_period""",
    }.items()
}
