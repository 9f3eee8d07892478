# SPDX-License-Identifier: Apache-2.0
"""What may be asked of root: the closed schema, the option lists, the generated rules."""

import subprocess
from pathlib import Path

import pytest

from tests.support.needs import needs_program
from vdsm_mp.priv import install, sudoers
from vdsm_mp.priv.child import Refused
from vdsm_mp.priv.helper import _HANDLERS
from vdsm_mp.priv.mount import checked_options, escaped, normalised
from vdsm_mp.priv.net import bond_words
from vdsm_mp.priv.table import CLASSES, OPERATIONS, helper_of

SHIPPED = Path(__file__).resolve().parents[3] / "sudoers/50_vdsm"
VM = "11111111-2222-3333-4444-555555555555"


def test_every_operation_has_a_handler_and_every_handler_a_row() -> None:
    rows = {name for _, name in OPERATIONS if name != "ping"}
    assert rows == set(_HANDLERS)


def test_every_worker_has_at_most_one_helper() -> None:
    workers = [worker for allowed in CLASSES.values() for worker in allowed]
    assert len(workers) == len(set(workers))
    assert helper_of("clientif") is None


@pytest.mark.parametrize(
    ("helper", "operation", "params"),
    [
        ("storage", "mount-nfs", {"remote": "server:/export"}),
        ("storage", "mount-nfs", {"remote": "[2001:db8::1]:/export/a_b", "options": "soft,nosharecache,timeo=100"}),
        ("storage", "mount-posix", {"remote": "/dev/loop0", "vfs_type": "ext4"}),
        ("storage", "umount", {"remote": "server:/export"}),
        ("storage", "gluster-volume", {"remote": "server:/data/sub dir"}),
        ("storage", "managed-attach", {"volume": VM, "data": "e30="}),
        ("network", "bridge-create", {"name": "ovirtmgmt", "stp": None}),
        ("virt", "read-tpm", {"vm_id": VM, "vm_name": "a vm"}),
        ("network", "vfs-set", {"card": "0000:02:00.0", "number": 0}),
        ("network", "vfs-set", {"card": "10000:e1:1f.7", "number": 64}),
        ("virt", "mdev-create", {"card": "0000:06:00.0", "type": "i915-GVTg_V5_4", "uuid": VM, "parameters": None}),
        ("virt", "mdev-create", {"card": "0000:06:00.0", "type": "nvidia-11", "uuid": VM, "parameters": "a=1,b=2"}),
    ],
)
def test_honest_requests_are_let_through(helper: str, operation: str, params: dict[str, object]) -> None:
    assert OPERATIONS[helper, operation].fault(params) is None


@pytest.mark.parametrize(
    ("helper", "operation", "params"),
    [
        ("storage", "mount-nfs", {}),
        ("storage", "mount-nfs", {"remote": "-oexec:/export"}),
        ("storage", "mount-nfs", {"remote": "server:/ex\nport"}),
        ("storage", "mount-nfs", {"remote": "server:/export\n"}),
        ("storage", "mount-nfs", {"remote": "server:relative"}),
        ("storage", "mount-nfs", {"remote": "server:/a", "target": "/etc"}),
        ("storage", "mount-nfs", {"remote": ["server:/a"]}),
        ("storage", "mount-posix", {"remote": "/dev/loop0", "vfs_type": "fuse.sshfs"}),
        ("storage", "mount-posix", {"remote": "/dev/loop0", "vfs_type": "ext4,suid"}),
        ("storage", "mount-posix", {"remote": "/dev/loop0", "vfs_type": "ext4", "options": "a b"}),
        ("storage", "umount", {"remote": "x" * 1281}),
        ("storage", "gluster-volume", {"remote": "server:/--help x"}),
        ("storage", "gluster-volume", {"remote": "--remote-host:/data"}),
        ("storage", "managed-attach", {"volume": "../../x", "data": "e30="}),
        ("storage", "managed-attach", {"volume": VM, "data": "{}"}),
        ("storage", "managed-detach", {"volume": VM, "data": "e30=", "path": "/dev/sda"}),
        ("network", "bridge-create", {"name": "../eth0"}),
        ("network", "bridge-create", {"name": "a-name-far-too-long"}),
        ("network", "bridge-create", {"name": "-all"}),
        ("network", "mtu-set", {"name": "eth0", "mtu": True}),
        ("network", "mtu-set", {"name": "eth0", "mtu": 10**9}),
        ("network", "mtu-set", {"name": "eth0", "mtu": "1500"}),
        ("virt", "read-nvram", {"vm_id": "../../../etc/shadow"}),
        ("virt", "read-nvram", {"vm_id": VM + "\n"}),
        ("virt", "read-nvram", {"vm_id": VM, "vm_name": "../x"}),
        ("virt", "ksm-tune", {"run": 3}),
        ("network", "vfs-set", {"card": "0000:02:00.0/..", "number": 1}),
        ("network", "vfs-set", {"card": "..", "number": 1}),
        ("network", "vfs-set", {"card": "0000:02:00.0", "number": -1}),
        ("network", "vfs-set", {"card": "0000:02:00.0", "number": "1"}),
        ("network", "vfs-set", {"card": "0000:02:00.0\n", "number": 1}),
        ("virt", "mdev-create", {"card": "0000:06:00.0", "type": "..", "uuid": VM}),
        ("virt", "mdev-create", {"card": "0000:06:00.0", "type": "a/b", "uuid": VM}),
        ("virt", "mdev-create", {"card": "0000:06:00.0", "type": "nvidia-11", "uuid": VM, "parameters": "a\nb"}),
        ("virt", "mdev-remove", {"uuid": "../../pci/devices/0000:02:00.0"}),
    ],
)
def test_hostile_requests_are_refused(helper: str, operation: str, params: dict[str, object]) -> None:
    assert OPERATIONS[helper, operation].fault(params) is not None


