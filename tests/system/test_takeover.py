# SPDX-License-Identifier: Apache-2.0
"""A host that VDSM has left with everything under way, taken over by a whole house and asked as an engine asks.

The domain, its pool and its tasks were written by VDSM itself (tests/data); what it leaves on the host beside that is
made here from facts: links of the repository, prepared images, networks, files of its daemons, a VM with its metadata.
"""

import json
import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import libvirt
import pytest

from tests.support import decode, domains
from tests.support.bootsector import hellos, last_tick, write_boot_disk
from tests.support.domains import WrittenByVdsm
from tests.support.eventually import eventually
from tests.support.house import RunningHouse
from tests.support.libvirtd import PrivateLibvirtd
from tests.support.needs import needs_program, needs_root
from vdsm_mp.api.types import BLANK

pytestmark = [
    pytest.mark.system,
    needs_root(),
    needs_program("libvirtd", "qemu-system-x86_64", "qemu-img", "unshare", "nsenter", "ip"),
    pytest.mark.timeout(180),
]

IMAGE = "439e5e46-f8b1-5899-8b38-4ef7f033ee80"
CHAIN = [
    "7dac298f-c519-5136-8f77-31c0b8bad813",
    "c1c860a0-707b-5d9b-b940-3295a0dbab17",
    "aa13864b-0253-5056-b7ff-790482844e86",
]
#: In the fixture: {what VDSM was about when it went: the task}.
FINISHED, ROLLED_BACK, QUEUED = (
    "c518d18b-fbd0-521d-8ef8-a643ed8ab305",
    "765bd9f8-a930-5255-8b99-e017c059e0e6",
    "251a2be0-dd8e-5ff3-96ec-3d598efa50c2",
)


