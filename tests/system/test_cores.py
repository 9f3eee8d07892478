# SPDX-License-Identifier: Apache-2.0
"""Real cores of workers that hold secrets: who leaves one, who may read it, and what is in it.

The host's private key is looked for as the computer keeps it.
"""

import os
import re
import signal
import stat
import subprocess
import uuid
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.support.eventually import eventually
from tests.support.house import RunningHouse
from tests.support.needs import lacks, needs_program, needs_root
from vdsm_mp.api.types import BLANK

pytestmark = [pytest.mark.system, needs_root(), needs_program("openssl", "prlimit"), pytest.mark.timeout(180)]

SECRET = f"s3cret-{uuid.uuid4().hex}"
PATTERN = Path("/proc/sys/kernel/core_pattern")


def house_with_cores(options: Mapping[str, object]) -> RunningHouse:
    if PATTERN.read_text().startswith(("|", "/")):
        lacks("a kernel that leaves cores in the working directory")
    house = RunningHouse({"vars": options}, tls=True, table="", libvirt_uri="test:///default")
    house.through = ["prlimit", "--core=unlimited"]
    return house


def tell_secrets(house: RunningHouse) -> None:
    """Through the door to storage."""
    row = {"id": BLANK, "connection": "/nowhere", "port": "", "iqn": "", "user": "admin", "password": SECRET}
    params = {"storagepoolID": BLANK, "domainType": 4, "connectionParams": [row]}
    assert house.call("StoragePool.connectStorageServer", params)


def number_of_the_key(house: RunningHouse) -> bytes:
    """The private number of the host's key, as OpenSSL keeps it: the low octets first."""
    assert house.files is not None
    argv = ["openssl", "pkey", "-in", house.files.key, "-noout", "-text"]
    said = subprocess.run(argv, capture_output=True, text=True, check=True).stdout
    found = re.search(r"priv:\s*([0-9a-f:\s]+)", said)
    assert found is not None, "the key of the tests is not on a curve"
    number = bytes.fromhex(re.sub(r"[:\s]", "", found[1])).lstrip(b"\0")
    assert len(number) >= 30
    return number[::-1]


def crash(house: RunningHouse, name: str) -> None:
    pid = house.pid_of(name)
    os.kill(pid, signal.SIGSEGV)
    house.wait_other_pid(name, pid)


def cores(house: RunningHouse) -> list[Path]:
    return [path for path in house.root.rglob("core*") if path.is_file() and path.stat().st_size > 1 << 20]


def test_a_core_is_for_the_agent_alone_the_newest_are_kept_and_the_door_leaves_none() -> None:
    with house_with_cores({}) as house:
        house.begin()
        house.wait_ready()
        tell_secrets(house)
        folder = house.root / "state/cores"
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        crash(house, "clientif")
        assert cores(house) == []
        crash(house, "storage")
        (core,) = cores(house)
        assert core.parent == folder
        assert (stat.S_IMODE(core.stat().st_mode), core.owner()) == (0o600, "vdsm")
        told = f"storage left a core: {core}; it holds what the process had in memory, secrets too"
        eventually(lambda: told in house.log_text())
        image = core.read_bytes()
        assert SECRET.encode() in image, "nothing is found where something must be: the search proves nothing"
        assert number_of_the_key(house) not in image
        for number in range(4):
            (folder / f"core.{number}").write_bytes(b"old")
            os.utime(folder / f"core.{number}", (number, number))
        crash(house, "network")
        assert len(list(folder.iterdir())) == 3
        writer = house.status()["log"]["pid"]
        (folder / "core.old").write_bytes(b"old")
        os.utime(folder / "core.old", (0, 0))
        os.kill(writer, signal.SIGSEGV)
        eventually(lambda: f"pid={writer} left a core" in house.log_text())
        assert len(list(folder.iterdir())) == 3
        with pytest.raises(PermissionError):
            _as_nobody(core)


def _as_nobody(path: Path) -> None:
    done = subprocess.run(
        ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "head", "-c", "1", path],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if "Permission denied" in done.stderr:
        raise PermissionError(done.stderr)


def test_the_door_holds_the_key_that_no_other_worker_holds() -> None:
    """So that it is right to forbid its core alone: the key is in its memory, which root may read."""
    with RunningHouse.start(tls=True) as house:
        tell_secrets(house)
        assert number_of_the_key(house) in _memory(house.pid_of("clientif"))
        for name in ("storage", "network", "virt", "scheduler"):
            assert number_of_the_key(house) not in _memory(house.pid_of(name)), name


def _memory(pid: int) -> bytes:
    """What a process has written itself: its private pages."""
    found = []
    with open(f"/proc/{pid}/mem", "rb", buffering=0) as memory:
        for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
            place, rights, *rest = line.split(maxsplit=5)
            if rights.startswith("rw") and not rest[-1].startswith("[v"):
                begin, end = (int(word, 16) for word in place.split("-"))
                memory.seek(begin)
                found.append(memory.read(end - begin))
    return b"".join(found)


def test_with_cores_switched_off_nobody_leaves_one_and_nobody_may_look() -> None:
    with house_with_cores({"core_dump_enable": False}) as house:
        house.begin()
        house.wait_ready()
        tell_secrets(house)
        for name in ("storage", "clientif"):
            pid = house.pid_of(name)
            # Whatever the kernel would do with a core: it belongs to root only if there can be none.
            assert os.stat(f"/proc/{pid}/environ").st_uid == 0
            crash(house, name)
        master = house.status()["pid"]
        assert os.stat(f"/proc/{master}/environ").st_uid == 0
        assert cores(house) == []
