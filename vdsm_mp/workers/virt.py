# SPDX-License-Identifier: Apache-2.0
"""Libvirt and the VMs. Owns the libvirt connection and the VM registry. Blocks in lanes and in the background only."""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from vdsm_mp.api.events import DomainValidityChanged
from vdsm_mp.api.ports import Ports
from vdsm_mp.api.vm import GetVmStats
from vdsm_mp.api.vm_host import GetAllVmStats
from vdsm_mp.common import scratch
from vdsm_mp.common.options import Config
from vdsm_mp.tasks.jobs import Jobs
from vdsm_mp.tasks.slots import Slots
from vdsm_mp.virt import (
    alignment,
    backup,
    cpu,
    desktop,
    disk,
    ending,
    externaldata,
    graphics,
    guestdisks,
    guestfs,
    hibernation,
    hostdev,
    hostfacts,
    hypervisor,
    late,
    leases,
    listing,
    livemerge,
    memory,
    migration_source,
    migration_target,
    nic,
    nwfilter,
    plug_disk,
    plug_hostdev,
    plug_nic,
    power,
    replicate,
    resuming,
    sampling,
    seal,
    secrets,
    snapshot,
    starting,
    stats,
    tuning,
    v2v,
)
from vdsm_mp.virt.agent import Agents
from vdsm_mp.virt.awaited import Awaited
from vdsm_mp.virt.backup import Backups
from vdsm_mp.virt.backup_freeze import Freezes
from vdsm_mp.virt.consoles import Consoles
from vdsm_mp.virt.cpupool import CpuPool
from vdsm_mp.virt.devices import Devices
from vdsm_mp.virt.disk import Changes
from vdsm_mp.virt.ending import Ender
from vdsm_mp.virt.externaldata import ExternalData
from vdsm_mp.virt.guesttime import GuestTime
from vdsm_mp.virt.hibernation import Hibernations
from vdsm_mp.virt.hostdev_mdev import Mdevs
from vdsm_mp.virt.hostdev_taken import HostDevices
from vdsm_mp.virt.launch import Launches
from vdsm_mp.virt.leftovers import Leftovers
from vdsm_mp.virt.livemerge import Merges
from vdsm_mp.virt.migration_peer import Peers
from vdsm_mp.virt.migration_source import Migrations
from vdsm_mp.virt.migration_target import Arrivals
from vdsm_mp.virt.mirrors import Mirrors
from vdsm_mp.virt.plug import Plugger, Removals
from vdsm_mp.virt.power import Power
from vdsm_mp.virt.recovery import Recovery
from vdsm_mp.virt.replicate import Replications
from vdsm_mp.virt.resuming import Resumer
from vdsm_mp.virt.starting import Starter
from vdsm_mp.virt.v2v_jobs import Conversions
from vdsm_mp.virt.v2v_run import Converter
from vdsm_mp.wire.tls import Files
from vdsm_mp.workers.base import Room
from vdsm_mp.workers.virt_ground import stand_on

#: Each conversion is a machine of its own, and reads and writes as fast as it can.
_CONVERSIONS = 3

#: After a restart: what was under way when we died has begun in libvirt by then.
_SETTLED_S = 5.0