class Left:
    """What VDSM has left on this host. The house has not begun yet."""

    def __init__(self, house: RunningHouse, libvirtd: PrivateLibvirtd, place: Path) -> None:
        self.house, self.libvirtd = house, libvirtd
        self.domain: WrittenByVdsm = domains.unpack(place)["export"]
        self.pool_id = self.domain.facts["info"]["pool"][0]
        self.connection = str(self.domain.root.parent)
        self.vm_id = str(uuid.uuid4())
        self.network = f"tk{uuid.uuid4().hex[:8]}"
        self.serial = libvirtd.root / f"{self.vm_id}.log"
        self._own(place)
        self._repository()
        self._networks()
        self._daemons()
        self.dom = self._vm()

    def _own(self, *paths: Path) -> None:
        for path in paths:
            subprocess.run(["chown", "-hR", "vdsm:kvm", path], check=True)

    def _repository(self) -> None:
        repo = self.house.root / "repo"
        repo.chmod(0o755)
        root = repo / "mnt" / self.connection.replace("_", "__").replace("/", "_")
        (repo / "mnt").mkdir()
        root.symlink_to(self.connection)
        self.image = root / self.domain.sd_id / "images" / IMAGE
        pool = repo / self.pool_id
        pool.mkdir()
        (pool / self.domain.sd_id).symlink_to(root / self.domain.sd_id)
        (pool / "mastersd").symlink_to(root / self.domain.sd_id)
        self.prepared = self.house.root / "vrun/storage" / self.domain.sd_id / IMAGE
        self.prepared.parent.mkdir(parents=True)
        self.prepared.symlink_to(self.image)
        self._own(repo, self.house.root / "vrun")

    def _networks(self) -> None:
        attributes = {
            **{"bridged": True, "stp": False, "mtu": 1500, "switch": "legacy", "bootproto": "none", "dhcpv6": False},
            **{"ipv6autoconf": False, "defaultRoute": False, "nameservers": []},
        }
        state = self.house.root / "state"
        for folder in (state / "staging/netconf", state / "persistence/netconf.Qb7wX2aL"):
            (folder / "nets").mkdir(parents=True)
            (folder / "bonds").mkdir()
            (folder / "nets" / self.network).write_text(json.dumps(attributes, indent=4))
        (state / "persistence/netconf").symlink_to(state / "persistence/netconf.Qb7wX2aL")
        (self.house.root / "vrun/nets_restored").touch()
        subprocess.run(["ip", "link", "add", self.network, "type", "bridge"], check=True)
        Path(f"/proc/sys/net/ipv6/conf/{self.network}/disable_ipv6").write_text("1")
        subprocess.run(["ip", "link", "set", self.network, "up"], check=True)

    def _daemons(self) -> None:
        """Sockets nobody listens at, and what else lies about."""
        run = self.house.root / "vrun"
        for name in ("svdsm.sock", "mom-vdsm.sock"):
            with socket.socket(socket.AF_UNIX) as sock:
                sock.bind(str(run / name))
        (run / "client.log").write_text("")
        (run / "trackedInterfaces").mkdir()
        (run / f"{uuid.uuid4()}.recovery").write_bytes(b"\x80\x02}q\x00.")
        (self.house.root / "state/upgrade").mkdir()

    def _vm(self) -> Any:
        """As VDSM starts it: prepared paths in the XML, the chain in the metadata."""
        write_boot_disk(Path(self.image / CHAIN[0]))
        (self.image / CHAIN[0]).chmod(0o660)
        ids = {"poolID": self.pool_id, "domainID": self.domain.sd_id, "imageID": IMAGE, "volumeID": CHAIN[-1]}
        named = "".join(f"<ovirt-vm:{key}>{value}</ovirt-vm:{key}>" for key, value in ids.items())
        nodes = "".join(
            f"<ovirt-vm:volumeChainNode><ovirt-vm:domainID>{self.domain.sd_id}</ovirt-vm:domainID>"
            f"<ovirt-vm:imageID>{IMAGE}</ovirt-vm:imageID><ovirt-vm:volumeID>{one}</ovirt-vm:volumeID>"
            f"<ovirt-vm:path>{self.image / one}</ovirt-vm:path></ovirt-vm:volumeChainNode>"
            for one in CHAIN
        )
        conn = libvirt.open(self.libvirtd.uri)
        dom = conn.defineXML(
            f"""<domain type="qemu" xmlns:ovirt-vm="http://ovirt.org/vm/1.0"><name>left</name><uuid>{self.vm_id}</uuid>
<memory>16384</memory><vcpu>1</vcpu><os><type arch="x86_64" machine="pc">hvm</type></os><features><acpi/></features>
<devices><disk type="file" device="disk" snapshot="no"><driver name="qemu" type="qcow2" error_policy="stop"/>
<source file="{self.image / CHAIN[-1]}"/><target dev="hda" bus="ide"/><serial>{IMAGE}</serial>
<alias name="ua-{IMAGE}"/></disk><serial type="file"><source path="{self.serial}" append="on"/></serial>
<controller type="usb" model="none"/></devices><metadata><ovirt-vm:vm>
<ovirt-vm:clusterVersion>4.7</ovirt-vm:clusterVersion>
<ovirt-vm:destroy_on_reboot type="bool">False</ovirt-vm:destroy_on_reboot>
<ovirt-vm:memGuaranteedSize type="int">8</ovirt-vm:memGuaranteedSize>
<ovirt-vm:launchPaused>false</ovirt-vm:launchPaused>
<ovirt-vm:startTime type="float">{time.time() - 5000}</ovirt-vm:startTime>
<ovirt-vm:device devtype="disk" name="hda">{named}<ovirt-vm:volumeChain>{nodes}</ovirt-vm:volumeChain></ovirt-vm:device>
</ovirt-vm:vm></metadata></domain>"""
        )
        dom.create()
        eventually(lambda: last_tick(self.serial) > 0, within_s=30)
        return dom

    def guest_lives_on(self) -> None:
        before = last_tick(self.serial)
        eventually(lambda: last_tick(self.serial) > before, within_s=15)
        assert hellos(self.serial) == 1


@pytest.fixture
def left() -> Iterator[Left]:
    place = Path(tempfile.mkdtemp(prefix="vdsm-mp-left-", dir="/tmp"))
    place.chmod(0o755)
    with PrivateLibvirtd.start() as libvirtd, RunningHouse({}, tls=False, table="", libvirt_uri=libvirtd.uri) as house:
        made = Left(house, libvirtd, place)
        try:
            yield made
        finally:
            subprocess.run(["ip", "link", "delete", made.network], check=True)
    shutil.rmtree(place)


def over(house: RunningHouse, task_id: str) -> dict[str, Any] | None:
    status: dict[str, Any] = house.call("Task.getStatus", {"taskID": task_id})
    return status if status["taskState"] == "finished" else None


