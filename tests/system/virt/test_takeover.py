# SPDX-License-Identifier: Apache-2.0
"""VMs that VDSM has left running: what stands in their metadata when its process goes, and what becomes of it with us.

Written down as facts: keys and forms are those that VDSM 4.5 writes, whoever wrote them here.
"""

import json
import shutil
import subprocess
import time
import uuid
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

import libvirt
import pytest

from tests.support import decode
from tests.support.eventually import eventually
from tests.support.libvirtd import PrivateLibvirtd
from tests.support.needs import needs_program, needs_root
from tests.support.virt_room import VirtRoom
from tests.system.virt.conftest import Guest, NewGuest, chain_of, image, overlay
from vdsm_mp.api.internal import GetVirtJobs
from vdsm_mp.common import xml
from vdsm_mp.virt.devices import Devices
from vdsm_mp.virt.leftovers import Leftovers
from vdsm_mp.virt.metadata import VM_URI, Metadata
from vdsm_mp.virt.patience import Again
from vdsm_mp.virt.plug import Plugger

pytestmark = [
    pytest.mark.system,
    needs_root(),
    needs_program("libvirtd", "qemu-system-x86_64", "qemu-img", "unshare", "nsenter"),
]

IDS = ("poolID", "domainID", "imageID", "volumeID")
SCSI = '<controller type="scsi" model="virtio-scsi" index="0"/>'


def element(key: str, value: Any) -> str:
    """One value with the hint that VDSM gives it."""
    hint = f' type="{type(value).__name__}"' if isinstance(value, bool | int | float) else ""
    return f"<{key}{hint}>{escape(str(value))}</{key}>"


def disk_entry(name: str, layers: list[dict[str, str]], folder: Path, **more: str) -> str:
    """A disk as VDSM notes it once it has prepared it: the chain, base first, with the lease of each volume."""
    leaf = layers[-1]
    nodes = ""
    for layer in layers:
        path = folder / layer["imageID"] / layer["volumeID"]
        facts = {**{key: layer[key] for key in IDS[1:]}, "path": path, "leasePath": f"{path}.lease", "leaseOffset": 0}
        nodes += f"<volumeChainNode>{''.join(element(*fact) for fact in facts.items())}</volumeChainNode>"
    values = "".join(element(key, leaf[key]) for key in IDS) + "".join(element(*one) for one in more.items())
    return f'<device devtype="disk" name="{name}">{values}<volumeChain>{nodes}</volumeChain></device>'


def leave(room: VirtRoom, libvirtd: PrivateLibvirtd, guest: Guest, devices: str, **values: Any) -> libvirt.virDomain:
    """Our room closes, and the metadata say what VDSM's would."""
    room.close()
    found = {
        **{"balloonTarget": 16384, "clusterVersion": "4.7", "destroy_on_reboot": False, "launchPaused": "false"},
        **{"memGuaranteedSize": 8, "minGuaranteedMemoryMb": 8, "resumeBehavior": "auto_resume"},
        **{"startTime": time.time() - 1000, "guestAgentAPIVersion": 3},
        **values,
    }
    text = "".join(element(*one) for one in sorted(found.items()) if one[1] is not None)
    custom = "<custom><sap_agent>true</sap_agent></custom>"
    dom = libvirt.open(libvirtd.uri).lookupByUUIDString(guest.vm_id)
    kind, flags = libvirt.VIR_DOMAIN_METADATA_ELEMENT, libvirt.VIR_DOMAIN_AFFECT_LIVE | libvirt.VIR_DOMAIN_AFFECT_CONFIG
    dom.setMetadata(kind, f"<vm>{text}{devices}{custom}</vm>", "ovirt-vm", VM_URI, flags)
    return dom


def with_layers(room: VirtRoom, guest: Guest, folder: Path, count: int) -> list[dict[str, str]]:
    """Its disk with `count` snapshots; base first."""
    layers = [guest.disk]
    for _ in range(count):
        leaf = overlay(room, folder, layers[-1])
        wish: dict[str, Any] = {name: leaf[name] for name in IDS[1:]} | {"baseVolumeID": layers[-1]["volumeID"]}
        room.call("VM.snapshot", vmID=guest.vm_id, snapDrives=[wish])
        layers.append(leaf)
    return layers


