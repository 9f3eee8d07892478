# SPDX-License-Identifier: Apache-2.0
"""Conversions as jobs, with virt-v2v where there is one, and a program in its place elsewhere."""

import os
import re
import stat
import subprocess
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support import appliance, ova
from tests.support.eventually import eventually
from tests.support.virt_room import VirtRoom
from vdsm_mp.api.errors_task import JobExists, JobNotDone, NoSuchJob
from vdsm_mp.api.errors_virt import BadConversion, BadOva, ForeignHypervisorFailed, NoConvertedVm
from vdsm_mp.api.internal import GetVirtJobs, GetVmCounts
from vdsm_mp.virt import v2v_jobs, v2v_run
from vdsm_mp.virt.v2v_jobs import Conversions

POOL, SD = str(uuid.uuid4()), str(uuid.uuid4())
URI = "vpx://root@vcenter.example.com/dc/esx?no_verify=1"


@pytest.fixture
def room(tmp_path: Path) -> Iterator[VirtRoom]:
    with VirtRoom("test:///default", tmp_path) as room:
        yield room
    assert room.background.failures == []


@pytest.fixture
def in_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """in_place(shell): what virt-v2v does."""

    def put(body: str) -> None:
        program = tmp_path / "virt-v2v"
        program.write_text(f"#!/bin/sh\n{body}\n")
        program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")

    return put


def volume(room: VirtRoom, folder: Path, mib: int = 1) -> dict[str, str]:
    ids = {"imageID": str(uuid.uuid4()), "volumeID": str(uuid.uuid4())}
    path = folder / ids["volumeID"]
    path.touch()
    os.truncate(path, mib << 20)
    room.storage.images[ids["imageID"]] = path
    return ids


def vm(*disks: dict[str, str], **more: Any) -> dict[str, Any]:
    return {"vmName": "-o evil", "poolID": POOL, "domainID": SD, "disks": list(disks), **more}


def begin(room: VirtRoom, info: dict[str, Any], password: str = "secret") -> str:
    job_id = str(uuid.uuid4())
    room.call("Host.convertExternalVm", uri=URI, username="root", password=password, vminfo=info, jobid=job_id)
    return job_id


def state(room: VirtRoom, job_id: str) -> dict[str, Any]:
    told: dict[str, Any] = room.ask(GetVmCounts())["conversions"][job_id]
    return told


def ended(room: VirtRoom, job_id: str, within_s: float = 20) -> dict[str, Any]:
    eventually(lambda: state(room, job_id)["status"] in ("done", "error", "aborted"), within_s=within_s)
    return state(room, job_id)


def test_a_vm_goes_into_prepared_volumes_and_its_description_comes_back(
    room: VirtRoom, tmp_path: Path, in_place: Any
) -> None:
    first, second = volume(room, tmp_path), volume(room, tmp_path)
    seen = tmp_path / "seen"
    in_place(
        f"""
        printf '%s\\n' "$@" > {seen}
        stat -c '%a' {tmp_path}/v2v/*.password >> {seen}
        cat {tmp_path}/v2v/*.password >> {seen}
        while [ $# -gt 0 ]; do
            case $1 in -os) os=$2;; --vdsm-vm-uuid) id=$2;; --vdsm-ovf-output) ovfs=$2;; esac; shift
        done
        for volume in $os/images/*/*; do echo data > $volume; done
        echo '<ovf/>' > $ovfs/$id.ovf
        """
    )
    info = vm(first, second, format="COW", allocation="Preallocated", qcow2_compat="1.1")
    job_id = begin(room, info, "s3cret pass")
    assert ended(room, job_id) == {"status": "done", "description": "", "progress": 100}
    words = seen.read_text().splitlines()
    assert words[-4:] == ["--", "-o evil", "600", "s3cret pass"]
    text = " ".join(words)
    assert "s3cret" not in text.removesuffix("s3cret pass")
    assert text.startswith(f"-ic {URI} -o vdsm -of qcow2 -oa preallocated --vdsm-compat 1.1 --vdsm-image-uuid")
    images = [words[at + 1] for at, word in enumerate(words) if word == "--vdsm-image-uuid"]
    assert images == [first["imageID"], second["imageID"]]
    assert all(room.storage.images[one["imageID"]].read_text() == "data\n" for one in (first, second))
    assert room.call("Host.getConvertedVm", jobid=job_id) == "<ovf/>\n"
    assert room.storage.released == images
    left = {path.name for path in (tmp_path / "v2v").iterdir()}
    assert left == {f"{job_id}.json", f"{job_id}.ovf"}
    assert "s3cret" not in (tmp_path / "v2v" / f"{job_id}.json").read_text()
    assert stat.S_IMODE((tmp_path / "v2v").stat().st_mode) == 0o700
    with pytest.raises(JobExists):
        room.call("Host.convertExternalVm", uri=URI, username="", password="", vminfo=info, jobid=job_id)
    room.call("Host.deleteV2VJob", jobid=job_id)
    assert list((tmp_path / "v2v").iterdir()) == []
    with pytest.raises(NoSuchJob):
        room.call("Host.getConvertedVm", jobid=job_id)


