# SPDX-License-Identifier: Apache-2.0
"""What an engine does with the disk of a running VM, step by step, over one `ask`: the SPM's tasks and the VM's jobs.

Every function waits as an engine waits, and reads what came of it where an engine reads it: in the domain XML.
"""

import json
import subprocess
import xml.etree.ElementTree as ET
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from demonstration import sequences
from demonstration.sequences import COW, SPARSE, Ask, Disk, Vm

_JOB_OVER = ("done", "failed", "aborted")


@dataclass
class DiskLife:
    """A running VM and its one disk; `disk.volume_id` is the base volume, whatever stands on it."""

    ask: Ask
    vm: Vm
    disk: Disk

    # Looking

    def chain(self) -> list[str]:
        """Volume ids as libvirt has them, leaf first."""
        xml = self.ask("Host.dumpxmls", vmList=[self.vm.vm_id])[self.vm.vm_id]
        layer = ET.fromstring(xml).find("./devices/disk[@device='disk']")
        found = []
        while layer is not None and (source := layer.find("source")) is not None:
            found.append(Path(source.attrib["file"]).name)
            layer = layer.find("backingStore")
        return found

    def chain_in_metadata(self) -> list[str]:
        """From the same leaf down, as the volumes' metadata have it; every one must be legal."""
        found, volume_id = [], self.chain()[0]
        while volume_id != sequences.BLANK:
            info = self.ask("Volume.getInfo", **self.at(volume_id))
            assert (info["status"], info["legality"]) == ("OK", "LEGAL"), info
            found.append(volume_id)
            volume_id = info["parent"]
        return found

    def chain_on_disk(self) -> list[str]:
        """From the same leaf down, as the qcow2 headers have it."""
        command = ["qemu-img", "info", "-U", "--backing-chain", "--output", "json", self.path(self.chain()[0])]
        done = subprocess.run(command, check=True, capture_output=True, timeout=30)
        return [Path(layer["filename"]).name for layer in json.loads(done.stdout)]

    def path(self, volume_id: str) -> str:
        storage = self.disk.storage
        return f"{storage.path}/{storage.sd_id}/images/{self.disk.image_id}/{volume_id}"

    def at(self, volume_id: str) -> dict[str, str]:
        """The parameters that name a volume of this image."""
        return self.disk.params() | {"volumeID": volume_id}

    def agrees(self) -> None:
        """libvirt, metadata and disk tell the same chain, and nothing else lies in the image's folder."""
        chain = self.chain()
        assert chain == self.chain_in_metadata() == self.chain_on_disk()
        left = {entry.name.partition(".")[0] for entry in Path(self.path("")).iterdir()}
        assert left == set(chain)

    # Doing

    def new_volume(self, parent: str) -> str:
        """A qcow2 volume on top of the parent, by a task of the SPM. Its id."""
        volume_id = sequences.new_id()
        self.create_volume(volume_id, parent)
        return volume_id

    def create_volume(self, volume_id: str, parent: str) -> None:
        task = self.ask(
            "Volume.create",
            **self.at(volume_id),
            size=str(self.disk.size_bytes),
            volFormat=COW,
            preallocate=SPARSE,
            diskType="DATA",
            desc="",
            srcImgUUID=self.disk.image_id,
            srcVolUUID=parent,
            initialSize=None,
            sequence=2,
            legal=True,
        )
        sequences.finish_task(self.ask, task)

    def snapshot(self, leaf: str, new_leaf: str, memory: str = "") -> None:
        """The VM goes on in the new leaf. memory: six ids in VDSM's order, "" = the disk alone."""
        job_id = sequences.new_id()
        names = {"domainID": self.disk.storage.sd_id, "imageID": self.disk.image_id}
        self.ask(
            "VM.snapshot",
            vmID=self.vm.vm_id,
            snapDrives=[{**names, "baseVolumeID": leaf, "volumeID": new_leaf}],
            snapMemory=memory,
            frozen=False,
            jobUUID=job_id,
            timeout=30,
        )
        job = self._job(job_id)
        assert job is None or job["status"] == "done", job

    def _job(self, job_id: str) -> Any:
        """The job's last report; None when the host has forgotten it, which is for the engine to find out about."""

        def over() -> list[Any] | None:
            job = self.ask("Host.getJobs", job_ids=[job_id]).get(job_id)
            return [job] if job is None or job["status"] in _JOB_OVER else None

        return sequences.wait_for(f"job {job_id}", over, within_s=120, every_s=0.1)[0]

    def merge(self, base: str, top: str) -> None:
        """The content of `top` goes into `base`, and `top` leaves the chain."""
        drive = self.disk.ids() | {"volumeID": self.chain()[0]}
        self.ask(
            "VM.merge",
            vmID=self.vm.vm_id,
            drive=drive,
            baseVolUUID=base,
            topVolUUID=top,
            bandwidth="0",
            jobUUID=sequences.new_id(),
        )
        self.wait_for_merges()

    def wait_for_merges(self) -> None:
        """Until the VM's jobs are known, and there is none."""

        def over() -> bool:
            stats = sequences.vm_stats(self.ask, self.vm.vm_id)
            return stats.get("vmJobs") == {}

        sequences.wait_for("merges to end", over, within_s=120, every_s=0.1)

    def delete_volume(self, volume_id: str) -> None:
        """What is left after a merge, by a task of the SPM."""
        image = {name: value for name, value in self.disk.params().items() if name != "volumeID"}
        task = self.ask(
            "Image.deleteVolumes", **image, volumeList=[volume_id], postZero="false", force="false", discard=False
        )
        sequences.finish_task(self.ask, task)

    def move_to(self, sd_id: str) -> None:
        """Live storage migration: structure, mirror, the layers below, the switch; the source stays for the caller."""
        image = {
            "storagepoolID": self.disk.storage.pool_id,
            "storagedomainID": self.disk.storage.sd_id,
            "imageID": self.disk.image_id,
            "dstSdUUID": sd_id,
        }
        here = self.disk.ids() | {"volumeID": self.chain()[0], "device": "disk"}
        disks = {"vmID": self.vm.vm_id, "srcDisk": here, "dstDisk": here | {"domainID": sd_id}}
        sequences.finish_task(self.ask, self.ask("Image.cloneStructure", **image))
        self.ask("VM.diskReplicateStart", **disks)
        sequences.finish_task(self.ask, self.ask("Image.syncData", **image, syncType="INTERNAL"))

        def finished() -> bool:
            try:
                return self.ask("VM.diskReplicateFinish", **disks) is True
            except sequences.Refused as refused:
                if refused.code == 40:  # not in sync yet
                    return False
                raise

        sequences.wait_for("the mirror to be in sync", finished, within_s=60, every_s=0.2)
