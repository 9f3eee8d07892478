# SPDX-License-Identifier: Apache-2.0
"""What a client may have libvirt's library connect to."""

import pytest

from vdsm_mp.api.errors_virt import ForeignHypervisorFailed
from vdsm_mp.virt import v2v_uri


@pytest.mark.parametrize(
    ("uri", "copies"),
    [
        ("vpx://administrator%40vsphere.local@vcenter.example.com/Data%20Center/Cluster/esx1?no_verify=1", False),
        ("vpx://VSPHERE%5croot@10.0.0.1:8443/dc/esx1?no_verify=0&auto_answer=1", False),
        ("esx://root@esx.example.com/?no_verify=1&vcenter=*", False),
        ("xen+ssh://root@xen.example.com", False),
        ("qemu+ssh://root@kvm.example.com/system", True),
        ("qemu+tcp://[fe80::1%25eth0]:16509/system", True),
        ("qemu+tls://kvm.example.com/system?no_verify=1", True),
        ("qemu+libssh2://root@kvm/session?known_hosts_verify=auto", True),
    ],
)
def test_the_places_that_engines_name_get_through(uri: str, copies: bool) -> None:
    assert v2v_uri.judge(uri) == v2v_uri.Hypervisor(uri, copies)


@pytest.mark.parametrize(
    "uri",
    [
        # Programs that would be run.
        "qemu+ext://host/system?command=/bin/sh",
        "qemu+ssh://host/system?command=/tmp/evil",
        "qemu+ssh://host/system?no_verify=1&netcat=/tmp/evil",
        "qemu+ssh://host/system?COMMAND=/tmp/evil",
        "qemu+ssh://-oProxyCommand=evil/system",
        "qemu+ssh://-oProxyCommand=evil@host/system",
        "xen+ssh://root@-F/tmp/evil",
        # Files that would be opened, here.
        "test:///etc/passwd",
        "test:///default",
        "qemu+tls://host/system?pkipath=/tmp/evil",
        "qemu+ssh://host/system?keyfile=/root/.ssh/id_rsa",
        "qemu+ssh://host/system?known_hosts=/tmp/evil",
        "qemu+ssh://host/system?socket=/tmp/evil",
        "qemu+ssh://host/system?no_verify=/etc/passwd",
        "vpx://host/dc?proxy=socks://elsewhere",
        # Daemons of this host.
        "qemu:///system",
        "qemu+unix:///system",
        "qemu+ssh:///system",
        "xen:///",
        "vpx:///dc",
        "lxc+ssh://host/",
        # Odd texts.
        "",
        "QEMU+SSH://host/system",
        " qemu+ssh://host/system",
        "qemu+ssh://host/system\n",
        "qemu+ssh://host/system#x",
        "qemu+ssh://host/../../x",
        "qemu+ssh://host:port/system",
        "qemu+ssh://ho st/system",
        "qemu+ssh://hóst/system",
        "qemu+ssh://[::1/system",
        "qemu+ssh://host/system?no_verify",
        "vpx://host/" + "a" * 2000,
        "vpx://host/a b",
        "vpx://host/$(evil)",
    ],
)
def test_everything_else_is_refused(uri: str) -> None:
    with pytest.raises(ForeignHypervisorFailed):
        v2v_uri.judge(uri)