def test_progress_is_that_of_all_disks(room: VirtRoom, tmp_path: Path, in_place: Any) -> None:
    """Both ways in which it is said: bars that come back to the start of their line, and messages."""
    in_place(
        f"""
        step() {{ printf "$1"; while [ ! -e {tmp_path}/$2 ]; do sleep 0.05; done; }}
        step '[   1.0] Opening the source\\n' one
        step '[  10.0] Copying disk 1/2\\n    (50.00/100%%)\\r' two
        step '{{ "message": "Copying disk 2/2", "type": "message" }}\\n' three
        step '\\r  20%% [***      ]\\r' four
        """
    )
    job_id = begin(room, vm(volume(room, tmp_path), volume(room, tmp_path)))
    assert state(room, job_id)["status"] == "starting"
    for file, disk, percent in (("one", 1, 25), ("two", 2, 50), ("three", 2, 60)):
        (tmp_path / file).touch()
        told = {"status": "copying_disk", "description": f"Copying disk {disk}/2", "progress": percent}
        eventually(lambda told=told: state(room, job_id) == told, within_s=10)
    with pytest.raises(JobNotDone):
        room.call("Host.getConvertedVm", jobid=job_id)
    with pytest.raises(JobNotDone):
        room.call("Host.deleteV2VJob", jobid=job_id)
    assert room.ask(GetVirtJobs())[job_id]["status"] == "running"
    (tmp_path / "four").touch()
    assert ended(room, job_id)["status"] == "done"
    with pytest.raises(NoConvertedVm):
        room.call("Host.getConvertedVm", jobid=job_id)


def test_what_virt_v2v_says_is_the_error_of_the_job(room: VirtRoom, tmp_path: Path, in_place: Any) -> None:
    in_place(
        """echo '{ "message": "no root device found\\\\n\\\\nreally", "type": "error" }'
        echo 'virt-v2v: error: no root device found' >&2; exit 1"""
    )
    job_id = begin(room, vm(volume(room, tmp_path)))
    reason = "Cannot convert the virtual machine: no root device found really"
    assert ended(room, job_id) == {"status": "error", "description": reason, "progress": 0}
    assert room.ask(GetVirtJobs())[job_id]["error"] == {"code": 100, "message": reason}
    in_place("echo 'virt-v2v: error: something else' >&2; exit 1")
    job_id = begin(room, vm(volume(room, tmp_path)))
    assert "something else" in ended(room, job_id)["description"]