def build(config: Config, ports: Ports) -> Room:
    ground = stand_on(config, ports)
    house = config.vdsm_mp
    launches = Launches(ports.background)
    facts = hostfacts.gather(house.vdsm_id_file)
    times = GuestTime(ground.connection, ground.vms, ground.turns, ports.background)
    mirrors = Mirrors(ports.call, ground.vms, ports.background)
    hostdevs = HostDevices(
        ground.connection,
        ground.vms,
        ground.keeper,
        ports.background,
        Mdevs(ports.root),
        Path(house.vdsm_run_dir) / "hostdev",
    )
    awaited = Awaited(ground.connection, ground.vms, ground.sampler, ground.orphans, ports.background)
    starter = Starter(
        ground.connection,
        ground.vms,
        keeper=ground.keeper,
        drives=ground.drives,
        sampler=ground.sampler,
        launches=launches,
        facts=facts,
        policy=ground.policy,
        hooks=ground.hooks,
        root=ports.root,
        payloads=ground.payloads,
        transients=ground.transients,
        dummynet=ground.dummynet,
        times=times,
        mirrors=mirrors,
        hostdevs=hostdevs,
        awaited=awaited,
        orphans=ground.orphans,
    )
    pool = CpuPool(ground.connection, ground.vms, ground.keeper, ports.background)
    ender = Ender(
        ground.connection,
        ground.vms,
        keeper=ground.keeper,
        drives=ground.drives,
        stats=ground.numbers,
        starter=starter,
        background=ports.background,
        hooks=ground.hooks,
        payloads=ground.payloads,
        transients=ground.transients,
        backup_files=ground.backup_files,
        pool=pool,
        mirrors=mirrors,
        hostdevs=hostdevs,
        orphans=ground.orphans,
    )
    powers = Power(ground.connection, ground.vms, ground.keeper, ports.background, config.vars, ground.hooks, times)
    devices = Devices(
        ground.connection,
        ground.vms,
        ground.keeper,
        ground.drives,
        ground.policy,
        ground.dummynet,
        ground.transients,
        ground.turns,
        hostdevs,
    )
    agents = Agents(
        ground.connection,
        ground.vms,
        devices.turns,
        ports.background,
        config.guest_agent.qga_command_timeout,
        partial(guestdisks.learn, ground.keeper),
    )
    resumer = Resumer(powers, ports.background, pause_limit_s=8.0 * config.sanlock.io_timeout)
    jobs = Jobs(ports.background, ports.publish, "virt")
    plugger = Plugger(devices, Removals(), ground.hooks.devices)
    remains = Leftovers(devices, ground.again, plugger.is_coming)
    plugger.undecided = remains.look

    conversions = Conversions(Path(house.vdsm_run_dir) / "v2v", Slots(ports.background, _CONVERSIONS))
    converter = Converter(ground.drives, conversions.folder, Path(house.state_dir) / "v2v")

    backups = Backups(devices, Freezes(devices, ground.again), ground.backup_files, ground.again)
    merges = Merges(devices, ports.call, ports.background)
    replications = Replications(devices, ground.hooks.devices, ports.background)
    changes = Changes(devices, ground.hooks.devices, ports.background)

    arrivals = Arrivals(
        ground.connection,
        ground.vms,
        keeper=ground.keeper,
        drives=ground.drives,
        sampler=ground.sampler,
        background=ports.background,
        policy=ground.policy,
        variables=config.vars,
        hooks=ground.hooks,
        payloads=ground.payloads,
        dummynet=ground.dummynet,
        hostdevs=hostdevs,
    )
    hibernations = Hibernations(
        ground.connection, ground.vms, ground.keeper, ground.drives, ports.background, ground.hooks
    )
    migrations = Migrations(
        ground.connection,
        ground.vms,
        keeper=ground.keeper,
        peers=_peers(config),
        background=ports.background,
        publisher=ports.publish,
        variables=config.vars,
        libvirt_uri=house.migration_libvirt_uri.replace("{transport}", "tls" if config.vars.ssl else "tcp"),
        hooks=ground.hooks,
    )

    def unfinished(vm_id: str) -> None:
        for what in (migrations, arrivals, hibernations):
            if (record := ground.vms.get(vm_id)) is not None:
                what.recovered(record)
        changes.look(vm_id)
        snapshot.finish_snapshot(devices, jobs, ground.again, vm_id)
        merges.load(vm_id)
        replications.look(vm_id)
        backups.freezes.look(vm_id)
        power.go_on_shutting_down(powers, ground.again, vm_id)
        remains.look(vm_id)
        ports.background.later(_SETTLED_S, f"host devices of {vm_id}", partial(hostdevs.compare, vm_id))

    recovery = Recovery(
        ground.connection,
        ground.vms,
        keeper=ground.keeper,
        drives=ground.drives,
        sampler=ground.sampler,
        removals=plugger.removals,
        unfinished=unfinished,
        ended=migrations.left_unseen,
        block_job=merges.event,
        arrival=arrivals.event,
        job_completed=migrations.completed,
        console_left=Consoles(powers, ports.background, partial(desktop.tell, devices)).left,
        device_gone=hostdevs.compare,
        unasked=partial(late.gone, devices, mirrors),
        awaited=awaited,
        orphans=ground.orphans,
        background=ports.background,
    )
    ground.vms.describe = ground.numbers.running
    ground.vms.perform = ender.perform
    ground.vms.hangs, ground.vms.busy = ground.sampler.hangs, partial(snapshot.busy, jobs)

    def connected(conn: Any) -> None:
        nwfilter.ensure(conn)
        recovery.take_stock(conn)
        ground.sweep()
        hostdevs.look()
        pool.changed()
        mirrors.changed()

    return Room(
        state=(
            ground.connection,
            ground.vms,
            ground.hooks,
            ground.hooks.hooks,
            ground.numbers,
            ground.keeper,
            ground.drives,
            ground.sampler,
            starter,
            ender,
            powers,
            devices,
            ExternalData(ground.vms, ports.root),
            agents,
            facts,
            plugger,
            jobs,
            merges,
            replications,
            changes,
            backups,
            migrations,
            arrivals,
            hibernations,
            resumer,
            pool,
            mirrors,
            conversions,
            converter,
            hostdevs,
        ),
        handlers=(
            alignment,
            backup,
            cpu,
            desktop,
            memory,
            migration_source,
            migration_target,
            plug_disk,
            plug_hostdev,
            plug_nic,
            disk,
            ending,
            externaldata,
            graphics,
            guestfs,
            hibernation,
            hostdev,
            hypervisor,
            leases,
            listing,
            livemerge,
            nic,
            power,
            replicate,
            resuming,
            sampling,
            seal,
            secrets,
            snapshot,
            starting,
            stats,
            tuning,
            v2v,
        ),
        may_block={
            GetAllVmStats: partial(stats.may_block, ground.hooks.hooks, "all_vm_stats"),
            GetVmStats: partial(stats.may_block, ground.hooks.hooks, "vm_stats"),
        },
        before_ready=(
            ground.hooks.prepare,
            scratch.sweep,
            ground.payloads.sweep,
            partial(v2v.take_up, conversions, converter, ports.background),
            lambda: ground.connection.start(connected),
        ),
        subscribes={DomainValidityChanged: resumer.storage_changed},
        peer_changed=partial(_peer_changed, {"storage": recovery.storage_is_back, "network": mirrors.network_is_back}),
        on_drain=(ground.connection.close,),
        vitals=lambda: {
            "libvirt": "connected" if ground.connection.alive else "not connected",
            "libvirt_reconnects": ground.connection.reconnects,
            "libvirt_calls_late": ground.connection.calling.changed,
            "vms": len(ground.vms.all()),
            "starts_waiting": len(launches),
            "samples_hanging": ground.sampler.hanging,
            "samples_skipped": ground.sampler.skipped,
            "problems": [
                *([] if ground.connection.alive else ["libvirt is not connected: VMs cannot be looked at or changed"]),
                *(
                    f"VM {name} runs, and libvirt doesn't know it any more: destroy it"
                    for name in ground.orphans.names()
                ),
                *(
                    f"VM {name} has ended, and libvirtd holds a call about it: restart libvirtd, guests go on"
                    for name in ender.kept()
                ),
            ],
        },
    )


def _peer_changed(back: Mapping[str, Callable[[], None]], worker: str, up: bool) -> None:
    if up and worker in back:
        back[worker]()


def _peers(config: Config) -> Peers:
    house = config.vdsm_mp
    pki = Files.below(house.pki_dir, house.crl_file) if config.vars.ssl else None
    return Peers(pki, config.vars.migration_create_timeout)
