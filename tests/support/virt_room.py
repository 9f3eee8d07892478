# SPDX-License-Identifier: Apache-2.0
"""The virt room without its worker: real libvirt, real threads, recorded ports.

Storage is a table of prepared drives; events land in a list. Replies are taken through their declared types, so a
handler whose answer does not fit its declaration fails here as it would on the bus.
"""

import threading
import typing
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import msgspec

from tests.support.lane import in_a_lane
from vdsm_mp.api.errors_lease import NoSuchLease
from vdsm_mp.api.errors_virt import DiskNotFound
from vdsm_mp.api.events import VmStatusChanged
from vdsm_mp.api.internal import (
    ChainLink,
    EnsureDummyBridge,
    MirrorNetworks,
    PreparedDrive,
    PrepareDrive,
    SampleVms,
    SetRunningLegality,
    SyncRunningChain,
    TeardownDrive,
)
from vdsm_mp.api.lease import GetLeaseInfo, LeaseInfo
from vdsm_mp.api.ports import CallContext, Ports
from vdsm_mp.api.verb import Message, spec_of
from vdsm_mp.api.vm import CreateVm, GetVmStats
from vdsm_mp.common.options import Config, GuestAgent, House, Irs, Sanlock, Vars
from vdsm_mp.workers import virt

DISK_IDS = {key: str(uuid.uuid4()) for key in ("poolID", "domainID", "imageID", "volumeID")}


class RecordedStorage:
    """Caller port. `images` {image id: path}, `volumes` {volume id: path} where an image has several.

    `leases` {lease id: (path, offset)}. `prepared`: what was asked for, in order; torn down images in `released`.
    """

    def __init__(self) -> None:
        self.images: dict[str, Path] = {}
        self.volumes: dict[str, Path] = {}
        self.prepared: list[PrepareDrive] = []
        self.released: list[str] = []
        self.leases: dict[str, tuple[str, int]] = {}
        self.legal: dict[str, bool] = {}
        self.synced: list[SyncRunningChain] = []
        self.gate = threading.Event()
        self.gate.set()
        #: Preparations that stand before the gate.
        self.waiting = 0
        self.fails: Exception | None = None
        #: Raised instead of taking an image back.
        self.away: Exception | None = None
        #: What makes the bridge of cards without a network.
        self.make_bridge: Callable[[], None] = lambda: None
        #: What copies networks to cards.
        self.mirror: Callable[[dict[str, list[str]]], dict[str, str]] = lambda cards: {}

    def ask(self, message: Message, *, deadline_s: float | None = None) -> Any:
        if isinstance(message, PrepareDrive):
            self.waiting += 1
            self.gate.wait(30)
            self.waiting -= 1
            self.prepared.append(message)
            if self.fails is not None:
                raise self.fails
            path = self.volumes.get(message.volume_id) or self.images.get(message.image_id)
            if path is None:
                raise DiskNotFound(message.image_id)
            link = ChainLink(
                sd_id=message.sd_id, image_id=message.image_id, volume_id=message.volume_id, path=str(path)
            )
            size = path.stat().st_size
            return PreparedDrive(
                path=str(path), format=_format(path), block=False, apparent_size_bytes=size, true_size_bytes=size,
                capacity_bytes=size, chain=[link],
            )  # fmt: skip
        if isinstance(message, SetRunningLegality):
            self.legal[message.volume_id] = message.legal
            return None
        if isinstance(message, SyncRunningChain):
            if self.fails is not None:
                raise self.fails
            self.synced.append(message)
            self.legal[message.merged_volume_id] = False
            return [message.base_volume_id, message.leaf_volume_id]
        if isinstance(message, GetLeaseInfo):
            name = message.lease
            if name.lease_id not in self.leases:
                raise NoSuchLease(name.lease_id, name.sd_id)
            path, offset = self.leases[name.lease_id]
            return LeaseInfo(sd_id=name.sd_id, lease_id=name.lease_id, path=path, offset=offset)
        if isinstance(message, EnsureDummyBridge):
            self.make_bridge()
            return None
        if isinstance(message, MirrorNetworks):
            return self.mirror(message.cards)
        assert isinstance(message, TeardownDrive)
        if self.away is not None:
            raise self.away
        self.released.append(message.image_id)
        return None