def test_the_log_tells_what_virt_v2v_does_before_it_copies(
    room: VirtRoom, tmp_path: Path, in_place: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    in_place("""echo '{ "message": "Opening the source", "timestamp": "now", "type": "message" }'""")
    job_id = begin(room, vm(volume(room, tmp_path)))
    assert ended(room, job_id)["status"] == "done"
    assert f"conversion {job_id}: Opening the source" in caplog.messages


def test_an_aborted_one_ends_with_all_that_it_started(room: VirtRoom, tmp_path: Path, in_place: Any) -> None:
    in_place(f"touch $VIRT_V2V_TMPDIR/leftover; sleep 60 & echo $! > {tmp_path}/pid; wait")
    disk = volume(room, tmp_path)
    job_id = begin(room, vm(disk))
    eventually(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text().strip())
    assert list((tmp_path / "v2v").glob("vdsm-mp-w-*/leftover"))
    room.call("Host.abortV2VJob", jobid=job_id)
    assert state(room, job_id)["status"] == "aborted"
    room.call("Host.abortV2VJob", jobid=job_id)
    pid = int((tmp_path / "pid").read_text())
    eventually(lambda: not Path(f"/proc/{pid}").exists() or "Z" in Path(f"/proc/{pid}/stat").read_text().split()[2])
    eventually(lambda: room.storage.released == [disk["imageID"]])
    assert state(room, job_id)["status"] == "aborted"
    assert not list((tmp_path / "v2v").glob("vdsm-mp-w-*"))
    room.call("Host.deleteV2VJob", jobid=job_id)


def test_of_many_a_few_run_and_one_that_waits_can_be_aborted(room: VirtRoom, tmp_path: Path, in_place: Any) -> None:
    in_place(f"echo x >> {tmp_path}/runs; while [ ! -e {tmp_path}/go ]; do sleep 0.05; done")
    jobs = [begin(room, vm(volume(room, tmp_path))) for _ in range(4)]
    eventually(lambda: (tmp_path / "runs").exists() and (tmp_path / "runs").read_text() == "x\n" * 3)
    room.call("Host.abortV2VJob", jobid=jobs[3])
    (tmp_path / "go").touch()
    assert [ended(room, job_id)["status"] for job_id in jobs] == ["done", "done", "done", "aborted"]
    assert (tmp_path / "runs").read_text() == "x\n" * 3


def test_a_conversion_that_our_death_cut_short_is_told_as_failed_by_the_next_life(
    tmp_path: Path, in_place: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vdsm_mp.virt.v2v._SETTLED_S", 0.1)
    with VirtRoom("test:///default", tmp_path) as room:
        in_place(f"touch {tmp_path}/begun; sleep 60")
        disk = volume(room, tmp_path)
        cut = begin(room, vm(disk))
        eventually((tmp_path / "begun").exists)
        in_place("while [ $# -gt 0 ]; do [ $1 = --vdsm-vm-uuid ] && echo ovf > $TMPDIR/../$2.ovf; shift; done")
        done = begin(room, vm(volume(room, tmp_path)))
        assert ended(room, done)["status"] == "done"
        # As they are on the disk when we die: the work itself is a thread, and the room's.
        record = (tmp_path / "v2v" / f"{cut}.json").read_bytes()
        room.call("Host.abortV2VJob", jobid=cut)
        eventually(lambda: disk["imageID"] in room.storage.released)
    (tmp_path / "v2v" / f"{cut}.json").write_bytes(record)
    (tmp_path / "v2v" / f"{cut}.password").write_text("secret")
    (tmp_path / "v2v" / "torn.json").write_text("{")
    with VirtRoom("test:///default", tmp_path) as room:
        room.storage.images = {}
        assert state(room, cut)["status"] == "error"
        assert "the agent was ended" in state(room, cut)["description"]
        assert state(room, done)["status"] == "done"
        assert room.call("Host.getConvertedVm", jobid=done) == "ovf\n"
        eventually(lambda: room.storage.released == [disk["imageID"]])
        assert not list((tmp_path / "v2v").glob("*.password"))


def test_old_ones_are_forgotten(room: VirtRoom, tmp_path: Path, in_place: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(v2v_jobs, "_KEPT", 2)
    in_place("true")
    jobs = []
    for _ in range(3):
        jobs.append(begin(room, vm(volume(room, tmp_path))))
        ended(room, jobs[-1])
    eventually(lambda: set(room.state(Conversions).jobs()) == set(jobs[1:]))
    eventually(lambda: len(list((tmp_path / "v2v").glob("*.json"))) == 2)


@pytest.mark.parametrize(
    "change",
    [
        {"disks": []},
        {"format": "vmdk"},
        {"allocation": "thin"},
        {"qcow2_compat": "3"},
        {"vmName": ""},
        {"vmName": "a\nb"},
        {"virtio_iso_path": "iso"},
    ],
)
def test_what_makes_no_sense_is_refused_before_anything_is_begun(
    room: VirtRoom, tmp_path: Path, in_place: Any, change: dict[str, Any]
) -> None:
    in_place("true")
    with pytest.raises(BadConversion):
        begin(room, vm(volume(room, tmp_path)) | change)
    with pytest.raises(ForeignHypervisorFailed):
        begin(room, vm(volume(room, tmp_path)), "a\nb")
    assert room.ask(GetVirtJobs()) == {}
    assert room.storage.prepared == []


def test_a_volume_that_is_not_there_fails_the_job(room: VirtRoom, tmp_path: Path, in_place: Any) -> None:
    in_place("true")
    there = volume(room, tmp_path)
    job_id = begin(room, vm(there, {"imageID": str(uuid.uuid4()), "volumeID": str(uuid.uuid4())}))
    assert ended(room, job_id)["status"] == "error"
    assert there["imageID"] in room.storage.released


def test_a_host_without_the_program_says_so(room: VirtRoom, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    with pytest.raises(BadConversion, match="not installed"):
        begin(room, vm(volume(room, tmp_path)))


@pytest.mark.parametrize(
    "path",
    ["small.ova", "/a/../b", "/proc/1/root/x", "/./proc/1/x", "//dev/sda", "/dev/sda", "/a\nb", "/" + "a" * 5000],
)
def test_paths_that_are_none_of_an_ova(room: VirtRoom, path: str) -> None:
    with pytest.raises(BadOva):
        room.call("Host.getExternalVmFromOva", ova_path=path)
    with pytest.raises(BadOva):
        room.call("Host.convertExternalVmFromOva", ova_path=path, vminfo=vm(), jobid=POOL)


def test_an_ova_is_looked_into_before_virt_v2v_may(room: VirtRoom, tmp_path: Path, in_place: Any) -> None:
    in_place(f"touch {tmp_path}/ran")
    path = ova.tar(tmp_path / "x.ova", {"x.ovf": ova.ovf(href="../../etc/shadow").encode()})
    assert room.call("Host.getExternalVmFromOva", ova_path=str(path))["vmName"] == "small"
    job_id = str(uuid.uuid4())
    info = vm(volume(room, tmp_path))
    room.call("Host.convertExternalVmFromOva", ova_path=str(path), vminfo=info, jobid=job_id)
    assert "outside of itself" in ended(room, job_id)["description"]
    assert not (tmp_path / "ran").exists()


@pytest.mark.timeout(450)
def test_the_real_program_looks_into_an_ova_and_tells_why_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    appliance.prepare(monkeypatch, "virt-v2v", v2v_run)
    raw = tmp_path / "raw"
    raw.touch()
    os.truncate(raw, 32 << 20)
    subprocess.run(["mke2fs", "-q", "-F", "-t", "ext4", raw], check=True, timeout=30)
    members = {"small.ovf": ova.ovf(capacity=32).encode(), "disk1.vmdk": ova.vmdk(raw, tmp_path / "v").read_bytes()}
    path = ova.tar(tmp_path / "small.ova", members)
    job_id = str(uuid.uuid4())
    # A short path, as an installed host has it: sockets are made below it.
    with tempfile.TemporaryDirectory(prefix="v2v-", dir="/tmp") as folder:
        with VirtRoom("test:///default", Path(folder)) as room:
            info = vm(volume(room, tmp_path, 32))
            room.call("Host.convertExternalVmFromOva", ova_path=str(path), vminfo=info, jobid=job_id)
            told = ended(room, job_id, within_s=400)
        assert [path.name for path in (Path(folder) / "v2v").iterdir()] == [f"{job_id}.json"]
    assert told["status"] == "error"
    assert re.search(r"inspection could not detect the source guest", told["description"])
