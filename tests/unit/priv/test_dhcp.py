# SPDX-License-Identifier: Apache-2.0
"""What keeps routers of a network without the default route out of the host's routes, where dhclient's script looks."""

import subprocess
from pathlib import Path

import pytest

from vdsm_mp.priv import dhcp


@pytest.fixture
def hook(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    made = tmp_path / "hooks.d" / "vdsm-mp"
    monkeypatch.setattr(dhcp, "_HOOK", made)
    return made


def test_the_hook_takes_routers_away_only_where_it_is_told_to(hook: Path) -> None:
    hook.parent.mkdir()
    assert dhcp._hook()
    for told, routers in (("VDSM_MP_NO_ROUTE=yes", ""), ("OTHER=1", "192.0.2.1")):
        script = f'new_routers=192.0.2.1; . {hook}; echo "[$new_routers]"'
        shown = subprocess.run(["env", told, "sh", "-eu", "-c", script], capture_output=True, text=True, check=False)
        assert shown.stdout.strip() == f"[{routers}]", shown.stderr
    hook.write_text("something else")
    assert dhcp._hook()
    assert "VDSM_MP_NO_ROUTE" in hook.read_text()
    assert [path.name for path in hook.parent.iterdir()] == ["vdsm-mp"]


def test_where_no_hook_can_be_no_router_is_asked_for(hook: Path) -> None:
    assert not dhcp._hook()
    hook.parent.mkdir()
    hook.mkdir()
    assert not dhcp._hook()
    assert "routers" not in dhcp._asks({"name": "red"}, routers=False)
    assert "routers" in dhcp._asks({"name": "red", "routes": True}, routers=True)
