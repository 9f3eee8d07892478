# SPDX-License-Identifier: Apache-2.0
"""A house with real storage and a real libvirtd, in which something dies at a step of what is done to a VM.

    with VmWorld.open() as world:
        world.run(case)

Afterwards the harness does what an engine does: looks whether the work was done, and asks again when it was not. Then
QEMU's chain, the files, the volumes' metadata and our notes must say the same; nothing is under way any more; and the
guest has gone on, or is Down with its reason and starts again from what storage calls its leaf.
"""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from demonstration import sequences
from tests.faults.vm_steps import FROZEN_LIBVIRTD, NOBODY, VIRT_BESIDE_HANGING_QEMU, Case
from tests.support.bootsector import boot_sector, hellos, last_tick
from tests.support.eventually import eventually
from tests.support.house import RunningHouse
from tests.support.libvirtd import PrivateLibvirtd
from tests.support.stepping import Stepping
from tests.support.virt_room import vm_xml
from vdsm_mp.api.errors import RemoteError
from vdsm_mp.common import xml
from vdsm_mp.common.errors import Error
from vdsm_mp.virt.chain import running_chain
from vdsm_mp.virt.metadata import Metadata

SIZE_BYTES = 1 << 20
#: A worker that died so often waits before it starts again; a new house does not.
_DEATHS_OF_A_HOUSE = 4
_LIVES = ("Up", "Powering up")
#: Until a call has reached libvirtd, and how long QEMU hangs beside a new worker that takes stock.
_ASKED_S, _HANGS_S = 1.0, 3.0
#: A whole house starts or ends, beside whatever else this machine does. Whoever runs this at the lowest priority gets a
#: few hundredths of a second of a minute, and that is what a house begins with.
_READY_S = 90.0
#: Block jobs are looked at so often.
_A_BEAT_S = 16.0


@dataclass
class Guest:
    """One VM. layers: its volumes, base first. sd_id: where they are. more: what the operation needs besides."""

    image_id: str
    layers: list[str]
    sd_id: str
    serial: Path
    vm_id: str = field(default_factory=sequences.new_id)
    more: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return f"vm-{self.vm_id[:8]}"


