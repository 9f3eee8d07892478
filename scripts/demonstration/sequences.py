# SPDX-License-Identifier: Apache-2.0
"""What an engine does with a host, as functions over one `ask(verb, **params)`. Used by the demo and by system tests.

No function knows how `ask` reaches the host. Names of parameters are those of the API.
"""

import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

BLANK = "00000000-0000-0000-0000-000000000000"
LOCALFS, POSIXFS = 4, 6
COW, RAW = 4, 5
SPARSE, PREALLOCATED = 2, 1
GIB = 1 << 30
#: What a host answers that has not joined the pool.
NOT_CONNECTED = 309


class Refused(Exception):
    """The host answered with an error."""

    def __init__(self, verb: str, code: int, message: str) -> None:
        super().__init__(f"{verb} was refused: {message} (code {code})")
        self.verb, self.code, self.message = verb, code, message


class TookTooLong(Exception):
    """What was waited for did not happen."""


class Ask(Protocol):
    def __call__(self, verb: str, /, **params: Any) -> Any:
        """The result of the verb. Raises Refused."""
        ...


def new_id() -> str:
    return str(uuid.uuid4())


@dataclass
class Storage:
    """One storage domain in a pool of its own. path: a directory, or a device for `POSIXFS`."""

    path: str
    kind: int = LOCALFS
    vfs_type: str = ""
    host_id: int = 1
    pool_id: str = field(default_factory=new_id)
    sd_id: str = field(default_factory=new_id)
    connection_id: str = field(default_factory=new_id)
    master_version: int = 1

    def connection(self) -> dict[str, str]:
        """As the engine sends it: what does not apply is an empty string."""
        empty = dict.fromkeys(("port", "iqn", "user", "password", "mnt_options", "tpgt"), "")
        return {**empty, "id": self.connection_id, "connection": self.path, "vfs_type": self.vfs_type}


@dataclass
class Disk:
    """One volume of one image."""

    storage: Storage
    size_bytes: int = GIB
    form: int = COW
    image_id: str = field(default_factory=new_id)
    volume_id: str = field(default_factory=new_id)

    def ids(self) -> dict[str, str]:
        """PDIV: how metadata and verbs name it."""
        return {
            "poolID": self.storage.pool_id,
            "domainID": self.storage.sd_id,
            "imageID": self.image_id,
            "volumeID": self.volume_id,
        }

    def params(self) -> dict[str, str]:
        return {
            "storagepoolID": self.storage.pool_id,
            "storagedomainID": self.storage.sd_id,
            "imageID": self.image_id,
            "volumeID": self.volume_id,
        }


def wait_for(what: str, condition: Callable[[], Any], *, within_s: float, every_s: float = 0.5) -> Any:
    """Ask until the answer is true."""
    until = time.monotonic() + within_s
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > until:
            raise TookTooLong(f"{what}: not within {within_s:.0f} s")
        time.sleep(every_s)


# --- the host becomes Up ----------------------------------------------------------------------------------------


def activate_host(ask: Ask) -> dict[str, Any]:
    """From installed to Up, with the calls and the order of an engine. Returns {verb: answer} of the questions."""
    seen = {verb: ask(verb) for verb in ("Host.getCapabilities", "Host.getHardwareInfo", "Host.getStats")}
    seen["Host.setMOMPolicyParameters"] = ask(
        "Host.setMOMPolicyParameters",
        key_value_store={"balloonEnabled": True, "ksmEnabled": False, "ksmMergeAcrossNodes": True},
    )
    seen["Host.hostdevListByCaps"] = ask("Host.hostdevListByCaps", caps=[])
    return seen


# --- storage ----------------------------------------------------------------------------------------------------


def connect_server(ask: Ask, storage: Storage) -> None:
    answer = ask(
        "StoragePool.connectStorageServer",
        storagepoolID=BLANK,
        domainType=storage.kind,
        connectionParams=[storage.connection()],
    )
    _all_connected("connecting", answer)


def disconnect_server(ask: Ask, storage: Storage) -> None:
    answer = ask(
        "StoragePool.disconnectStorageServer",
        storagepoolID=BLANK,
        domainType=storage.kind,
        connectionParams=[storage.connection()],
    )
    _all_connected("disconnecting", answer)


