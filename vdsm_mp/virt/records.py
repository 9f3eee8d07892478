# SPDX-License-Identifier: Apache-2.0
"""What we know of a VM, as frozen records. They are replaced, never edited; see `registry.Vms.change`."""

from collections.abc import Mapping
from typing import Any, Self

import msgspec
from msgspec.structs import astuple, replace

from vdsm_mp.virt.machine import Life
from vdsm_mp.virt.metadata import Metadata

#: VDSM's names of the four ids of a volume, in their order.
VOLUME_KEYS = ("poolID", "domainID", "imageID", "volumeID")


class VolumeIds(msgspec.Struct, frozen=True):
    """The four names of a volume on storage; VDSM calls it PDIV."""

    pool_id: str
    sd_id: str
    image_id: str
    volume_id: str

    @classmethod
    def of(cls, named: Mapping[str, Any]) -> Self:
        """From VDSM's names, whatever stands there. Raises: KeyError. Checked: `domxml_parse.volume_ids`."""
        return cls(*(str(named[key]) for key in VOLUME_KEYS))

    @property
    def image(self) -> tuple[str, str]:
        """(domain, image): what is given back as one. A mirror's image has the same id on both domains."""
        return self.sd_id, self.image_id

    def named(self) -> dict[str, str]:
        """By VDSM's names."""
        return dict(zip(VOLUME_KEYS, astuple(self), strict=True))


class Drive(msgspec.Struct, frozen=True):
    """A disk, CD-ROM or floppy. name: target dev (`sda`); path: what QEMU has open, "" when empty.

    payload: made of files that the engine gave. guest_name: what the guest calls it, as its agent told.
    transient: what is written to it is lost with it.
    """

    name: str
    device: str
    bus: str = ""
    alias: str = ""
    path: str = ""
    format: str = "raw"
    readonly: bool = False
    ids: VolumeIds | None = None
    guid: str = ""
    payload: bool = False
    serial: str = ""
    guest_name: str = ""
    transient: bool = False
    apparent_size_bytes: int = 0
    true_size_bytes: int = 0

    @property
    def identity(self) -> dict[str, str]:
        """Which data in the VM's metadata are its."""
        return {"devtype": "disk", "name": self.name}


class Nic(msgspec.Struct, frozen=True):
    """name: the tap device on the host, "" until it runs. mirrors: networks whose traffic it gets a copy of."""

    mac: str
    name: str = ""
    model: str = ""
    alias: str = ""
    network: str = ""
    mirrors: tuple[str, ...] = ()


class Graphics(msgspec.Struct, frozen=True):
    """A console. Ports as text, "-1" when there is none: that is how clients want them."""

    type: str
    port: str = "-1"
    tls_port: str = "-1"
    address: str = "0"


class Devices(msgspec.Struct, frozen=True):
    """What the live XML says. hash: changes when anything in it does. pins: {CPU: those of the host it runs on}."""

    drives: tuple[Drive, ...] = ()
    nics: tuple[Nic, ...] = ()
    graphics: tuple[Graphics, ...] = ()
    vcpus: int = 1
    pins: Mapping[int, frozenset[int]] = msgspec.field(default_factory=dict)
    max_memory_kib: int = 0
    memory_kib: int = 0
    has_balloon: bool = False
    acpi: bool = True
    kvm: bool = True
    agent_channel: bool = False
    agent_connected: bool = False
    has_tpm: bool = False
    nvram_path: str = ""
    hash: str = ""


class VmRecord(msgspec.Struct, frozen=True):
    """One VM.

    started_wall: seconds since the epoch, None while it has not started. time_offset: seconds, as text.
    guest: what its agent told, in the shape of the statistics. jobs: {job id: entry of vmJobs}; None = not known yet.
    stop_told: libvirt's event that it has ended has come. orphan: ids of its
    processes, when it runs and libvirt doesn't know it (`orphans`).
    """

    vm_id: str
    name: str
    life: Life = msgspec.field(default_factory=Life)
    stop_told: bool = False
    orphan: frozenset[int] = frozenset()
    external: bool = False
    metadata: Metadata = msgspec.field(default_factory=Metadata)
    devices: Devices = msgspec.field(default_factory=Devices)
    started_wall: float | None = None
    time_offset: str = "0"
    initial_time_offset_s: int = 0
    client_ip: str = ""
    #: (address, port) of the connections to its console that we saw come, the latest last.
    viewers: tuple[tuple[str, str], ...] = ()
    #: {alias, name, path} of the disk that failed last.
    io_error: Mapping[str, str] | None = None
    watchdog: Mapping[str, Any] | None = None
    guest: Mapping[str, Any] = msgspec.field(default_factory=dict)
    #: When its agent connected, as far as we saw it: after that it is another one.
    agent_since_mono: float = 0.0
    jobs: Mapping[str, Mapping[str, Any]] | None = msgspec.field(default_factory=dict)
    vcpu_quota: int | None = None
    vcpu_period: int | None = None
    vcpu_limit: str = ""
    io_tune: tuple[Mapping[str, Any], ...] = ()
    external_hashes: Mapping[str, str] = msgspec.field(default_factory=dict)
    migration_progress: int | None = None

    def with_life(self, life: Life) -> "VmRecord":
        return replace(self, life=life)

    def drive(self, ids: VolumeIds) -> Drive | None:
        """The drive on that image."""
        return next((d for d in self.devices.drives if d.ids is not None and d.ids.image_id == ids.image_id), None)
