# SPDX-License-Identifier: Apache-2.0
"""A volume of gluster for real: its server and an agent's storage in one throw-away host."""

from pathlib import Path

import pytest

from tests.support.eventually import eventually
from tests.support.needs import needs_program, needs_root
from tests.testbed.asks import Play, folders, must
from tests.testbed.testbed import Testbed

pytestmark = [
    needs_root(),
    needs_program("mmdebstrap", "mke2fs"),
    pytest.mark.timeout(900),
]

_PREPARE = """
set -e
modprobe -a loop fuse
truncate -s 600M /root/brick.img; mkfs.ext4 -q /root/brick.img
mkdir -p /srv/brick; mount -o loop /root/brick.img /srv/brick
mkdir /srv/brick/data
glusterd
for i in $(seq 60); do gluster volume list >/dev/null 2>&1 && break; sleep 0.5; done
gluster --mode=script volume create data host1:/srv/brick/data force
gluster volume set data storage.owner-uid 36
gluster volume set data storage.owner-gid 36
gluster volume set data network.remote-dio off
gluster volume set data performance.strict-o-direct on
gluster volume start data
gluster --mode=script volume create pair replica 2 host1:/srv/brick/one host1:/srv/brick/two force
gluster volume start pair
for d in {folders}; do mkdir -p $d; mount -t hostfs -o $d none $d; done
mkdir -p /run/sanlock; sanlock daemon -w 0 -U root -G root
"""


def test_a_volume_of_gluster_holds_a_domain() -> None:
    with Testbed(hosts=1, project=str(Path(__file__).parents[2])) as bed:
        [host] = bed.hosts
        must(host.run(_PREPARE.replace("{folders}", " ".join(folders())), timeout=240))
        play = Play(host, "tests.testbed.gluster_room", "host1:/data", timeout_s=400)
        eventually(lambda: play.over, within_s=420, every_s=0.2)
        seen = play.seen()
    refused = ("other type", "no volume", "bad option", "absent", "no program", "two replicas")
    assert {name: seen[name] for name in refused} == {
        "other type": 470,
        "no volume": 453,
        "bad option": 453,
        "absent": 477,
        "no program": 477,
        "two replicas": 480,
    }
    assert seen["servers"] == ["host1"]
    assert (seen["asides"], seen["left"]) == ([], [])
    assert seen["mount"][0] == "host1:/data"
    assert seen["mount"][1].endswith("/mnt/glusterSD/host1:_data")
    assert (seen["flags"], seen["type"]) == (["nodev", "nosuid"], "GLUSTERFS")
    assert (seen["kept"], seen["mounted"]) == (True, False)
