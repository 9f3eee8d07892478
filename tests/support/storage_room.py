# SPDX-License-Identifier: Apache-2.0
"""A storage room with a local domain, a pool and the SPM role, driven through its verbs as an engine would."""

import base64
import json
import shutil
import subprocess
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.support.children import LocalChildren
from tests.support.eventually import eventually
from tests.support.room import Called
from vdsm_mp.api.types import BLANK
from vdsm_mp.common.errors import Error
from vdsm_mp.common.options import Config, House, Irs

MIB = 2**20
COW, RAW = 4, 5
PREALLOCATED, SPARSE = 1, 2

#: The same in every room: each has a repository of its own.
SD_ID = "5d000000-1111-4222-8333-444444444444"
POOL_ID = "90010000-1111-4222-8333-444444444444"


def new_id() -> str:
    return str(uuid.uuid4())


class StorageRoom:
    """root: holds the repository, the run directory and the exported directory."""

    def __init__(
        self,
        root: Path,
        children: LocalChildren | None = None,
        *,
        sd_health_check_delay: int = 10,
        helper: Any = None,
    ) -> None:
        """helper: stands for the root helper, where something is mounted."""
        self.root = root
        for name in ("run", "export"):
            (root / name).mkdir(exist_ok=True)
        self.config = Config(
            irs=Irs(repository=f"{root}/data-center", sd_health_check_delay=sd_health_check_delay),
            vdsm_mp=House(run_dir=f"{root}/run", vdsm_run_dir=f"{root}/run"),
        )
        self.sd_id = SD_ID
        self.pool_id = POOL_ID
        self.room = Called("vdsm_mp.workers.storage", self.config, root=helper, children=children)
        self.call = self.room.call

    @property
    def domain(self) -> Path:
        return self.root / "export" / self.sd_id

    def image(self, image_id: str) -> Path:
        return self.domain / "images" / image_id

    # --- the way to SPM

    def connect_server(self) -> None:
        params = [{"id": new_id(), "connection": f"{self.root}/export"}]
        found = self.call(
            "StoragePool.connectStorageServer", storagepoolID=BLANK, domainType=4, connectionParams=params
        )
        assert found[0]["status"] == 0, found

    def make(self, *, version: str = "5") -> "StorageRoom":
        """From nothing to SPM. version: of the domain."""
        self.connect_server()
        self.call(
            "StorageDomain.create",
            storagedomainID=self.sd_id,
            domainType=4,
            typeArgs=f"{self.root}/export",
            name="test",
            domainClass=1,
            version=version,
        )
        self.call(
            "StoragePool.create",
            storagepoolID=self.pool_id,
            name="pool",
            masterSdUUID=self.sd_id,
            masterVersion=1,
            domainList=[self.sd_id],
            lockRenewalIntervalSec=5,
            leaseTimeSec=60,
            ioOpTimeoutSec=10,
            leaseRetries=3,
        )
        return self.take_role(version=version)

    def add_domain(
        self, *, domain_class: int = 1, version: int | str = "5", name: str = "more", attach: bool = True
    ) -> str:
        """A second local domain, active in the pool; needs the role. Its directory is `domain_of`."""
        sd_id = new_id()
        export = self.root / f"export-{sd_id}"
        export.mkdir()
        params = [{"id": new_id(), "connection": str(export)}]
        self.call("StoragePool.connectStorageServer", storagepoolID=BLANK, domainType=4, connectionParams=params)
        self.call(
            "StorageDomain.create",
            storagedomainID=sd_id,
            domainType=4,
            typeArgs=str(export),
            name=name,
            domainClass=domain_class,
            version=version,
        )
        if not attach:
            return sd_id
        self.call("StorageDomain.attach", storagedomainID=sd_id, storagepoolID=self.pool_id)
        self.call("StorageDomain.activate", storagedomainID=sd_id, storagepoolID=self.pool_id)
        return sd_id

    def domain_of(self, sd_id: str) -> Path:
        return self.domain if sd_id == self.sd_id else self.root / f"export-{sd_id}" / sd_id

    def start_switch(self, sd_id: str) -> str:
        """That domain is to be the master. -> task id"""
        ids = {"oldMasterUUID": self.sd_id, "newMasterUUID": sd_id, "masterVersion": 2}
        task_id: str = self.call("StoragePool.switchMaster", storagepoolID=self.pool_id, **ids)
        return task_id

    def take_role(self, *, version: str = "5", attached: tuple[str, ...] = ()) -> "StorageRoom":
        """Connect the pool and become SPM (after `make`, or as a new worker over what an old one left).

        attached: more domains of the pool, which need not be there.
        """
        self.connect_server()
        self.call(
            "StoragePool.connect",
            storagepoolID=self.pool_id,
            hostID=1,
            scsiKey="",
            masterSdUUID=self.sd_id,
            masterVersion=1,
            domainDict={self.sd_id: "active", **dict.fromkeys(attached, "attached")},
        )
        task_id = self.call(
            "StoragePool.spmStart",
            storagepoolID=self.pool_id,
            prevID=-1,
            prevLver="-1",
            enableScsiFencing="false",
            maxHostID=250,
            domVersion=version,
        )
        self.finished(task_id)
        return self

    def stop(self) -> None:
        self.room.stop()

    # --- tasks

    def ended(self, task_id: str) -> dict[str, Any]:
        """The status of a task, once it is over."""

        def over() -> dict[str, Any] | None:
            status: dict[str, Any] = self.call("Task.getStatus", taskID=task_id)
            return status if status["taskState"] == "finished" else None

        found = eventually(over, within_s=30, every_s=0.002)
        assert found is not None
        return found

    def finished(self, task_id: str) -> None:
        """Wait for success and clear."""
        status = self.ended(task_id)
        assert (status["taskResult"], status["code"]) == ("success", 0), status
        self.call("Task.clear", taskID=task_id)

    # --- volumes

    def start_create(self, image_id: str, volume_id: str, **changes: Any) -> str:
        params: dict[str, Any] = {
            "volumeID": volume_id,
            "storagepoolID": self.pool_id,
            "storagedomainID": self.sd_id,
            "imageID": image_id,
            "size": str(16 * MIB),
            "volFormat": COW,
            "preallocate": SPARSE,
            "diskType": "DATA",
            "desc": '{"DiskAlias": "disk"}',
            "srcImgUUID": BLANK,
            "srcVolUUID": BLANK,
            "sequence": 1,
        }
        task_id: str = self.call("Volume.create", **(params | changes))
        return task_id

    def create(self, image_id: str | None = None, volume_id: str | None = None, **changes: Any) -> tuple[str, str]:
        """A volume, made to its end; (image id, volume id)."""
        image_id, volume_id = image_id or new_id(), volume_id or new_id()
        self.finished(self.start_create(image_id, volume_id, **changes))
        return image_id, volume_id

    def names(self, image_id: str, volume_id: str, sd_id: str | None = None) -> dict[str, str]:
        """The four ids that most verbs take."""
        return {
            "volumeID": volume_id,
            "storagepoolID": self.pool_id,
            "storagedomainID": sd_id or self.sd_id,
            "imageID": image_id,
        }

    def info(self, image_id: str, volume_id: str, sd_id: str | None = None) -> dict[str, Any]:
        found: dict[str, Any] = self.call("Volume.getInfo", **self.names(image_id, volume_id, sd_id))
        return found

    def dispatch_write(self, task_id: str, offset: int, data: bytes) -> None:
        """A piece of an OVF store, as the door sends it."""
        text = base64.b64encode(data).decode()
        self.call("internal.write_piece", task_id=task_id, offset_bytes=offset, data=text)

    def dispatch_read(self, task_id: str, offset: int, length: int) -> bytes:
        found = self.call("internal.read_piece", task_id=task_id, offset_bytes=offset, length_bytes=length)
        return base64.b64decode(found)

    def outcome(self, verb: str, **params: Any) -> tuple[str, int]:
        """(taskResult, code) of a verb that makes a task, which is cleared."""
        task_id = self.call(verb, **params)
        status = self.ended(task_id)
        self.call("Task.clear", taskID=task_id)
        return status["taskResult"], status["code"]

    def make_template(self, **changes: Any) -> tuple[str, str]:
        """An image whose one volume is SHARED."""
        image_id, volume_id = self.create(**changes)
        meta = self.image(image_id) / f"{volume_id}.meta"
        meta.write_text(meta.read_text().replace("VOLTYPE=LEAF", "VOLTYPE=SHARED"))
        return image_id, volume_id


