# SPDX-License-Identifier: Apache-2.0
"""An OVA becomes volumes through the door of a whole house; the worker that converts dies over it.

A program stands for virt-v2v: the real one is in tests/unit/virt/test_v2v.py, where a machine has it.
"""

import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from demonstration import sequences
from tests.support import ova
from tests.support.engine import Engine
from tests.support.eventually import eventually
from tests.support.house import RunningHouse
from tests.support.needs import needs_program, needs_root

pytestmark = [pytest.mark.system, needs_root(), needs_program("sudo", "qemu-img"), pytest.mark.timeout(120)]

_PROGRAM = """#!/bin/sh
while [ $# -gt 0 ]; do case $1 in -os) os=$2;; --vdsm-vm-uuid) id=$2;; --vdsm-ovf-output) ovfs=$2;; esac; shift; done
echo '[   1.0] Copying disk 1/1'
[ -e {state}/quick ] || {{ sleep 300 & echo $! >{state}/pid; wait; }}
for volume in $os/images/*/*; do echo data | dd of=$volume conv=notrunc 2>/dev/null; done
echo '<ovf/>' >$ovfs/$id.ovf
"""


@pytest.fixture
def house() -> Iterator[RunningHouse]:
    made = RunningHouse({}, tls=True, table="", libvirt_uri="test:///default")
    try:
        program = made.root / "bin" / "virt-v2v"
        program.parent.mkdir()
        program.write_text(_PROGRAM.format(state=made.root / "state"))
        program.chmod(0o755)
        made.environment["PATH"] = f"{program.parent}:{os.environ['PATH']}"
        made.begin()
        made.wait_ready()
        yield made
    finally:
        made.stop()


def test_a_conversion_that_dies_with_its_worker_is_told_and_one_that_ends_is_kept(house: RunningHouse) -> None:
    ask = Engine(house.client()).ask
    path = house.root / "data"
    path.mkdir()
    shutil.chown(path, "vdsm", "kvm")
    storage = sequences.Storage(str(path))
    sequences.from_nothing(ask, storage, "conversions")
    disk = sequences.Disk(storage, size_bytes=1 << 20, form=sequences.RAW)
    sequences.create_disk(ask, disk, "conversions")
    volume = path / storage.sd_id / "images" / disk.image_id / disk.volume_id

    content = b"KDMV" + bytes([0] * 8 + [1] + [0] * 5000)
    file = ova.tar(house.root / "small.ova", {"small.ovf": ova.ovf().encode(), "disk1.vmdk": content})
    file.chmod(0o644)
    assert ask("Host.getExternalVmFromOva", ova_path=str(file))["vmName"] == "small"
    vm = {key: value for key, value in disk.ids().items() if key in ("poolID", "domainID")}
    vm |= {"vmName": "small", "disks": [{key: disk.ids()[key] for key in ("imageID", "volumeID")}]}

    def told(job_id: str) -> Any:
        return ask("Host.getStats")["v2vJobs"][job_id]

    cut, whole = sequences.new_id(), sequences.new_id()
    ask("Host.convertExternalVmFromOva", ova_path=str(file), vminfo=vm, jobid=cut)
    pid = eventually(lambda: int((house.root / "state/pid").read_text() or 0) if _written(house) else 0, within_s=30)
    copying = {"status": "copying_disk", "description": "Copying disk 1/1", "progress": 0}
    eventually(lambda: told(cut) == copying)
    virt = house.pid_of("virt")
    os.kill(virt, signal.SIGKILL)
    house.wait_other_pid("virt", virt, within_s=30)
    eventually(lambda: told(cut)["status"] == "error", within_s=20, every_s=0.2)
    eventually(lambda: not Path(f"/proc/{pid}").exists(), within_s=10)
    assert ask("Host.getJobs", job_type="v2v", job_ids=[cut])[cut]["status"] == "failed"

    (house.root / "state/quick").touch()
    ask("Host.convertExternalVmFromOva", ova_path=str(file), vminfo=vm, jobid=whole)
    eventually(lambda: told(whole)["status"] == "done", within_s=30, every_s=0.2)
    assert volume.read_bytes()[:5] == b"data\n"
    virt = house.pid_of("virt")
    os.kill(virt, signal.SIGKILL)
    house.wait_other_pid("virt", virt, within_s=30)
    assert eventually(lambda: ask("Host.getConvertedVm", jobid=whole), within_s=20) == "<ovf/>\n"
    for job_id in (cut, whole):
        ask("Host.deleteV2VJob", jobid=job_id)
    assert ask("Host.getStats")["v2vJobs"] == {}
    assert list((house.root / "vrun/v2v").iterdir()) == []


def _written(house: RunningHouse) -> bool:
    return (house.root / "state/pid").exists()