def next_life(room: VirtRoom, libvirtd: PrivateLibvirtd, folder: Path) -> VirtRoom:
    taken = VirtRoom(libvirtd.uri, folder)
    taken.storage.volumes, taken.storage.images = room.storage.volumes, room.storage.images
    return taken


def noted(dom: libvirt.virDomain) -> Metadata:
    return Metadata.of_domain(xml.parse(dom.XMLDesc(0))) or Metadata()


@pytest.mark.parametrize("state", ["COMMIT", "CLEANUP"])
def test_a_merge_that_vdsm_had_begun_is_told_and_ended(
    room: VirtRoom, new_guest: NewGuest, folder: Path, libvirtd: PrivateLibvirtd, state: str
) -> None:
    guest = new_guest(room)
    base, middle, leaf = layers = with_layers(room, guest, folder, 2)
    job_id = str(uuid.uuid4())
    job = {
        **{"id": job_id, "drive": "hda", "disk": {key: leaf[key] for key in IDS}, "base": middle["volumeID"]},
        **{"top": leaf["volumeID"], "bandwidth": 0, "state": state, "extend": None, "pivot": state == "CLEANUP"},
    }
    entry = disk_entry("hda", layers, folder)
    dom = leave(room, libvirtd, guest, entry, block_jobs=json.dumps({job_id: job}))
    libvirtd.virsh("blockcommit", guest.name, "hda", "--active", "--shallow")
    if state == "CLEANUP":
        eventually(lambda: "ready='yes'" in libvirtd.virsh("dumpxml", guest.name), within_s=15)
        libvirtd.virsh("blockjob", guest.name, "hda", "--pivot")
    with next_life(room, libvirtd, folder) as taken:
        told = decode.check_vm_stats(taken.stats(guest.vm_id))["vmJobs"]
        assert told == {} or told[job_id]["imgUUID"] == base["imageID"]
        eventually(lambda: taken.stats(guest.vm_id)["vmJobs"] == {}, within_s=15)
        assert chain_of(taken, guest.vm_id) == [middle["volumeID"], base["volumeID"]]
        (sync,) = taken.storage.synced
        assert (sync.leaf_volume_id, sync.merged_volume_id) == (middle["volumeID"], leaf["volumeID"])
        assert noted(dom).device(devtype="disk", name="hda")["volumeID"] == middle["volumeID"]
        assert noted(dom).get("block_jobs") is None
        guest.keeps_ticking()
        taken.call("VM.destroy", vmID=guest.vm_id, gracefulAttempts=0)


@pytest.mark.parametrize("came", ["made", "prepared", "begun"])
def test_a_snapshot_that_vdsm_had_begun_is_told_by_what_qemu_uses(
    room: VirtRoom, new_guest: NewGuest, folder: Path, libvirtd: PrivateLibvirtd, came: str
) -> None:
    guest = new_guest(room)
    leaf, job_id = overlay(room, folder, guest.disk), str(uuid.uuid4())
    path = room.storage.volumes[leaf["volumeID"]]
    job: dict[str, Any] = {
        **{"startTime": str(time.monotonic()), "timeout": "1800", "freezeTimeout": "480", "abort": False},
        **{"completed": False, "jobUUID": job_id, "frozen": False, "memoryParams": {}},
    }
    if came != "begun":
        drive = leaf | {"type": "disk", "device": "disk", "diskType": "file", "name": "hda", "format": "cow"}
        job |= {"memoryVol": None, "memoryVolPath": None, "newDrives": {"hda": drive | {"path": str(path)}}}
        job |= {"vmDrives": {"hda": ["<disk/>", guest.disk["volumeID"]]}}
    dom = leave(room, libvirtd, guest, disk_entry("hda", [guest.disk], folder), snapshot_job=json.dumps(job))
    if came == "made":
        libvirtd.virsh(
            "snapshot-create-as", guest.name, "--disk-only", "--no-metadata", "--reuse-external",
            "--diskspec", f"hda,snapshot=external,file={path}",
        )  # fmt: skip
    with next_life(room, libvirtd, folder) as taken:
        wanted = "done" if came == "made" else "failed"
        eventually(lambda: decode.check_jobs(taken.ask(GetVirtJobs()))[job_id]["status"] == wanted, within_s=10)
        now = leaf if came == "made" else guest.disk
        assert chain_of(taken, guest.vm_id)[0] == now["volumeID"]
        assert noted(dom).device(devtype="disk", name="hda")["volumeID"] == now["volumeID"]
        assert noted(dom).get("snapshot_job") is None
        guest.keeps_ticking()
        taken.call("VM.destroy", vmID=guest.vm_id, gracefulAttempts=0)