def code_of(function: Callable[..., Any], *args: Any, **params: Any) -> int:
    """Of the error that this call is refused with."""
    try:
        function(*args, **params)
    except Error as e:
        return e.code
    raise AssertionError(f"nothing was refused of {args} {params}")


def qemu_info(path: Path, fmt: str = "qcow2") -> dict[str, Any]:
    done = subprocess.run(
        ["qemu-img", "info", "--output", "json", "-f", fmt, path], check=True, capture_output=True, text=True
    )
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def slow_copies(directory: Path, bytes_per_s: int) -> Path:
    """A directory for the front of PATH, in which `qemu-img convert` is the real one that takes its time."""
    directory.mkdir(exist_ok=True)
    program = directory / "qemu-img"
    program.write_text(
        "#!/bin/sh\n"
        f'[ "$1" = convert ] && shift && exec {shutil.which("qemu-img")} convert -r {bytes_per_s} "$@"\n'
        f'exec {shutil.which("qemu-img")} "$@"\n'
    )
    program.chmod(0o755)
    return directory


def write_pattern(path: Path, fmt: str, pattern: int, offset: int, length: int) -> None:
    """As a guest would, through the chain."""
    command = f"write -P {pattern} {offset} {length}"
    subprocess.run(["qemu-io", "-f", fmt, "-c", command, path], check=True, capture_output=True)


def same_content(one: Path, one_fmt: str, other: Path, other_fmt: str) -> bool:
    """What a guest sees in both, chains included."""
    done = subprocess.run(
        ["qemu-img", "compare", "-q", "-f", one_fmt, "-F", other_fmt, one, other], check=False, capture_output=True
    )
    return done.returncode == 0


def qemu_check(path: Path) -> None:
    subprocess.run(["qemu-img", "check", "-q", "-f", "qcow2", path], check=True, capture_output=True)
