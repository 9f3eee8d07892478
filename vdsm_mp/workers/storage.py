# SPDX-License-Identifier: Apache-2.0
"""The storage worker: domains, the pool, the SPM role and its tasks, volumes and images.

Owns: connections to storage servers, what is known of domains, monitors, claims, tasks. Blocks: in lanes and in
threads of the monitors; files of domains are touched by one I/O child for each domain only.
"""

import logging
import os

from vdsm_mp.api.ports import Ports
from vdsm_mp.common import scratch
from vdsm_mp.common.options import Config
from vdsm_mp.ipc.handlers import read
from vdsm_mp.storage import (
    content_verbs,
    copy_verbs,
    data_copy,
    domain_verbs,
    host_verbs,
    image_sharing,
    image_transfer,
    image_verbs,
    lease_verbs,
    managed_verbs,
    merge_verbs,
    nbd_verbs,
    ovf_store,
    ovf_verbs,
    peers,
    pool_master_verbs,
    pool_verbs,
    running_verbs,
    sdm_verbs,
    status_verbs,
    volume_verbs,
)
from vdsm_mp.storage import jobs as job_verbs
from vdsm_mp.storage import tasks as task_verbs
from vdsm_mp.storage.connect_gluster import GlusterConnector
from vdsm_mp.storage.connect_local import LocalConnector
from vdsm_mp.storage.connect_mounted import Mounter
from vdsm_mp.storage.connect_nfs import NfsConnector
from vdsm_mp.storage.connect_posix import PosixConnector
from vdsm_mp.storage.connections import Connections
from vdsm_mp.storage.domain_file import FileDomain
from vdsm_mp.storage.domain_format import DomainType, NewDomains
from vdsm_mp.storage.image_prepare import RunLinks
from vdsm_mp.storage.image_remnants import Remnants
from vdsm_mp.storage.image_transfer import ImageDaemon
from vdsm_mp.storage.locks import ClusterLock, LocalLock, Locks
from vdsm_mp.storage.mailbox import Mailboxes
from vdsm_mp.storage.managed import ManagedVolumes
from vdsm_mp.storage.managed_records import Records
from vdsm_mp.storage.monitor_space import GIB, Limits
from vdsm_mp.storage.monitors import Monitors
from vdsm_mp.storage.pool import Pools
from vdsm_mp.storage.pool_master import MasterMoves
from vdsm_mp.storage.pool_members import Members
from vdsm_mp.storage.pool_upgrade import Upgrades
from vdsm_mp.storage.qemunbd import NbdServers
from vdsm_mp.storage.registry import Domains
from vdsm_mp.storage.resources import Resources
from vdsm_mp.storage.sanlock import SanlockLock
from vdsm_mp.storage.spm import Spm
from vdsm_mp.storage.stamp_lock import StampLock
from vdsm_mp.storage.volume_access import Volumes
from vdsm_mp.storage.volume_undo import Undoing
from vdsm_mp.tasks.jobs import Jobs
from vdsm_mp.tasks.registry import Tasks
from vdsm_mp.tasks.slots import Slots
from vdsm_mp.workers.base import Room

_log = logging.getLogger("storage")

#: Read here, so before the fork.
HANDLERS = (
    content_verbs,
    copy_verbs,
    data_copy,
    domain_verbs,
    host_verbs,
    image_sharing,
    image_transfer,
    image_verbs,
    job_verbs,
    lease_verbs,
    managed_verbs,
    merge_verbs,
    nbd_verbs,
    ovf_store,
    ovf_verbs,
    peers,
    pool_master_verbs,
    pool_verbs,
    running_verbs,
    sdm_verbs,
    status_verbs,
    task_verbs,
    volume_verbs,
)
read("storage", HANDLERS)

#: Exit code of a process that found itself inconsistent: started again, loudly.
INCONSISTENT = 70