def _all_connected(doing: str, answer: list[dict[str, Any]]) -> None:
    bad = [entry for entry in answer if entry["status"]]
    if bad or not answer:
        raise Refused(f"{doing} the storage server", bad[0]["status"] if bad else -1, f"answer {answer}")


def create_domain(ask: Ask, storage: Storage, name: str) -> None:
    """A V5 data domain. The engine then reads its statistics."""
    ask(
        "StorageDomain.create",
        storagedomainID=storage.sd_id,
        domainType=storage.kind,
        typeArgs=storage.path,
        name=name,
        domainClass=1,
        version="5",
        blockSize=512,
        maxHosts=250,
    )
    ask("StorageDomain.getStats", storagedomainID=storage.sd_id)


def create_pool(ask: Ask, storage: Storage, name: str) -> None:
    """A pool whose master is the domain; then connect to it."""
    ask(
        "StoragePool.create",
        storagepoolID=storage.pool_id,
        name=name,
        masterSdUUID=storage.sd_id,
        masterVersion=storage.master_version,
        domainList=[storage.sd_id],
        lockRenewalIntervalSec=5,
        leaseTimeSec=60,
        ioOpTimeoutSec=10,
        leaseRetries=3,
    )
    connect_pool(ask, storage)


def connect_pool(ask: Ask, storage: Storage, others: dict[str, str] | None = None) -> None:
    """Join the pool. others: {domain id: "active" or "attached"} besides the master."""
    ask(
        "StoragePool.connect",
        storagepoolID=storage.pool_id,
        hostID=storage.host_id,
        scsiKey=storage.pool_id,
        masterSdUUID=storage.sd_id,
        masterVersion=storage.master_version,
        domainDict={storage.sd_id: "active", **(others or {})},
    )


def start_spm(ask: Ask, storage: Storage, *, within_s: float = 120) -> None:
    """Take the SPM role: the task, its end, the role, the clearing."""
    before = ask("StoragePool.getSpmStatus", storagepoolID=storage.pool_id)
    task = ask(
        "StoragePool.spmStart",
        storagepoolID=storage.pool_id,
        prevID=int(before["spmId"]),
        prevLver=str(before["spmLver"]),
        enableScsiFencing="false",
        maxHostID=250,
        domVersion="5",
    )
    finish_task(ask, task, within_s=within_s)
    after = ask("StoragePool.getSpmStatus", storagepoolID=storage.pool_id)
    if after["spmStatus"] != "SPM":
        raise Refused("StoragePool.spmStart", -1, f"the task ended well, but the status is {after}")


def take_role(ask: Ask, master: Storage, *others: Storage) -> None:
    """What an engine does with a host that came back: connect what it has forgotten, start the SPM where it ended."""
    try:
        status = ask("StoragePool.getSpmStatus", storagepoolID=master.pool_id)
    except Refused as refused:
        if refused.code != NOT_CONNECTED:
            raise
        for storage in (master, *others):
            connect_server(ask, storage)
        connect_pool(ask, master, {other.sd_id: "active" for other in others})
        status = ask("StoragePool.getSpmStatus", storagepoolID=master.pool_id)
    if status["spmStatus"] != "SPM":
        start_spm(ask, master)


def stop_spm(ask: Ask, storage: Storage) -> None:
    """Give the role up; refused while tasks are not cleared."""
    left = ask("Host.getAllTasksStatuses")
    if left:
        raise Refused("StoragePool.spmStop", 406, f"tasks are not cleared: {', '.join(left)}")
    ask("StoragePool.spmStop", storagepoolID=storage.pool_id)


def finish_task(ask: Ask, task_id: str, *, within_s: float = 60) -> dict[str, Any]:
    """Wait until a task has finished, clear it, raise when it failed. Returns its last status."""

    def finished() -> dict[str, Any] | None:
        status: dict[str, Any] = ask("Task.getStatus", taskID=task_id)
        return status if status["taskState"] == "finished" else None

    status: dict[str, Any] = wait_for(f"task {task_id}", finished, within_s=within_s, every_s=0.2)
    ask("Task.clear", taskID=task_id)
    if status["taskResult"] != "success":
        raise Refused(f"task {task_id}", status["code"], status["message"])
    return status


def activate_domain(ask: Ask, storage: Storage, sd_id: str | None = None) -> None:
    ask("StorageDomain.activate", storagedomainID=sd_id or storage.sd_id, storagepoolID=storage.pool_id)


