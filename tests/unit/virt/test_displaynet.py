# SPDX-License-Identifier: Apache-2.0
"""Networks that consoles listen on."""

from pathlib import Path

import pytest

from vdsm_mp.api.errors_virt import CannotCreateVm
from vdsm_mp.common import xml
from vdsm_mp.virt import displaynet


def test_only_our_own_networks_are_made_and_each_once() -> None:
    listens = "".join(
        f'<graphics type="vnc"><listen type="network" network="{name}"/></graphics>'
        for name in ("vdsm-red", "vdsm-red", "default")
    )
    domain = xml.parse(f"<domain><devices>{listens}<graphics><listen type='address'/></graphics></devices></domain>")
    assert displaynet.wanted(domain) == ["vdsm-red"]


def test_a_bridge_is_used_as_a_bridge_and_a_nic_as_a_nic(tmp_path: Path) -> None:
    (tmp_path / "red" / "bridge").mkdir(parents=True)
    (tmp_path / "eth0").mkdir()
    red, eth0 = (displaynet.describe(f"vdsm-{name}", tmp_path) for name in ("red", "eth0"))
    assert xml.attributes(red.find("bridge")) == {"name": "red"}
    assert xml.attributes(eth0.find("forward/interface")) == {"dev": "eth0"}


@pytest.mark.parametrize("name", ["vdsm-blue", "vdsm-../x", "vdsm-"])
def test_what_the_host_does_not_have_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(CannotCreateVm, match="no display network"):
        displaynet.describe(name, tmp_path / "net")