def _format(path: Path) -> str:
    with path.open("rb") as file:
        return "cow" if file.read(4) == b"QFI\xfb" else "raw"


class RecordedEvents:
    """Publisher port."""

    def __init__(self) -> None:
        self.all: list[Message] = []

    def publish(self, event: Message) -> None:
        msgspec.json.encode(event)
        self.all.append(event)

    def of(self, vm_id: str) -> list[dict[str, Any]]:
        return [e.info for e in self.all if isinstance(e, VmStatusChanged) and e.vm_id == vm_id]

    def statuses(self, vm_id: str) -> list[str]:
        return [info["status"] for info in self.of(vm_id)]


class ThreadBackground:
    """Background port on a small pool; keys in order, one at a time."""

    def __init__(self, threads: int) -> None:
        self.draining = False
        self.failures: list[BaseException] = []
        self._pool = ThreadPoolExecutor(threads)
        self._keys: dict[str, threading.Lock] = {}
        self._timers: list[threading.Timer] = []

    def start(self, name: str, job: Callable[[], None], *, key: str | None = None) -> None:
        self._pool.submit(self._run, job, key)

    def later(self, delay_s: float, name: str, job: Callable[[], None], *, key: str | None = None) -> Any:
        timer = threading.Timer(delay_s, lambda: None if self.draining else self.start(name, job, key=key))
        timer.daemon = True
        timer.start()
        self._timers = [t for t in self._timers if t.is_alive()] + [timer]
        return timer

    def stop(self) -> None:
        self.draining = True
        for timer in self._timers:
            timer.cancel()
        for timer in self._timers:
            timer.join()
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _run(self, job: Callable[[], None], key: str | None) -> None:
        try:
            with self._keys.setdefault(key, threading.Lock()) if key else threading.Lock():
                job()
        except BaseException as error:
            self.failures.append(error)


class Nobody:
    """Ports that the room under test must not use."""

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"port {name} is not for this test")


class VirtRoom:
    """One life of the worker. `ask(message)` calls the handler in this thread."""

    def __init__(
        self,
        uri: str,
        folder: Path,
        *,
        command_timeout_s: int = 60,
        agent_timeout_s: int = 1,
        root: Any = None,
        threads: int = 16,
    ) -> None:
        self.storage = RecordedStorage()
        self.events = RecordedEvents()
        self.background = ThreadBackground(threads)
        self.closed = False
        self.folder = folder
        config = Config(
            vars=Vars(
                vm_command_timeout=command_timeout_s,
                user_shutdown_timeout=0,
                sys_shutdown_timeout=1,
                transient_disks_repository=f"{folder}/transient",
            ),
            irs=Irs(repository=str(folder)),
            sanlock=Sanlock(),
            guest_agent=GuestAgent(qga_command_timeout=agent_timeout_s),
            vdsm_mp=House(
                libvirt_uri=uri, state_dir=str(folder), vdsm_run_dir=str(folder), hooks_dir=f"{folder}/hooks.d"
            ),
        )
        ports = Ports(
            worker="virt",
            call=self.storage,
            publish=self.events,
            background=self.background,
            children=typing.cast(Any, Nobody()),
            root=typing.cast(Any, root or Nobody()),
        )
        self.room = virt.build(config, ports)
        self._handlers = {
            function.__handles__: function
            for module in self.room.handlers
            for function in vars(module).values()
            if hasattr(function, "__handles__")
        }
        for start in self.room.before_ready:
            start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self.closed = True
        self.storage.gate.set()
        self.background.draining = True
        for end in self.room.on_drain:
            end()
        self.background.stop()

    def state(self, kind: type) -> Any:
        return next(thing for thing in self.room.state if isinstance(thing, kind))

    def ask(self, message: Message) -> Any:
        spec = spec_of(type(message))
        function = self._handlers[type(message)]
        hints = typing.get_type_hints(function)
        context = CallContext(verb=spec.name, flow_id="test", peer="test", deadline_mono=float("inf"))
        values = {type(thing): thing for thing in (*self.room.state, message, context)}
        answer = in_a_lane(partial(function, **{n: values[kind] for n, kind in hints.items() if n != "return"}))
        if spec.reply is None:
            assert answer is None
            return True
        return msgspec.to_builtins(msgspec.json.decode(msgspec.json.encode(answer), type=spec.reply))

    def call(self, verb: str, **params: Any) -> Any:
        """By wire names, as the door decodes it."""
        from vdsm_mp.api.verb import VERBS

        return self.ask(msgspec.convert(params, VERBS[verb].message, strict=False))

    # -- VMs

    def create(self, xml: str, vm_id: str, **params: Any) -> Any:
        return self.ask(CreateVm(vm_id=vm_id, vm_params={"vmId": vm_id, "xml": xml, **params}))

    def stats(self, vm_id: str) -> dict[str, Any]:
        (entry,) = self.ask(GetVmStats(vm_id=vm_id))
        assert isinstance(entry, dict)
        return entry

    def status(self, vm_id: str) -> str:
        return str(self.stats(vm_id)["status"])

    def sample(self) -> None:
        self.ask(SampleVms(kind="bulk"))


