# SPDX-License-Identifier: Apache-2.0
"""Passwords that clients give us are not found anywhere afterwards: not in logs, files, arguments or answers.

The logs are at their most talkative and the messages of every worker are traced meanwhile; right, wrong and unreadable
calls carry the secret.
"""

import contextlib
import json
import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.eventually import eventually
from tests.support.house import RunningHouse
from tests.support.needs import needs_root
from vdsm_mp.api.errors import RemoteError
from vdsm_mp.api.types import BLANK
from vdsm_mp.workers.table import WORKERS

pytestmark = [pytest.mark.system, needs_root(), pytest.mark.timeout(180)]

SECRET = f"s3cret-{uuid.uuid4().hex}"


def calls() -> Iterator[tuple[str, dict[str, Any]]]:
    """Verbs that take a secret; none of them reaches anything real."""
    row = {"id": BLANK, "connection": "/nowhere", "port": "", "iqn": "", "user": "admin", "password": SECRET}
    for kind in (4, 6, 3, "nonsense"):
        params = {"storagepoolID": BLANK, "domainType": kind, "connectionParams": [row]}
        yield "StoragePool.connectStorageServer", params
        yield "StoragePool.disconnectStorageServer", params
    vm_id = str(uuid.uuid4())
    yield "VM.setTicket", {"vmID": vm_id, "password": SECRET, "ttl": 120, "existingConnAction": "keep", "params": {}}
    yield "VM.setTicket", {"vmID": "wrong", "password": SECRET, "ttl": "wrong", "params": {"password": SECRET}}
    yield "VM.setTicket", {"vmID": vm_id, "password": [SECRET], "ttl": 120}
    display = f'<domain><uuid>{vm_id}</uuid><graphics type="vnc" passwd="{SECRET}"/></domain>'
    yield "VM.create", {"vmID": vm_id, "vmParams": {"vmId": vm_id, "xml": display, "password": SECRET}}
    yield "VM.desktopLogin", {"vmID": vm_id, "domain": "d", "username": "u", "password": SECRET}
    for uri in ("qemu+tcp://127.0.0.1:1/system", "vpx://root@127.0.0.1:1/dc/esx", "test:///default"):
        account = {"uri": uri, "username": "root", "password": SECRET}
        yield "Host.getExternalVMs", account
        yield "Host.getExternalVMNames", account
        disk = {"imageID": vm_id, "volumeID": vm_id}
        vm = {"vmName": "x", "poolID": vm_id, "domainID": vm_id, "disks": [disk]}
        yield "Host.convertExternalVm", {**account, "vminfo": vm, "jobid": str(uuid.uuid4())}
    yield "Host.add_image_ticket", {"ticket": {"uuid": str(uuid.uuid4()), "password": SECRET}}
    yield "No.suchVerb", {"password": SECRET}


def told(house: RunningHouse, call: Any) -> str:
    """The answer, whatever it is."""
    verb, params = call
    try:
        return json.dumps(house.call(verb, params))
    except RemoteError as error:
        return str(error)


def files_with_secret(folder: Path) -> list[str]:
    found = []
    for path in folder.rglob("*"):
        if path.is_file() and not path.is_symlink() and SECRET.encode() in path.read_bytes():
            found.append(str(path.relative_to(folder)))
    return found


def test_no_secret_is_left_anywhere() -> None:
    with RunningHouse.start() as house:
        logger = house.root / "etc/logger.conf"
        assert house.terminate() == 0
        logger.write_text(logger.read_text().replace("level=INFO", "level=TRACE"))
        house.begin()
        house.wait_ready()
        for worker in WORKERS:
            house.ask("trace", worker=worker.name)
        answers = []
        for call in calls():
            answers.append((call[0], told(house, call)))
            for pid in house.all_pids():
                with contextlib.suppress(OSError):
                    assert SECRET.encode() not in Path(f"/proc/{pid}/cmdline").read_bytes()
        eventually(lambda: "VM.setTicket" in house.log_text())
        assert [answer for answer in answers if SECRET in answer[1]] == []
        assert SECRET not in json.dumps(house.status())
        assert files_with_secret(house.root) == []
        assert house.terminate() == 0
        assert files_with_secret(house.root) == []


def test_other_users_cannot_read_what_the_agent_keeps() -> None:
    with RunningHouse.start() as house:
        for path in (*(house.root / "run").rglob("*"), *(house.root / "state").rglob("*")):
            if not path.is_symlink():
                assert path.stat().st_mode & 0o002 == 0, path
                assert path.stat().st_uid != os.getuid() or path.stat().st_mode & 0o022 == 0, path
