# SPDX-License-Identifier: Apache-2.0
"""What happens to NFS exports, for real: handles go stale, exports vanish, servers stop, and all come back.

A few minutes each (the server is away for thirty seconds under version 3, for five minutes under 4.2).
"""

import json
import sys
from pathlib import Path

import pytest

from tests.support.needs import needs_program, needs_root
from tests.testbed.asks import Play, folders, must, serve
from tests.testbed.testbed import Testbed

pytestmark = [
    needs_root(),
    needs_program("mmdebstrap", "mke2fs"),
    pytest.mark.timeout(1800),
]

SERVER = """
set -e
mkdir -p /srv/data; modprobe loop
for i in nfs other; do truncate -s 400M /root/$i.img; mkfs.ext4 -q -E root_owner=36:36 /root/$i.img; done
mount -o loop /root/nfs.img /srv/data
echo "/srv/data *(rw,sync,no_subtree_check,anonuid=36,anongid=36,all_squash,fsid=1)" >/etc/exports
tb-start nfs-server
"""
CLIENT = "tb-start nfs-client; for d in {folders}; do mkdir -p $d; mount -t hostfs -o $d none $d; done"

#: No answer, no such domain, no access, stale handle, no permission: whatever the kernel says, an engine sees invalid.
_CODES = {2001, 358, 379, 384, 385}


@pytest.mark.parametrize(("version", "silent_s"), [("3", 30), ("4.2", 300)])
def test_whatever_happens_to_an_export_is_told_survived_and_over_by_itself(version: str, silent_s: int) -> None:
    with Testbed(hosts=2, project=str(Path(__file__).parents[2])) as bed:
        server, client = bed.hosts
        must(server.run(SERVER, timeout=120))
        must(client.run(CLIENT.format(folders=" ".join(folders())), timeout=120))
        play = Play(client, "tests.testbed.nfs_faults_room", version, str(silent_s), timeout_s=1500)
        serve(bed, play, within_s=1500)
        seen = play.seen()
    print(json.dumps(seen), file=sys.stderr)
    for name in ("recreated", "other file system", "export removed", "server stopped"):
        fault = seen[name]
        for phase in ("noticed", "lasting", "mended"):
            assert set(fault[phase]["codes"]) <= _CODES, (name, phase, fault)
            assert fault[phase]["healthy_age_s"] < 5.0, (name, phase, fault)
            assert fault[phase]["slowest_call_s"] < 5.0, (name, phase, fault)
        assert fault["valid"] == [False], (name, fault)
        assert fault["verb"] in _CODES, (name, fault)
    dead = seen["left dead"]
    assert (dead["status"], dead["mounted"], dead["left"], dead["again"]) == (0, False, False, True)
    assert dead["refused"] == 477
    assert (seen["left"], seen["mounted"]) == (0, False)