def vm_xml(
    vm_id: str,
    *,
    serial: Path | None = None,
    disk: dict[str, str] | None = None,
    devices: str = "",
    metadata: str = "",
    custom: str = "",
    name: str = "",
    memory_mib: int = 16,
    cputune: str = "",
) -> str:
    """A VM as the engine writes it, as small as it gets. disk: the four ids of its boot disk."""
    ids = "".join(f"<ovirt-vm:{key}>{value}</ovirt-vm:{key}>" for key, value in (disk or {}).items())
    device = f'<ovirt-vm:device devtype="disk" name="hda">{ids}</ovirt-vm:device>' if disk else ""
    boot = (
        '<disk type="file" device="disk" snapshot="no"><target dev="hda" bus="ide"/>'
        f'<source file="/rhev/data-center/{disk["poolID"]}/{disk["domainID"]}/images/{disk["imageID"]}/'
        f'{disk["volumeID"]}"/><driver name="qemu" type="raw" cache="none" error_policy="stop"/>'
        '<boot order="1"/></disk>'
        if disk
        else ""
    )
    console = f'<serial type="file"><source path="{serial}" append="on"/></serial>' if serial else ""
    return f"""<?xml version="1.0" encoding="UTF-8"?>
<domain type="kvm" xmlns:ovirt-tune="http://ovirt.org/vm/tune/1.0" xmlns:ovirt-vm="http://ovirt.org/vm/1.0">
<name>{name or "vm-" + vm_id[:8]}</name><uuid>{vm_id}</uuid><memory>{memory_mib * 1024}</memory>
<currentMemory>{memory_mib * 1024}</currentMemory><vcpu current="1">4</vcpu>
<sysinfo type="smbios"><system><entry name="manufacturer">oVirt</entry><entry name="product">OS-NAME:</entry>
<entry name="version">OS-VERSION:</entry><entry name="serial">HOST-SERIAL:</entry><entry name="uuid">{vm_id}</entry>
</system></sysinfo><clock offset="variable" adjustment="0"><timer name="rtc" tickpolicy="catchup"/></clock>
<features><acpi/></features><cputune>{cputune}</cputune><cpu mode="host-passthrough"/><on_poweroff>destroy</on_poweroff>
<os><type arch="x86_64" machine="pc">hvm</type><smbios mode="sysinfo"/></os>
<devices><emulator>/usr/bin/qemu-system-x86_64</emulator>{boot}{console}
<controller type="usb" model="none"/>{devices}</devices>
<metadata><ovirt-tune:qos/><ovirt-vm:vm><ovirt-vm:minGuaranteedMemoryMb type="int">8</ovirt-vm:minGuaranteedMemoryMb>
<ovirt-vm:clusterVersion>4.7</ovirt-vm:clusterVersion><ovirt-vm:custom>{custom}</ovirt-vm:custom>{metadata}{device}
<ovirt-vm:launchPaused>false</ovirt-vm:launchPaused><ovirt-vm:resumeBehavior>auto_resume</ovirt-vm:resumeBehavior>
</ovirt-vm:vm></metadata></domain>"""
