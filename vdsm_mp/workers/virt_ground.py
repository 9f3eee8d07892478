# SPDX-License-Identifier: Apache-2.0
"""What all parts of virt's room stand on: the connection, the registry, and what reads and keeps VMs for everybody."""

from pathlib import Path

import msgspec

from vdsm_mp.api.ports import Ports
from vdsm_mp.common.hooks import Hooks
from vdsm_mp.common.options import Config
from vdsm_mp.virt.agent import Turns
from vdsm_mp.virt.backup_files import BackupFiles
from vdsm_mp.virt.connection import Connection
from vdsm_mp.virt.domxml_build import Policy
from vdsm_mp.virt.drives import Drives
from vdsm_mp.virt.dummynet import DummyNet
from vdsm_mp.virt.keeping import Keeper
from vdsm_mp.virt.orphans import Orphans
from vdsm_mp.virt.patience import Again
from vdsm_mp.virt.payload import Payloads
from vdsm_mp.virt.registry import Vms
from vdsm_mp.virt.sampling import Sampler
from vdsm_mp.virt.stats import Stats
from vdsm_mp.virt.transient import Transients
from vdsm_mp.virt.vmhooks import VmHooks

#: Where disks may lie that are not named by their volume; CDs of drivers come with the host.
_CD_FOLDERS = ("/usr/share/virtio-win", "/usr/share/rhev-guest-tools-iso")


class Ground(msgspec.Struct, frozen=True):
    """What all parts of the room stand on."""

    policy: Policy
    connection: Connection
    vms: Vms
    numbers: Stats
    keeper: Keeper
    drives: Drives
    sampler: Sampler
    hooks: VmHooks
    turns: Turns
    dummynet: DummyNet
    payloads: Payloads
    transients: Transients
    backup_files: BackupFiles
    again: Again
    orphans: Orphans

    def sweep(self) -> None:
        """After stock was taken: files of VMs that are over go."""
        self.transients.keep_only(self.vms.all())
        self.backup_files.keep_only(self.vms.all)


def stand_on(config: Config, ports: Ports) -> Ground:
    """Make it. Nothing is begun: the connection opens when the room is about to be ready."""
    house = config.vdsm_mp
    policy = _policy(config)
    connection = Connection(house.libvirt_uri)
    vms = Vms(ports.publish)
    numbers = Stats(config.vars.vm_command_timeout)
    return Ground(
        policy=policy,
        connection=connection,
        vms=vms,
        numbers=numbers,
        keeper=Keeper(connection, vms),
        drives=Drives(ports.call, ports.background),
        sampler=Sampler(connection, vms, numbers, ports.background),
        hooks=VmHooks(Hooks(house.hooks_dir, f"{house.vdsm_run_dir}/hooks"), connection, house.vdsm_run_dir),
        turns=Turns(),
        dummynet=DummyNet(ports.call, ports.background),
        payloads=Payloads(Path(policy.payload_folder)),
        transients=Transients(Path(config.vars.transient_disks_repository)),
        backup_files=BackupFiles(
            Path(house.vdsm_run_dir) / "backup", Path(house.state_dir) / "storage" / "transient_disks"
        ),
        again=Again(ports.background),
        orphans=Orphans(connection, vms, ports.background, ports.root),
    )


def _policy(config: Config) -> Policy:
    house = config.vdsm_mp
    return Policy(
        disk_folders=(
            config.irs.repository,
            f"{house.vdsm_run_dir}/storage",
            f"{house.vdsm_run_dir}/managedvolumes",
            *_CD_FOLDERS,
        ),
        payload_folder=f"{house.vdsm_run_dir}/payload",
        qemu_commandline=house.allow_qemu_commandline,
    )