class VmWorld:
    """See the module."""

    def __init__(self, stack: contextlib.ExitStack) -> None:
        self.libvirtd = stack.enter_context(PrivateLibvirtd.start())
        self.house = stack.enter_context(
            RunningHouse.start(table="tests.support.stepped_table", libvirt_uri=self.libvirtd.uri, wait=False)
        )
        self.house.wait_ready(_READY_S)
        self.folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="vdsm-mp-data-", dir="/tmp")))
        self.folder.chmod(0o755)
        self._deaths = 0
        self.storage = sequences.Storage(str(self._folder("one")))
        self.other = sequences.Storage(str(self._folder("two")), pool_id=self.storage.pool_id)
        sequences.from_nothing(self.ask, self.storage, "one")
        sequences.add_domain(self.ask, self.other, "two")

    @classmethod
    @contextlib.contextmanager
    def open(cls) -> Iterator[Self]:
        with contextlib.ExitStack() as stack:
            yield cls(stack)

    def _folder(self, name: str) -> Path:
        made = self.folder / name
        made.mkdir()
        shutil.chown(made, "vdsm", "kvm")
        made.chmod(0o755)
        return made

    # -- asking

    def ask(self, verb: str, /, **params: Any) -> Any:
        """Raises: Refused, as `sequences` wants it, and what the connection raises."""
        try:
            return self.house.call(verb, params, timeout_s=90)
        except RemoteError as error:
            raise sequences.Refused(verb, error.code, str(error)) from error

    def patiently(self, work: Callable[[], Any], within_s: float = 30.0) -> Any:
        """Again and again until it is answered: what an engine does while a host recovers."""
        last: list[Exception] = []

        def answered() -> Any:
            try:
                return (work(),)
            except (sequences.Refused, Error) as error:
                last[:] = [error]
                return None

        try:
            return eventually(answered, within_s=within_s, every_s=0.1)[0]
        except AssertionError:
            raise (last[0] if last else AssertionError("not in time")) from None

    def status(self, guest: Guest) -> str:
        return str(sequences.vm_stats(self.ask, guest.vm_id).get("status", ""))

    def domain(self, guest: Guest) -> Any:
        return xml.parse(self.ask("Host.dumpxmls", vmList=[guest.vm_id])[guest.vm_id])

    def chain(self, guest: Guest) -> list[str]:
        """The volumes QEMU has open, leaf first."""
        return [link.volume_id for link in running_chain(_disk(self.domain(guest)))]

    # -- storage

    def volume(self, image_id: str = "", *, on: str = "", sd_id: str = "") -> tuple[str, str]:
        """A new volume, on another one or on nothing: (image id, volume id)."""
        storage = self.other if sd_id == self.other.sd_id else self.storage
        disk = sequences.Disk(storage, SIZE_BYTES, sequences.COW if on else sequences.RAW)
        disk.image_id = image_id or disk.image_id
        task = self.ask(
            "Volume.create", **disk.params(), size=str(SIZE_BYTES), volFormat=disk.form,
            preallocate=sequences.SPARSE, diskType="DATA", desc="", srcImgUUID=image_id if on else sequences.BLANK,
            srcVolUUID=on or sequences.BLANK, sequence=1,
        )  # fmt: skip
        eventually(lambda: self.ask("Task.getStatus", taskID=task)["taskState"] == "finished", every_s=0.02)
        sequences.finish_task(self.ask, task)
        return disk.image_id, disk.volume_id

    def path(self, sd_id: str, image_id: str, volume_id: str) -> Path:
        storage = self.other if sd_id == self.other.sd_id else self.storage
        return Path(storage.path) / sd_id / "images" / image_id / volume_id

    def take_role(self) -> None:
        """What an engine does when storage is back."""
        self.patiently(lambda: sequences.take_role(self.ask, self.storage, self.other))

    # -- guests

    def guest(self, *, start: bool = True) -> Guest:
        """A VM whose disk is a raw base with a qcow2 leaf on it; it boots from the base."""
        image_id, base = self.volume()
        with self.path(self.storage.sd_id, image_id, base).open("r+b") as file:
            file.write(boot_sector())
        _, leaf = self.volume(image_id, on=base)
        guest = Guest(image_id, [base, leaf], self.storage.sd_id, self.libvirtd.root / f"{image_id}.log")
        if start:
            self.start(guest)
        return guest

    def start(self, guest: Guest) -> None:
        """From the leaf, until it runs."""
        self.create(guest)
        sequences.wait_for_status(self.ask, guest.vm_id, *_LIVES)
        eventually(lambda: last_tick(guest.serial) > 0, within_s=30)

    def create(self, guest: Guest, **more: Any) -> None:
        """Asked for, not waited for. more: as VM.create has it; a guest that wakes goes on writing where it was."""
        if not more:
            guest.serial.unlink(missing_ok=True)
        disk = {
            "poolID": self.storage.pool_id, "domainID": guest.sd_id, "imageID": guest.image_id,
            "volumeID": guest.layers[-1],
        }  # fmt: skip
        text = vm_xml(guest.vm_id, serial=guest.serial, disk=disk)
        self.ask("VM.create", vmID=guest.vm_id, vmParams={"vmId": guest.vm_id, "xml": text, **more})

    def destroy(self, guest: Guest) -> None:
        try:
            self.ask("VM.destroy", vmID=guest.vm_id, gracefulAttempts=0)
        except sequences.Refused as error:
            if error.code != 1:
                raise

    # -- one death

    def run(self, case: Case) -> None:
        """Raises AssertionError when a promise is broken."""
        from tests.faults import vm_operations, vm_sleep

        self._renew_house()
        operation = (vm_operations.OPERATIONS | vm_sleep.OPERATIONS)[case.operation]
        guest = self.guest(start=operation.needs_a_running_vm)
        operation.prepare(self, guest)
        self._strike(case, guest, lambda: operation.begin(self, guest))
        if case.victim == "QEMU":
            self._is_down(guest, operation.ends)
        else:
            operation.settle(self, guest)
            self.patiently(lambda: self._is_well(guest))
            self._agrees(guest)
            self.destroy(guest)
        operation.after(self, guest)
        self._starts_again(guest)

    def _strike(self, case: Case, guest: Guest, begin: Callable[[], None]) -> None:
        stepping = Stepping(self.house.root / "vrun")
        stepping.arm(case.moment, case.step, case.number)
        asking = threading.Thread(target=_quietly, args=(begin,), daemon=True)
        asking.start()
        stepping.wait()
        self._kill(case.victim, guest, stepping)
        asking.join(90)
        assert not asking.is_alive(), f"{case}: the call was never answered"

    def _kill(self, victim: str, guest: Guest, stepping: Stepping) -> None:
        if victim == "libvirtd":
            self.libvirtd.kill()
            stepping.go()
            self.libvirtd.launch()
        elif victim == "QEMU":
            os.kill(self.libvirtd.qemu_pid(guest.name), signal.SIGKILL)
            stepping.go()
        elif victim == NOBODY:
            time.sleep(_A_BEAT_S)
            stepping.go()
        elif victim == FROZEN_LIBVIRTD:
            self.libvirtd.freeze()
            with self._hanging(guest):
                stepping.go()
                eventually(lambda: self._libvirt() == "not connected", within_s=30)
                self.libvirtd.thaw()
                eventually(lambda: self._libvirt() == "connected", within_s=30)
        elif victim == VIRT_BESIDE_HANGING_QEMU:
            with self._hanging(guest):
                stepping.go()
                time.sleep(_ASKED_S)
                self._kill("virt", guest, stepping)
        else:
            pid = self.house.pid_of(victim)
            os.kill(pid, signal.SIGKILL)
            stepping.go()
            self.house.wait_other_pid(victim, pid, within_s=40)
            self._deaths += 1
            if victim == "storage":
                self.take_role()
        self.patiently(lambda: self.ask("Host.dumpxmls"))

    @contextlib.contextmanager
    def _hanging(self, guest: Guest) -> Iterator[None]:
        """Its QEMU, if it has one, until some seconds after what is done here."""
        try:
            qemu = self.libvirtd.qemu_pid(guest.name)
        except ProcessLookupError:
            yield
            return
        os.kill(qemu, signal.SIGSTOP)
        try:
            yield
            time.sleep(_HANGS_S)
        finally:
            os.kill(qemu, signal.SIGCONT)

    def _libvirt(self) -> str:
        return str(self.house.status()["workers"]["virt"]["vitals"]["libvirt"])

    def _renew_house(self) -> None:
        if self._deaths < _DEATHS_OF_A_HOUSE:
            return
        self.house.terminate(_READY_S)
        self.house.begin()
        try:
            self.house.wait_ready(_READY_S)
        except AssertionError:
            raise AssertionError("the house did not begin anew: " + self.house.log_text()[-6000:]) from None
        self.take_role()
        self._deaths = 0

    # -- what must be true afterwards

    def _is_well(self, guest: Guest) -> None:
        stats = sequences.vm_stats(self.ask, guest.vm_id)
        if stats.get("status") not in _LIVES or stats.get("vmJobs"):
            raise sequences.Refused("the VM", -1, f"is {stats.get('status')} with jobs {stats.get('vmJobs')}")

    def _is_down(self, guest: Guest, ends: tuple[tuple[int, int], ...]) -> None:
        eventually(lambda: self.status(guest) == "Down", within_s=30)
        stats = sequences.vm_stats(self.ask, guest.vm_id)
        assert (stats["exitCode"], stats["exitReason"]) in ends, stats
        eventually(self._no_job_runs, within_s=30)
        self.destroy(guest)
        assert self.status(guest) == ""

    def _no_job_runs(self) -> bool:
        return not [job for job in self.ask("Host.getJobs").values() if job["status"] in ("pending", "running")]

    def _agrees(self, guest: Guest) -> None:
        """QEMU, files, the volumes' metadata and our notes."""
        assert self._no_job_runs()
        domain = self.domain(guest)
        disk = _disk(domain)
        links = running_chain(disk)
        chain = [link.volume_id for link in links]
        assert chain == list(reversed(guest.layers)), (chain, guest.layers)
        assert disk.find("mirror") is None
        metadata = Metadata.of_domain(domain) or Metadata()
        noted = metadata.device(devtype="disk", name="hda")
        assert (noted["volumeID"], noted["domainID"]) == (chain[0], guest.sd_id), noted
        told = noted.get("volumeChain")
        if isinstance(told, list):
            assert [node["volumeID"] for node in told] == guest.layers, told
        assert "diskReplicate" not in noted
        assert [metadata.get(name) for name in ("snapshot_job", "block_jobs")] == [None, None]
        words = ["qemu-img", "info", "-U", "--backing-chain", "--output", "json", links[0].path]
        files = json.loads(subprocess.run(words, check=True, capture_output=True, timeout=30).stdout)
        assert [Path(file["filename"]).name for file in files] == chain
        for number, volume_id in enumerate(guest.layers):
            info = self.ask("Volume.getInfo", **self._names(guest, volume_id))
            below = guest.layers[number - 1] if number else sequences.BLANK
            assert (info["parent"], info["legality"]) == (below, "LEGAL"), info
        before = last_tick(guest.serial)
        eventually(lambda: last_tick(guest.serial) > before, within_s=15)
        assert hellos(guest.serial) == 1

    def _names(self, guest: Guest, volume_id: str) -> dict[str, str]:
        return {
            "storagepoolID": self.storage.pool_id, "storagedomainID": guest.sd_id, "imageID": guest.image_id,
            "volumeID": volume_id,
        }  # fmt: skip

    def _starts_again(self, guest: Guest) -> None:
        """Storage knows a whole chain, and the VM runs on it."""
        found = self.patiently(
            lambda: self.ask(
                "Image.reconcileVolumeChain", storagepoolID=self.storage.pool_id, storagedomainID=guest.sd_id,
                imageID=guest.image_id, leafVolID=guest.more.get("newest", guest.layers[-1]),
            )
        )  # fmt: skip
        guest.layers = found
        for volume_id in found:
            path = self.path(guest.sd_id, guest.image_id, volume_id)
            if path.read_bytes()[:4] == b"QFI\xfb":
                done = subprocess.run(["qemu-img", "check", "-q", path], check=False, capture_output=True, timeout=30)
                assert done.returncode == 0, done.stderr
        self.start(guest)
        assert self.chain(guest) == list(reversed(found))
        self.destroy(guest)


def _quietly(begin: Callable[[], None]) -> None:
    """The client's side of it: an error is what a client may get."""
    with contextlib.suppress(sequences.Refused, Error):
        begin()


def _disk(domain: Any) -> Any:
    return next(d for d in domain.iterfind("devices/disk") if d.find("target").get("dev") == "hda")