def index_of(link: str) -> str:
    return Path(f"/sys/class/net/{link}/ifindex").read_text()


def test_a_host_of_vdsm_goes_on_with_its_vms_networks_prepared_images_and_tasks(left: Left) -> None:
    house = left.house
    bridge = index_of(left.network)
    house.begin()
    house.wait_ready()

    # Before anybody has asked for anything.
    (vm,) = decode.check_all_vm_stats(house.call("Host.getAllVmStats"))
    assert (vm["vmId"], vm["status"], vm["vmJobs"]) == (left.vm_id, "Up", {})
    assert 5000 <= int(vm["elapsedTime"]) < 5300
    networks = eventually(lambda: house.call("Host.getCapabilities"), within_s=30)["networks"]
    assert (networks[left.network]["bridged"], networks[left.network]["iface"]) == (True, left.network)
    assert index_of(left.network) == bridge
    assert os.readlink(left.prepared) == str(left.image)

    # As an engine takes a host in again.
    rows = [{"id": "c1", "connection": left.connection, "port": "", "iqn": "", "user": "", "password": ""}]
    params = {"storagepoolID": BLANK, "domainType": 4, "connectionParams": rows}
    assert house.call("StoragePool.connectStorageServer", params) == [{"id": "c1", "status": 0}]
    sd_id, pool_id = left.domain.sd_id, left.pool_id
    where = {"storagepoolID": pool_id, "hostID": 1, "scsiKey": pool_id, "masterSdUUID": sd_id, "masterVersion": 1}
    house.call("StoragePool.connect", {**where, "domainDict": {sd_id: "active"}})
    start = {"prevID": -1, "prevLver": "-1", "enableScsiFencing": "false", "maxHostID": 250, "domVersion": "5"}
    task_id = house.call("StoragePool.spmStart", {"storagepoolID": pool_id, **start})
    status = eventually(lambda: over(house, task_id), within_s=30)
    assert (status["taskResult"], status["code"]) == ("success", 0)
    told = eventually(lambda: _all_over(house), within_s=15)
    assert {one: told[one]["taskResult"] for one in (FINISHED, ROLLED_BACK, QUEUED)} == {
        FINISHED: "success",
        ROLLED_BACK: "cleanSuccess",
        QUEUED: "cleanSuccess",
    }
    info = house.call("Task.getInfo", {"taskID": FINISHED})
    assert info["verb"] == left.domain.facts["tasks"][FINISHED]["name"]
    left.guest_lives_on()

    # What runs can be worked with: a new leaf under the guest.
    leaf, job_id = str(uuid.uuid4()), str(uuid.uuid4())
    ids = {"storagepoolID": pool_id, "storagedomainID": sd_id, "imageID": IMAGE}
    create = {
        **{"size": str(8 * 2**20), "volFormat": 4, "preallocate": 2, "diskType": "DATA", "desc": ""},
        **{"srcImgUUID": IMAGE, "srcVolUUID": CHAIN[-1], "volumeID": leaf, **ids},
    }
    task_id = house.call("Volume.create", create)
    assert eventually(lambda: over(house, task_id), within_s=30)["taskResult"] == "success"
    names = {"domainID": sd_id, "imageID": IMAGE, "volumeID": leaf, "baseVolumeID": CHAIN[-1]}
    house.call("VM.snapshot", {"vmID": left.vm_id, "snapDrives": [names], "jobUUID": job_id})
    eventually(lambda: house.call("Host.getJobs")[job_id]["status"] == "done", within_s=20)
    assert f"/{IMAGE}/{leaf}'" in left.dom.XMLDesc(0)
    left.guest_lives_on()
    assert house.status()["workers"]["network"]["vitals"]["problems"] == []

    house.call("VM.destroy", {"vmID": left.vm_id, "gracefulAttempts": 0})
    eventually(lambda: not left.prepared.is_symlink(), within_s=10)
    assert pwd.getpwuid((left.image / leaf).stat().st_uid).pw_name == "vdsm"


def _all_over(house: RunningHouse) -> dict[str, Any] | None:
    found: dict[str, Any] = house.call("Host.getAllTasksStatuses")
    return found if all(one["taskState"] == "finished" for one in found.values()) else None
