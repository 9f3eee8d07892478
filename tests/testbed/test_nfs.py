# SPDX-License-Identifier: Apache-2.0
"""NFS for real: a server and an agent's storage in two throw-away hosts; the server falls silent and comes back.

Takes the first time minutes to build the hosts, then half a minute each; run by `make testbed`, not by `make check`.
"""

import json
import sys
import threading
from pathlib import Path

import pytest

from tests.support.eventually import eventually
from tests.support.needs import needs_program, needs_root
from tests.testbed.channel import Result
from tests.testbed.testbed import Testbed

pytestmark = [
    needs_root(),
    needs_program("mmdebstrap", "mke2fs"),
    pytest.mark.timeout(900),
]

_SERVER = """
set -e
mkdir -p /srv/data; truncate -s 400M /root/nfs.img; mkfs.ext4 -q /root/nfs.img
modprobe loop; mount -o loop /root/nfs.img /srv/data; chown 36:36 /srv/data
echo "/srv/data *(rw,sync,no_subtree_check,anonuid=36,anongid=36,all_squash,fsid=1)" >/etc/exports
tb-start nfs-server
"""
#: The interpreter and its packages are the machine's own, seen through the host file system.
_CLIENT = "tb-start nfs-client; for d in {folders}; do mkdir -p $d; mount -t hostfs -o $d none $d; done"


def _folders() -> list[str]:
    found = {str(Path(sys.prefix)), str(Path(sys.executable).resolve().parents[1])}
    return sorted(folder for folder in found if folder != "/usr")


@pytest.mark.parametrize("version", ["3", "4.2"])
def test_a_silent_server_is_noticed_survived_and_left(version: str) -> None:
    with Testbed(hosts=2, project=str(Path(__file__).parents[2])) as bed:
        server, client = bed.hosts
        _must(server.run(_SERVER, timeout=120))
        _must(client.run(_CLIENT.format(folders=" ".join(_folders())), timeout=120))
        shared = Path(bed.folder) / "testbed"
        results: list[Result] = []
        command = f"cd /project && PYTHONDONTWRITEBYTECODE=1 {sys.executable} -m tests.testbed.nfs_room {version} 2>&1"
        thread = threading.Thread(target=lambda: results.append(client.run(command, timeout=600)))
        thread.start()
        _wait(shared / "ready", results)
        _must(server.run("iptables -A INPUT -p tcp --dport 2049 -j DROP", timeout=30))
        (shared / "cut").touch()
        _wait(shared / "hung", results)
        _must(server.run("iptables -D INPUT -p tcp --dport 2049 -j DROP", timeout=30))
        (shared / "mended").touch()
        _wait(shared / "again", results)
        _must(server.run("iptables -A INPUT -p tcp --dport 2049 -j DROP", timeout=30))
        (shared / "dead").touch()
        thread.join(300)
        [result] = results
        _must(result)
        seen = json.loads(next(line for line in result.output.splitlines() if line.startswith("SEEN "))[5:])
    print(json.dumps(seen), file=sys.stderr)
    assert seen["options"] == sorted(["nosharecache", "retrans=1", "soft", "timeo=20", f"vers={version}"])
    assert seen["owner"] == [36, 36]
    assert seen["code"] in (2001, 379)
    assert seen["healthy_age_s"] < 4.0
    assert (seen["left_status"], seen["mounted"]) == (0, False)
    assert seen["asked"][-1] in ("umount", "umount-detach")


def _wait(path: Path, results: list[Result]) -> None:
    def there() -> bool:
        if results:
            raise RuntimeError(results[0].output[-4000:])
        return path.exists()

    eventually(there, within_s=300, every_s=0.2)


def _must(result: Result) -> None:
    assert result.status == 0, result.output[-4000:]
