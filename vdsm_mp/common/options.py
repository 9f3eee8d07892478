# SPDX-License-Identifier: Apache-2.0
"""Every section and option of `vdsm.conf`, with default, unit and reason. This file is the manual.

VDSM's own section and option names are kept, so that an existing /etc/vdsm/vdsm.conf goes on working; ours are in
`[vdsm_mp]`. Frozen after loading; handed to rooms by section, never imported by them.
"""

import msgspec


class Section(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Parent of all sections."""


class Vars(Section, frozen=True, kw_only=True):
    """[vars] the daemon as a whole."""

    ssl: bool = True
    # A client's certificate must name its address, or what a reverse lookup of the address gives.
    verify_client_cert: bool = False
    # OVF stores by PUT and GET on the same port.
    http_enable: bool = True
    cpu_affinity: str = "auto"
    core_dump_enable: bool = True
    vm_sample_interval: int = 15
    host_sample_stats_interval: int = 15
    vm_command_timeout: int = 60
    # Seconds a guest's users have to save their work, and seconds each way of shutting down gets before the next.
    user_shutdown_timeout: int = 30
    sys_shutdown_timeout: int = 120
    host_mem_reserve: int = 256
    guest_ram_overhead: int = 65


class Irs(Section, frozen=True, kw_only=True):
    """[irs] storage."""

    repository: str = "/rhev/data-center"
    sd_health_check_delay: int = 10


class Addresses(Section, frozen=True, kw_only=True):
    """[addresses] where the door is."""

    management_port: int = 54321
    management_ip: str = "::"
    request_queues: str = "jms.topic.vdsm_requests,jms.topic.vdsm_irs_requests"
    event_queue: str = "jms.queue.events"


class Sanlock(Section, frozen=True, kw_only=True):
    """[sanlock]"""

    io_timeout: int = 10


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
    libvirt_uri: str = "qemu:///system"
    # Domain XML with <qemu:commandline> gives a guest's owner the host; no engine sends it, some hooks do.
    allow_qemu_commandline: bool = False
    # Clear text (ssl=false) listens on loopback only, unless this is set.
    force_plain_everywhere: bool = False


class Config(msgspec.Struct, frozen=True, kw_only=True):
    """All sections. `config.vars` is INI section [vars] and so on."""

    vars: Vars = Vars()
    irs: Irs = Irs()
    addresses: Addresses = Addresses()
    sanlock: Sanlock = Sanlock()
    vdsm_mp: House = House()