def build(config: Config, ports: Ports) -> Room:
    mnt_dir = f"{config.irs.repository}/mnt"
    mounter = Mounter(mnt_dir, ports.children, ports.root)
    replica_counts = frozenset(int(part) for part in config.gluster.allowed_replica_counts.split(","))
    connections = Connections(
        mnt_dir,
        {
            DomainType.LOCALFS: LocalConnector(mnt_dir, ports.children),
            DomainType.NFS: NfsConnector(mnt_dir, mounter),
            DomainType.POSIXFS: PosixConnector(mnt_dir, mounter),
            DomainType.GLUSTERFS: GlusterConnector(mnt_dir, mounter, ports.root, replica_counts),
        },
    )
    domains = Domains(connections, ports.children)
    locks = Locks(lambda domain: _lock_of(domain, config.sanlock.io_timeout))
    monitors = Monitors(
        domains,
        locks,
        ports.publish,
        ports.background,
        period_s=float(config.irs.sd_health_check_delay),
        limits=Limits(config.vdsm_mp.domain_low_space_percent, config.vdsm_mp.domain_critical_space_gib * GIB),
    )
    pools = Pools(config.irs.repository, f"{config.vdsm_mp.run_dir}/storage-pool.json", domains, monitors)
    resources = Resources()
    upgrades = Upgrades(domains, locks, monitors, resources, ports.background)
    members = Members(domains, locks, pools, upgrades)
    long_work = Slots(ports.background)
    undoing = Undoing(domains, resources, locks, pools.has_left)
    tasks = Tasks(ports.background, undoing, long_work)
    spm = Spm(pools, locks, tasks, upgrades, Mailboxes(pools, domains), resources, ports.background, _panic)
    masters = MasterMoves(domains, locks, pools, tasks, ports.background, lambda: spm.ours, spm.follow_master)
    spm.after_start = masters.repair_roles
    monitors.on_verdict.append(masters.on_verdict)
    remnants = Remnants(domains, pools, spm, resources, ports.background)
    tasks.after_recovery = remnants.sweep
    undoing.on_left = remnants.expect
    monitors.on_verdict.append(remnants.on_verdict)
    volumes = Volumes(
        domains=domains,
        locks=locks,
        pools=pools,
        spm=spm,
        tasks=tasks,
        resources=resources,
        links=RunLinks(config.vdsm_mp.vdsm_run_dir),
        remnants=remnants,
    )
    jobs = Jobs(long_work, ports.publish, "storage")
    transfers = ovf_store.Transfers()
    return Room(
        state=(
            connections,
            domains,
            locks,
            monitors,
            pools,
            members,
            masters,
            upgrades,
            resources,
            tasks,
            spm,
            volumes,
            NewDomains(config.gluster.enable_4k_storage),
            jobs,
            NbdServers(config.vdsm_mp.vdsm_run_dir),
            ImageDaemon(),
            ManagedVolumes(
                ports.root,
                Records(f"{config.vdsm_mp.state_dir}/storage/managedvolume.db"),
                config.vdsm_mp.vdsm_run_dir,
                resources,
            ),
            transfers,
        ),
        handlers=HANDLERS,
        before_ready=(scratch.sweep, pools.restore),
        peer_changed=transfers.worker_changed,
        on_note={"stop-spm": lambda: spm.stop_now("the master was asked to stop it")},
        on_drain=(lambda: spm.stop_now("the worker is stopping"), monitors.close, domains.drop_all),
        vitals=lambda: {"tasks": tasks.vitals(), "work": long_work.vitals(), "spm": spm.state.value},
    )


def _lock_of(domain: FileDomain, io_timeout_s: int) -> ClusterLock:
    if domain.meta.kind.is_local:
        return LocalLock(domain)
    if not domain.format.sanlock:
        return StampLock(domain)
    return SanlockLock(domain, io_timeout_s)


def _panic(reason: str) -> None:
    """Leave without a word to storage: what we would still write is not ours any more."""
    _log.critical("the storage worker ends at once: %s", reason)
    logging.shutdown()
    os._exit(INCONSISTENT)
