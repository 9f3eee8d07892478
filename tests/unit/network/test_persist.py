# SPDX-License-Identifier: Apache-2.0
"""The journal of a change: what a death leaves of it, and what a power cut may leave."""

import json
import os
import time
from pathlib import Path

import pytest

from vdsm_mp.network.persist import Store
from vdsm_mp.network.wanted import Config, changed

BEFORE = changed(Config(), {"red": {}}, {})


@pytest.fixture
def store(tmp_path: Path) -> Store:
    made = Store(str(tmp_path / "run"), str(tmp_path / "state"))
    made.open()
    return made


def test_the_last_step_is_undone_first(store: Store) -> None:
    assert store.journal() is None
    store.begin_journal(BEFORE)
    store.append_journal([("link-down", {"name": "a"}), ("link-remove", {"name": "a"})])
    store.append_journal([("link-remove", {"name": "b"})])
    journal = store.journal()
    assert journal is not None
    assert journal.before == BEFORE
    assert [(word, p["name"]) for word, p in journal.undo] == [
        ("link-remove", "b"),
        ("link-down", "a"),
        ("link-remove", "a"),
    ]
    store.drop_journal()
    assert store.journal() is None


def test_a_line_that_was_not_written_to_its_end_has_no_step(store: Store, tmp_path: Path) -> None:
    store.begin_journal(None)
    store.append_journal([("link-remove", {"name": "a"})])
    path = tmp_path / "run/network/journal.json"
    whole = path.read_bytes()
    store.append_journal([("link-remove", {"name": "b"})])
    for length in range(len(whole), path.stat().st_size):
        torn = Store(str(tmp_path / "torn"), str(tmp_path / "state"))
        torn.open()
        (tmp_path / "torn/network/journal.json").write_bytes(path.read_bytes()[:length])
        journal = torn.journal()
        assert journal is not None and journal.before is None
        assert journal.undo == (("link-remove", {"name": "a"}),)


def test_a_journal_that_makes_no_sense_keeps_nobody_from_starting(store: Store, tmp_path: Path) -> None:
    for content in (b"", b"{}", b"nonsense\n", b'{"before":null}\n{"a": 1}\n'):
        (tmp_path / "run/network/journal.json").write_bytes(content)
        assert store.journal() is None


def test_what_runs_is_forgotten_when_nothing_did(store: Store) -> None:
    store.keep_running(BEFORE)
    assert store.running() == BEFORE
    store.keep_running(None)
    assert store.running() is None


def left_by_vdsm(folder: Path, kind: str, name: str, **attributes: object) -> None:
    """One network or bond as it stands in VDSM's folders."""
    (folder / kind).mkdir(parents=True, exist_ok=True)
    (folder / kind / name).write_text(json.dumps(attributes, indent=4))


def test_networks_that_vdsm_has_set_up_are_known(store: Store, tmp_path: Path) -> None:
    staging, kept = tmp_path / "state/staging/netconf", tmp_path / "state/persistence/netconf.aB3dE9xY"
    common = {"bridged": True, "stp": False, "mtu": 1500, "switch": "legacy", "dhcpv6": False, "ipv6autoconf": False}
    management = common | {"nic": "eth0", "bootproto": "dhcp", "defaultRoute": True, "nameservers": []}
    green = common | {
        **{"bonding": "bond1", "vlan": 10, "bootproto": "none", "defaultRoute": False, "ipaddr": "192.0.2.9"},
        **{"netmask": "255.255.255.0", "hostQos": {"out": {"ls": {"m2": 50}}}},
    }
    for folder in (staging, kept):
        left_by_vdsm(folder, "nets", "ovirtmgmt", **management)
        left_by_vdsm(folder, "bonds", "bond1", nics=["eth1", "eth2"], options="mode=4 miimon=100", switch="legacy")
    left_by_vdsm(staging, "nets", "green", **green)
    left_by_vdsm(staging, "nets", "overlay", nic="eth9", switch="ovs")
    (staging / "nets/torn").write_text('{"nic": "et')
    (tmp_path / "state/persistence/netconf").symlink_to(kept)

    safe = store.safe()
    assert safe is not None and list(safe.networks) == ["ovirtmgmt"]
    assert store.running() is None  # it has booted since
    (tmp_path / "run/nets_restored").touch()
    running = store.running()
    assert running == changed(
        Config(),
        {"ovirtmgmt": management, "green": green},
        {"bond1": {"nics": ["eth1", "eth2"], "options": "mode=4 miimon=100"}},
    )

    store.keep_running(BEFORE)
    store.keep_safe(BEFORE)
    assert (store.running(), store.safe()) == (BEFORE, BEFORE)
    # VDSM was here again meanwhile.
    for folder in (staging / "nets", kept / "bonds"):
        os.utime(folder, (time.time() + 5, time.time() + 5))
    assert (store.running(), store.safe()) == (running, safe)


def test_a_state_folder_that_is_gone_keeps_nobody_from_starting(tmp_path: Path) -> None:
    state = tmp_path / "state"
    state.write_text("somebody put a file there")
    lost = Store(str(tmp_path / "run"), str(state))
    lost.open()
    assert lost.safe() is None
    with pytest.raises(OSError, match="state"):
        lost.keep_safe(Config())
    state.unlink()
    lost.keep_safe(Config())
    assert lost.safe() == Config()