def wait_for_domain(ask: Ask, sd_id: str, *, within_s: float = 30) -> dict[str, Any]:
    """Until the host reports the domain as checked and good, as an engine wants it for an Up host."""

    def good() -> dict[str, Any] | None:
        report = ask("Host.getStats")["storageDomains"].get(sd_id)
        return report if report and report["actual"] and report["code"] == 0 else None

    report: dict[str, Any] = wait_for(f"domain {sd_id} to be checked", good, within_s=within_s)
    return report


def create_disk(ask: Ask, disk: Disk, description: str = "", *, within_s: float = 60) -> dict[str, Any]:
    """A new volume in a new image. Returns what `Volume.getInfo` says."""
    task = ask(
        "Volume.create",
        **disk.params(),
        size=str(disk.size_bytes),
        volFormat=disk.form,
        preallocate=SPARSE,
        diskType="DATA",
        desc=f'{{"DiskAlias":"{description}"}}',
        srcImgUUID=BLANK,
        srcVolUUID=BLANK,
        initialSize=None,
        sequence=1,
        legal=True,
    )
    finish_task(ask, task, within_s=within_s)
    info: dict[str, Any] = ask("Volume.getInfo", **disk.params())
    return info


def delete_disk(ask: Ask, disk: Disk, *, within_s: float = 60) -> None:
    params = {k: v for k, v in disk.params().items() if k != "volumeID"}
    task = ask("Image.delete", **params, postZero=False, force=False, discard=False)
    finish_task(ask, task, within_s=within_s)


def add_domain(ask: Ask, storage: Storage, name: str) -> None:
    """One more active domain in the pool that `storage` names; this host is its SPM."""
    connect_server(ask, storage)
    create_domain(ask, storage, name)
    ask("StorageDomain.attach", storagedomainID=storage.sd_id, storagepoolID=storage.pool_id)
    activate_domain(ask, storage)


def from_nothing(ask: Ask, storage: Storage, name: str, *, within_s: float = 120) -> None:
    """A domain, a pool, the SPM role, the domain active: an active data centre."""
    connect_server(ask, storage)
    create_domain(ask, storage, name)
    create_pool(ask, storage, name)
    start_spm(ask, storage, within_s=within_s)
    activate_domain(ask, storage)


def to_maintenance(ask: Ask, storage: Storage) -> None:
    """The role is given up, the pool left, the server disconnected."""
    stop_spm(ask, storage)
    ask("StoragePool.disconnect", storagepoolID=storage.pool_id, hostID=storage.host_id, scsiKey=storage.pool_id)
    disconnect_server(ask, storage)


# --- virtual machines -------------------------------------------------------------------------------------------


