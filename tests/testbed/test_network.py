# SPDX-License-Identifier: Apache-2.0
"""Networks on bonds and VLANs between two throw-away hosts with a full kernel: fail-over, rollback, DHCP, removal."""

import json
import sys
from pathlib import Path

import pytest

from tests.support.needs import needs_program, needs_root
from tests.testbed.host import Host
from tests.testbed.test_nfs import _folders, _must
from tests.testbed.testbed import Testbed

pytestmark = [
    needs_root(),
    needs_program("mmdebstrap", "mke2fs"),
    pytest.mark.timeout(900),
]

_PREPARE = """
set -e
modprobe bonding max_bonds=0; modprobe -a bridge 8021q
for d in {folders}; do mkdir -p $d; mount -t hostfs -o $d none $d; done
"""


def test_bonds_vlans_and_dhcp_work_between_hosts() -> None:
    with Testbed(hosts=2, nics=3, project=str(Path(__file__).parents[2])) as bed:
        server, client = bed.hosts
        for host in bed.hosts:
            _must(host.run(_PREPARE.format(folders=" ".join(_folders())), timeout=120))
        _inside(server, "server")
        seen = _inside(client, "client")
    print(json.dumps(seen), file=sys.stderr)
    assert seen["slaves"] == ["eth1", "eth2"]
    assert (seen["vlan"], seen["ports"]) == (100, ["bond0.100"])
    assert seen["told"] == 2
    assert seen["unconfirmed"] is True
    old, new = ({"mode": "1", "miimon": miimon, "primary": "eth1"} for miimon in ("100", "50"))
    assert seen["modes"] == [old, old, new]
    assert str(seen["address"]).startswith("10.88.0.1") and seen["address"] != "10.88.0.1"
    assert (seen["dynamic"], seen["gateway"], seen["reached"]) == (True, "", True)
    assert seen["outlives"] is True
    assert (seen["left"], seen["clients"]) == ([], [])


def _inside(host: Host, role: str) -> dict[str, object]:
    command = f"cd /project && PYTHONDONTWRITEBYTECODE=1 {sys.executable} -m tests.testbed.network_room {role} 2>&1"
    result = host.run(command, timeout=600)
    _must(result)
    found: dict[str, object] = json.loads(
        next(line for line in result.output.splitlines() if line.startswith("SEEN "))[5:]
    )
    return found


@pytest.mark.parametrize(
    "scene", ["chain", "modes", "options", "management", "others", "shaping", "dynamic", "lldp", "deaths"]
)
def test_a_full_kernel_does_what_networks_ask_for(scene: str) -> None:
    with Testbed(hosts=1, project=str(Path(__file__).parents[2])) as bed:
        (host,) = bed.hosts
        _must(host.run(_PREPARE.format(folders=" ".join(_folders())), timeout=120))
        room = f"tests.testbed.network_kernel_room {scene}"
        result = host.run(f"cd /project && PYTHONDONTWRITEBYTECODE=1 {sys.executable} -m {room} 2>&1", timeout=800)
    _must(result)
    assert f"SEEN {scene} " in result.output
