# SPDX-License-Identifier: Apache-2.0
"""Which connections root hands to os-brick, which devices it gives away, which programs it runs."""

import os
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.support.loopdevice import MIB, empty, loop
from tests.support.needs import needs_program, needs_root
from vdsm_mp.priv import managed
from vdsm_mp.priv.child import Children, Refused
from vdsm_mp.priv.context import Context
from vdsm_mp.priv.managed import check_program, checked_connection, device_of

RBD = {
    "driver_volume_type": "rbd",
    "data": {
        "name": "volumes/volume-1",
        "auth_username": "cinder",
        "cluster_name": "ceph",
        "hosts": ["192.0.2.1", "[2001:db8::1]"],
        "ports": ["6789", "6789"],
        "keyring": '[client.cinder]\n\tkey = AQBaaa+/bbb==\n\tcaps mon = "profile rbd"\n',
        "auth_enabled": True,
        "qos_specs": None,
    },
}
ISCSI = {
    "driver_volume_type": "iscsi",
    "data": {
        "target_iqn": "iqn.2010-10.org.openstack:volume-1",
        "target_portal": "192.0.2.1:3260",
        "target_lun": 1,
        "auth_password": "p/ss w0rd",
    },
    "scan_attempts": 5,
}


@pytest.mark.parametrize("info", [RBD, ISCSI])
def test_connections_of_engines_are_let_through(info: dict[str, Any]) -> None:
    assert checked_connection(info) is info


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("name", "volumes/--conf"),
        ("name", "-p"),
        ("hosts", ["192.0.2.1\nlog file = /etc/cron.d/x"]),
        ("keyring", "[client.x]\nkey = a\nlog file = /etc/cron.d/x\n"),
        ("keyring", "[global]\nadmin socket = /tmp/x"),
        ("device_path", "/etc/shadow"),
        ("device_path", "/dev/../etc/shadow"),
        ("conf", "/etc/passwd"),
        ("uuid", "../../etc/cron.d/x"),
        ("bad key", "x"),
        ("deep", [[[[[["x"]]]]]]),
        ("many", ["x"] * 201),
        ("long", "x" * 4097),
    ],
)
def test_values_that_would_be_more_than_values_are_refused(key: str, value: Any) -> None:
    with pytest.raises(Refused):
        checked_connection({**RBD, "data": {**RBD["data"], key: value}})  # type: ignore[dict-item]


@pytest.mark.parametrize(
    "change", [{"driver_volume_type": "nfs"}, {"data": "x"}, {"adapter": "../x"}, {"adapter": "a b"}, {"adapter": 1}]
)
def test_connections_of_another_shape_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(Refused):
        checked_connection({**RBD, **change})


def test_the_device_is_derived_by_the_driver() -> None:
    assert device_of(RBD, {"path": "/dev/rbd0", "conf": "/tmp/brickrbd_abcd1234"}) == "/dev/rbd/volumes/volume-1"
    assert device_of(ISCSI, {"path": "/dev/dm-3", "multipath_id": "3600140512"}) == "/dev/mapper/3600140512"
    for attachment in ({"path": "/dev/sdb"}, {"multipath_id": "../sda"}, {"multipath_id": "a/b"}):
        with pytest.raises(Refused, match="multipath"):
            device_of(ISCSI, attachment)
    with pytest.raises(Refused):
        device_of({**RBD, "driver_volume_type": "storpool"}, {})


@needs_root()
def test_an_adapter_is_roots_alone(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="there is no"):
        check_program(Path("/usr/bin/no-such-adapter"))
    check_program(Path("/usr/bin/env"))
    program = tmp_path / "adapter"
    program.touch(mode=0o755)
    with pytest.raises(Refused, match="/tmp is not root's alone"):
        check_program(program)
    with pytest.raises(Refused, match="python3"):
        check_program(Path("/usr/bin/python3"))


@needs_root()
@needs_program("losetup")
def test_udev_is_told_whose_the_device_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "udev").mkdir()
    monkeypatch.setattr(managed, "_RULES", tmp_path / "udev/rules.d")
    context = Context({"user": "nobody"}, Children(), time.monotonic() + 10, 65534, 65534)
    link = Path(f"/dev/vdsm-mp-test-{os.getpid()}")
    with loop(empty(tmp_path / "image", MIB)) as device, ExitStack() as stack:
        link.symlink_to(device)
        stack.callback(link.unlink)
        for path, match in ((device, f'KERNEL=="{device[5:]}"'), (str(link), f'SYMLINK=="{link.name}"')):
            managed.own(context, path, "v")
            rule = (tmp_path / "udev/rules.d/99-vdsm-managed-v.rules").read_text()
            assert rule.startswith(f'SUBSYSTEM=="block", {match}, OWNER="nobody", GROUP="')
            assert os.stat(device).st_uid == 65534