@dataclass
class Vm:
    """A VM as the engine describes it.

    boot: extra XML of <os>. console: file that logs the serial console. serial_file: the serial line is this file.
    """

    name: str
    disk: Disk | None = None
    memory_mib: int = 128
    boot: str = ""
    console: Path | None = None
    serial_file: Path | None = None
    machine: str = "q35"
    accelerator: str = "qemu"
    vm_id: str = field(default_factory=new_id)

    def xml(self) -> str:
        """The domain XML with the metadata, and a placeholder for the disk's path."""
        return f"""<?xml version="1.0" encoding="UTF-8"?>
<domain type="{self.accelerator}" xmlns:ovirt-tune="http://ovirt.org/vm/tune/1.0" xmlns:ovirt-vm="http://ovirt.org/vm/1.0">
  <name>{self.name}</name>
  <uuid>{self.vm_id}</uuid>
  <memory>{self.memory_mib * 1024}</memory>
  <currentMemory>{self.memory_mib * 1024}</currentMemory>
  <vcpu current="1">1</vcpu>
  <sysinfo type="smbios">
    <system>
      <entry name="manufacturer">oVirt</entry>
      <entry name="product">OS-NAME:</entry>
      <entry name="version">OS-VERSION:</entry>
      <entry name="serial">HOST-SERIAL:</entry>
      <entry name="uuid">{self.vm_id}</entry>
    </system>
  </sysinfo>
  <clock offset="variable" adjustment="0"><timer name="pit" tickpolicy="delay"/></clock>
  <features><acpi/></features>
  <devices>
    {self._serial()}
    <graphics type="vnc" port="-1" autoport="yes" passwd="*****" passwdValidTo="1970-01-01T00:00:01" keymap="en-us">
      <listen type="address" address="127.0.0.1"/>
    </graphics>
    <video><model type="vga" vram="16384" heads="1"/></video>
    <controller type="usb" model="none"/>
    <memballoon model="virtio"><stats period="5"/></memballoon>
    <disk type="file" device="cdrom">
      <target dev="sdc" bus="sata"/>
      <source file="" startupPolicy="optional"/>
      <driver name="qemu" type="raw" error_policy="report"/>
      <readonly/>
    </disk>
    {self._disk()}
  </devices>
  <pm><suspend-to-disk enabled="no"/><suspend-to-mem enabled="no"/></pm>
  <os><type arch="x86_64" machine="{self.machine}">hvm</type><smbios mode="sysinfo"/>{self.boot}</os>
  <metadata>
    <ovirt-tune:qos/>
    <ovirt-vm:vm>
      <ovirt-vm:minGuaranteedMemoryMb type="int">{self.memory_mib}</ovirt-vm:minGuaranteedMemoryMb>
      <ovirt-vm:clusterVersion>4.7</ovirt-vm:clusterVersion>
      <ovirt-vm:custom/>
      {self._disk_metadata()}
      <ovirt-vm:launchPaused>false</ovirt-vm:launchPaused>
      <ovirt-vm:resumeBehavior>auto_resume</ovirt-vm:resumeBehavior>
    </ovirt-vm:vm>
  </metadata>
</domain>
"""

    def _serial(self) -> str:
        if self.serial_file is not None:
            return f'<serial type="file"><source path="{self.serial_file}"/><target port="0"/></serial>'
        log = f'<log file="{self.console}" append="off"/>' if self.console else ""
        return (
            f'<serial type="pty">{log}<target port="0"/></serial>'
            '<console type="pty"><target type="serial" port="0"/></console>'
        )

    def _disk(self) -> str:
        if self.disk is None:
            return ""
        ids = self.disk.ids()
        predicted = "/".join(
            ("/rhev/data-center", ids["poolID"], ids["domainID"], "images", ids["imageID"], ids["volumeID"])
        )
        kind = "qcow2" if self.disk.form == COW else "raw"
        return f"""<disk snapshot="no" type="file" device="disk">
      <target dev="vda" bus="virtio"/>
      <source file="{predicted}"><seclabel model="dac" type="none" relabel="no"/></source>
      <driver name="qemu" io="threads" type="{kind}" error_policy="stop" cache="none"/>
      <alias name="ua-{self.disk.image_id}"/>
      <serial>{self.disk.image_id}</serial>
    </disk>"""

    def _disk_metadata(self) -> str:
        if self.disk is None:
            return ""
        members = "".join(f"<ovirt-vm:{name}>{value}</ovirt-vm:{name}>" for name, value in self.disk.ids().items())
        return f'<ovirt-vm:device devtype="disk" name="vda">{members}</ovirt-vm:device>'


def create_vm(ask: Ask, vm: Vm) -> dict[str, Any]:
    answer: dict[str, Any] = ask("VM.create", vmID=vm.vm_id, vmParams={"vmId": vm.vm_id, "xml": vm.xml()})
    return answer


def vm_stats(ask: Ask, vm_id: str) -> dict[str, Any]:
    """The VM's entry of `Host.getAllVmStats`; {} when it is not listed."""
    found = [entry for entry in ask("Host.getAllVmStats") if entry["vmId"] == vm_id]
    return found[0] if found else {}


def wait_for_status(ask: Ask, vm_id: str, *statuses: str, within_s: float = 60) -> dict[str, Any]:
    """Poll until the VM has one of the statuses. A VM that went Down instead ends the waiting with its reason."""

    def reached() -> dict[str, Any] | None:
        stats = vm_stats(ask, vm_id)
        if stats.get("status") == "Down" and "Down" not in statuses:
            raise Refused("the VM", int(stats.get("exitReason", -1)), f"went Down: {stats.get('exitMessage', '')}")
        return stats if stats.get("status") in statuses else None

    stats: dict[str, Any] = wait_for(f"VM to be {' or '.join(statuses)}", reached, within_s=within_s, every_s=0.3)
    return stats
