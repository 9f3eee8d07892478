# SPDX-License-Identifier: Apache-2.0
"""Runs inside a testbed host: a storage room on a volume of gluster, through gluster's own client and root's helper.

python -m tests.testbed.gluster_room HOST:/VOLUME
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

from tests.support.eventually import eventually
from tests.support.room import Called
from vdsm_mp.api.types import BLANK
from vdsm_mp.common.options import Config, House, Irs, Sanlock
from vdsm_mp.priv import install
from vdsm_mp.priv.call import SudoRoot
from vdsm_mp.storage.connect_gluster import Volume, volume_of

SD = "5d000000-0000-4000-8000-000000000001"
BASE = Path("/var/tmp/agent")
LIBEXEC = Path("/usr/libexec/vdsm-mp")
PROGRAM = Path("/sbin/mount.glusterfs")
_NOTHING = Volume("", 0, ())


def main(volume: str) -> None:
    for name in ("run", "dc"):
        (BASE / name).mkdir(parents=True)
    config = Config(
        irs=Irs(repository=f"{BASE}/dc", sd_health_check_delay=2),
        sanlock=Sanlock(io_timeout=1),
        vdsm_mp=House(run_dir=f"{BASE}/run", vdsm_run_dir=f"{BASE}/run"),
    )
    install.install(LIBEXEC, user="root", repository=f"{BASE}/dc")
    room_root = SudoRoot("storage", str(LIBEXEC))
    room = Called("vdsm_mp.workers.storage", config, root=room_root)
    server = volume.partition(":")[0]

    def ask(verb: str, **changes: Any) -> int:
        row = {
            "id": "g",
            "connection": volume,
            "vfs_type": "glusterfs",
            "mnt_options": f"backup-volfile-servers={server}:10.77.0.99",
        } | changes
        params = {"storagepoolID": BLANK, "domainType": 7, "connectionParams": [row]}
        [found] = room.call(f"StoragePool.{verb}", **params)
        return int(found["status"])

    seen: dict[str, Any] = {
        "other type": ask("connectStorageServer", vfs_type="xfs"),
        "no volume": ask("connectStorageServer", connection=server),
        "bad option": ask("connectStorageServer", mnt_options="xlator-option=*dht.x=1"),
        "absent": ask("connectStorageServer", connection=f"{server}:/absent"),
        "two replicas": ask("connectStorageServer", connection=f"{server}:/pair"),
    }
    found = room_root.do("gluster-volume", remote=volume)
    volume_name = volume.partition(":/")[2]
    seen["servers"] = [host for text in found["answers"] for host in (volume_of(text, volume_name) or _NOTHING).servers]
    PROGRAM.rename("/sbin/mount.away")
    seen["no program"] = ask("connectStorageServer")
    Path("/sbin/mount.away").rename(PROGRAM)
    seen["asides"] = [path.name for path in Path("/run").glob("vdsm-mount-*")]
    seen["left"] = [path.name for path in (BASE / "dc/mnt/glusterSD").iterdir()]

    assert ask("connectStorageServer") == 0
    assert ask("connectStorageServer", id="again") == 0
    lines = [line.split() for line in Path("/proc/mounts").read_text().splitlines() if "fuse.glusterfs" in line]
    [(source, target, kind, options, *_)] = lines
    seen |= {"mount": [source, target, kind], "flags": sorted({"nosuid", "nodev"} & set(options.split(",")))}
    names = {"domainType": 7, "typeArgs": volume, "name": "g", "domainClass": 1, "version": "5"}
    room.call("StorageDomain.create", storagedomainID=SD, blockSize=512, **names)
    seen["type"] = room.call("StorageDomain.getInfo", storagedomainID=SD)["type"]
    room.call("Host.startMonitoringDomain", sdUUID=SD, hostID=1)

    def good() -> bool:
        found = room.call("Host.getStorageRepoStats", domains=[SD])[SD]
        return bool(found["actual"] and found["valid"] and found["acquired"])

    eventually(good, within_s=60, every_s=0.2)
    room.call("Host.stopMonitoringDomain", sdUUID=SD)
    assert ask("disconnectStorageServer", id="again") == 0
    seen["kept"] = "fuse.glusterfs" in Path("/proc/mounts").read_text()
    assert ask("disconnectStorageServer") == 0
    seen["mounted"] = "fuse.glusterfs" in Path("/proc/mounts").read_text()
    print("SEEN " + json.dumps(seen), flush=True)
    os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1])