@pytest.mark.parametrize("params", [None, [], "x", 1])
def test_parameters_that_are_no_object_are_refused(params: object) -> None:
    assert OPERATIONS["storage", "umount"].fault(params) is not None


def test_nosuid_and_nodev_always_win() -> None:
    assert checked_options("soft,timeo=100") == "soft,timeo=100,nosuid,nodev"
    assert checked_options(None) == "nosuid,nodev"


@pytest.mark.parametrize(
    "option",
    ["suid", "dev", "exec", "loop", "bind", "remount", "user", "helper=x", "x-mount.mkdir", "context=a", "timeo=x",
     "secretfile=/etc/shadow", "secretfile=/etc/ceph/../shadow", "vers=9", "soft=1", "bg", "uid=0", "=", "rw\n"],
)  # fmt: skip
def test_mount_options_off_the_list_are_refused(option: str) -> None:
    with pytest.raises(Refused, match="not allowed"):
        checked_options(f"soft,{option}")


@pytest.mark.parametrize(
    ("spec", "name"),
    [
        ("server:/export/a_b", "server:_export_a__b"),
        ("server://export//x/", "server:_export_x"),
        ("server:/", "server:_"),
        ("[2001:db8::1]:/x", "[2001:db8::1]:_x"),
        ("/dev/loop0", "_dev_loop0"),
        ("mon1:6789,mon2:6789:/", "mon1:6789,mon2:6789:_"),
    ],
)
def test_mount_points_are_named_as_vdsm_names_them(spec: str, name: str) -> None:
    assert escaped(spec) == name
    assert normalised(normalised(spec)) == normalised(spec)


def test_bond_options_are_words_from_a_list() -> None:
    words = bond_words("miimon=100,mode=1,arp_ip_target=192.0.2.1,192.0.2.2")
    assert words == ["mode", "active-backup", "miimon", "100", "arp_ip_target", "192.0.2.1,192.0.2.2"]
    assert bond_words("mode=2,xmit_hash_policy=1") == ["mode", "balance-xor", "xmit_hash_policy", "layer3+4"]
    for bad in ("mode=9", "netns=1", "mode", "miimon=1 netns 1", "mode=1,lacp_rate=1", "mode=4,primary=eth0"):
        with pytest.raises(Refused):
            bond_words(bad)


# The rules


def test_the_shipped_rules_are_those_of_the_table() -> None:
    assert SHIPPED.read_text() == sudoers.rules("/usr/libexec/vdsm-mp", "vdsm")


def test_the_checker_finds_no_fault_in_the_shipped_rules() -> None:
    assert sudoers.faults(SHIPPED.read_text()) == []


@needs_program("visudo")
def test_visudo_accepts_the_shipped_rules() -> None:
    subprocess.run(["visudo", "-q", "-c", "-f", SHIPPED], check=True)


@pytest.mark.parametrize(
    "rule",
    [
        "vdsm ALL=(root) NOPASSWD: /usr/bin/chown vdsm\\:kvm *",
        "vdsm ALL=(root) NOPASSWD: /usr/sbin/lvm",
        "vdsm ALL=(root) NOPASSWD: /usr/libexec/x/helper-storage",
        'vdsm ALL=(root) NOPASSWD: /usr/libexec/../x ""',
        'vdsm ALL=(root) NOPASSWD: /usr/libexec/h ?""',
        'vdsm ALL=(root) NOPASSWD: sha224:0 /usr/libexec/h ""',
        'vdsm ALL=(ALL) NOPASSWD: /usr/libexec/h ""',
        'vdsm ALL=(root) NOPASSWD:SETENV: /usr/libexec/h ""',
        'vdsm ALL=(root) NOPASSWD: ^/usr/libexec/h$ ""',
        "Defaults:vdsm !syslog",
        "Defaults!ALL !syslog, !pam_session",
        "Defaults!/usr/bin/id !syslog, !pam_session",
        "Defaults:vdsm !env_reset",
        "#includedir /tmp",
        "@include /tmp/x",
        "Cmnd_Alias X = /bin/sh",
    ],
)
def test_the_checker_refuses_anything_wider(rule: str) -> None:
    assert sudoers.faults(rule)


def test_the_root_side_imports_nothing_but_itself_and_the_standard_library(tmp_path: Path) -> None:
    install.install(tmp_path / "libexec", user="nobody", repository=str(tmp_path))
    code = (
        f"import sys; sys.path.insert(0, {str(tmp_path / 'libexec/root')!r}); import vdsm_mp.priv.helper as h; "
        "print(*(n for n in sys.modules if 'msgspec' in n), *(m.__file__ for n, m in sys.modules.items() "
        "if n.startswith('vdsm_mp') and not n.startswith('vdsm_mp.priv.') or m is h))"
    )
    done = subprocess.run(["/usr/bin/python3", "-IBc", code], capture_output=True, text=True, check=True)
    names = ("__init__.py", "common/__init__.py", "common/family.py", "priv/__init__.py", "priv/helper.py")
    assert sorted(done.stdout.split()) == [str(tmp_path / "libexec/root/vdsm_mp" / name) for name in names]


def test_nobody_but_root_may_write_what_root_runs(tmp_path: Path) -> None:
    install.install(tmp_path / "libexec")
    for path in (tmp_path / "libexec").rglob("*"):
        assert path.stat().st_mode & 0o022 == 0, path