def test_what_we_write_down_of_jobs_has_all_that_vdsm_reads(
    room: VirtRoom, new_guest: NewGuest, folder: Path, libvirtd: PrivateLibvirtd, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The way back: the metadata are read while libvirt works, as a VDSM would that starts after our death."""
    guest = new_guest(room)
    dom = libvirt.open(libvirtd.uri).lookupByUUIDString(guest.vm_id)
    seen: dict[str, Any] = {}

    def spied(name: str) -> None:
        real = getattr(libvirt.virDomain, name)

        def call(self: libvirt.virDomain, *arguments: Any) -> Any:
            texts = {key: noted(dom).get(key) for key in ("snapshot_job", "block_jobs")}
            seen.update({key: json.loads(text) for key, text in texts.items() if text})
            return real(self, *arguments)

        monkeypatch.setattr(libvirt.virDomain, name, call)

    spied("snapshotCreateXML")
    spied("blockCommit")
    base, leaf = with_layers(room, guest, folder, 1)
    job_id = str(uuid.uuid4())
    room.call(
        "VM.merge", vmID=guest.vm_id, drive=leaf, baseVolUUID=base["volumeID"], topVolUUID=leaf["volumeID"],
        bandwidth="0", jobUUID=job_id,
    )  # fmt: skip
    snapshot = seen["snapshot_job"]
    assert float(snapshot["startTime"]) <= time.monotonic()
    assert (int(snapshot["timeout"]), int(snapshot["freezeTimeout"])) == (1800, 8)
    flags = {"abort", "completed", "frozen"}
    assert {snapshot[key] for key in flags} == {False}
    assert snapshot.keys() - flags == {
        *("jobUUID", "startTime", "timeout", "freezeTimeout", "memoryParams"),
        *("newDrives", "vmDrives", "memoryVol", "memoryVolPath"),
    }
    new = snapshot["newDrives"]["hda"]
    assert {key: new[key] for key in IDS} == leaf
    assert (new["name"], new["diskType"], new["path"]) == ("hda", "file", str(room.storage.volumes[leaf["volumeID"]]))
    before, volume_id = snapshot["vmDrives"]["hda"]
    assert volume_id == base["volumeID"]
    assert xml.parse(before).find("source[@file]") is not None
    assert seen["block_jobs"] == {
        job_id: {
            **{"id": job_id, "drive": "hda", "disk": leaf, "base": base["volumeID"], "top": leaf["volumeID"]},
            **{"bandwidth": 0, "state": "COMMIT", "extend": None, "pivot": None},
        }
    }
    eventually(lambda: room.stats(guest.vm_id)["vmJobs"] == {}, within_s=10)


def test_a_vm_of_vdsm_is_told_as_it_is_and_keeps_all_it_has(
    room: VirtRoom, new_guest: NewGuest, folder: Path, libvirtd: PrivateLibvirtd
) -> None:
    """A mirror that runs, a disk to be read only as long as it is plugged, a payload, and what we know nothing of."""
    for name in ("payload", "transient"):
        (folder / name).mkdir()
        shutil.chown(folder / name, "root", "kvm")
        (folder / name).chmod(0o2770)
    files = '<ovirt-vm:payload><ovirt-vm:file path="user_data">Zm9v</ovirt-vm:file></ovirt-vm:payload>'
    guest = new_guest(
        room,
        devices=SCSI
        + '<disk type="file" device="cdrom"><source file="PAYLOAD:"/><target dev="sdb" bus="scsi"/><readonly/></disk>',
        metadata=f'<ovirt-vm:device devtype="disk" name="sdb">{files}</ovirt-vm:device>',
    )
    (payload,) = (folder / "payload").glob(f"{guest.vm_id}.*.img")
    extra, replica = image(room, folder), image(room, folder)
    replica_path = folder / replica["imageID"] / replica["volumeID"]
    with replica_path.open("r+b") as file:
        file.truncate(Path(room.storage.images[guest.disk["imageID"]]).stat().st_size)
    written = folder / "transient" / f"{extra['domainID']}-{extra['volumeID']}.q5d8rz1k"
    below = folder / extra["imageID"] / extra["volumeID"]
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", below, written], check=True)
    written.chmod(0o660)
    orphan = written.with_name(f"{uuid.uuid4()}-{uuid.uuid4()}.x8b2n6wq")
    orphan.touch()

    named = "".join(element(key, replica[key]) for key in IDS) + element("diskType", "file")
    mirrored = disk_entry("hda", [guest.disk], folder).replace(
        "</device>", f"<diskReplicate>{named}</diskReplicate></device>"
    )
    entries = (
        mirrored
        + disk_entry("sda", [extra], folder, shared="transient")
        + '<device devtype="disk" name="sdb"><payload><file path="user_data">Zm9v</file></payload></device>'
        + '<device devtype="console"><consoleType>serial</consoleType></device>'
    )
    dom = leave(room, libvirtd, guest, entries, pauseTime=None)
    dom.attachDevice(
        '<disk type="file" device="disk"><driver name="qemu" type="qcow2" cache="writethrough"/>'
        f'<source file="{written}"/><target dev="sda" bus="scsi"/></disk>'
    )
    dom.blockCopy(
        "hda", f'<disk type="file"><source file="{replica_path}"/><driver type="raw"/></disk>', {},
        libvirt.VIR_DOMAIN_BLOCK_COPY_SHALLOW | libvirt.VIR_DOMAIN_BLOCK_COPY_REUSE_EXT
        | libvirt.VIR_DOMAIN_BLOCK_COPY_TRANSIENT_JOB,
    )  # fmt: skip
    before = noted(dom)
    with next_life(room, libvirtd, folder) as taken:
        eventually(lambda: not orphan.exists(), within_s=5)
        stats = taken.stats(guest.vm_id)
        assert stats["status"] == "Up"
        assert 1000 <= int(stats["elapsedTime"]) < 1200
        eventually(lambda: taken.sample() or "sda" in taken.stats(guest.vm_id)["disks"], within_s=5, every_s=0.2)
        disks = taken.stats(guest.vm_id)["disks"]
        assert {name: disks[name]["imageID"] for name in ("hda", "sda")} == {
            "hda": guest.disk["imageID"],
            "sda": extra["imageID"],
        }
        again = Again(taken.background)
        Leftovers(taken.state(Devices), again, taken.state(Plugger).is_coming).clear(guest.vm_id)
        assert noted(dom).dump() == before.dump()
        assert written.exists()
        assert payload.exists()
        prepared = {ask.image_id for ask in taken.storage.prepared}
        assert {guest.disk["imageID"], extra["imageID"]} <= prepared
        assert taken.storage.released == []
        guest.keeps_ticking()
        names = {"srcDisk": guest.disk, "dstDisk": replica}
        eventually(lambda: "ready='yes'" in libvirtd.virsh("dumpxml", guest.name), within_s=15)
        taken.call("VM.diskReplicateFinish", vmID=guest.vm_id, **names)
        assert chain_of(taken, guest.vm_id) == [replica["volumeID"]]
        after = noted(dom)
        assert after.get("guestAgentAPIVersion") == 3
        assert after.custom() == {"sap_agent": "true"}
        assert after.device(devtype="console") == before.device(devtype="console") != {}
        guest.keeps_ticking()
        taken.call("VM.destroy", vmID=guest.vm_id, gracefulAttempts=0)
        eventually(lambda: not payload.exists(), within_s=10)
