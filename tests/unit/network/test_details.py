# SPDX-License-Identifier: Apache-2.0
"""What a plan knows besides links, from what iproute2 6.1 prints and from the kernel's files."""

from pathlib import Path
from typing import Any

import pytest

from vdsm_mp.network.details import ipv6_mode, nameservers, shaped, sources
from vdsm_mp.network.state import Source
from vdsm_mp.priv.dhcp import lease_router

TABLE = "3221225986"  # 192.0.2.2
RULES: list[dict[str, Any]] = [
    {"priority": 0, "src": "all", "table": "local"},
    {"priority": 32000, "src": "192.0.2.0", "srclen": 24, "table": TABLE},
    {"priority": 32000, "src": "all", "dst": "192.0.2.0", "dstlen": 24, "iif": "red", "table": TABLE},
    {"priority": 32766, "src": "all", "table": "main"},
]
ROUTES: list[dict[str, Any]] = [
    {"dst": "default", "gateway": "192.0.2.1", "dev": "red", "table": TABLE, "flags": []},
    {"dst": "192.0.2.0/24", "dev": "red", "table": TABLE, "scope": "link", "prefsrc": "192.0.2.2", "flags": []},
    {"dst": "default", "gateway": "198.51.100.1", "dev": "eth0", "flags": []},
    {"dst": "10.0.0.0/8", "gateway": "198.51.100.9", "dev": "eth0", "table": "77", "flags": []},
]


def test_answers_by_source_count_only_when_they_are_whole() -> None:
    assert sources(RULES, ROUTES) == {"192.0.2.2/24": Source("red", "192.0.2.1")}
    for missing in (1, 2):
        assert sources([rule for rule in RULES if rule is not RULES[missing]], ROUTES) == {}
    for missing in (0, 1):
        assert sources(RULES, [route for route in ROUTES if route is not ROUTES[missing]]) == {}


LEASES = """\
lease {
  interface "red";
  fixed-address 192.0.2.9;
  option routers 192.0.2.1;
}
lease {
  interface "red";
  fixed-address 198.51.100.9;
  option subnet-mask 255.255.255.0;
}
lease {
  interface "red";
  fixed-address 192.0.2.9;
  option routers 192.0.2.254,192.0.2.253;
  renew 4 2026/11/26 10:00:00;
}
"""


def test_the_router_of_an_address_is_what_its_last_lease_says() -> None:
    assert lease_router(LEASES, "192.0.2.9") == "192.0.2.254"
    assert lease_router(LEASES, "198.51.100.9") == ""
    assert lease_router(LEASES, "192.0.2.90") == lease_router("lease {", "192.0.2.9") == ""


def test_rules_of_others_are_not_ours() -> None:
    odd = [{**rule, "table": "mine"} for rule in RULES[1:3]]
    assert sources(odd, [{**route, "table": "mine"} for route in ROUTES[:2]]) == {}


def test_only_nics_with_our_queue_are_shaped() -> None:
    text = (
        "qdisc noqueue 0: dev lo root refcnt 2 \n"
        "qdisc hfsc 5001: dev bond0 root refcnt 2 default 0x1388 \n"
        "qdisc fq_codel 8002: dev bond0 parent 5001:1388 limit 10240p flows 1024 quantum 1514 target 5ms\n"
        "qdisc hfsc 1: dev eth5 root refcnt 2 default 0x10 \n"
    )
    assert shaped(text) == {"bond0"}


@pytest.mark.parametrize(
    ("files", "mode"),
    [
        (("1", "1", "1", "1"), "off"),
        (("0", "0", "1", "1"), "static"),
        (("0", "1", "1", "1"), "auto"),
        (("0", "2", "1", "0"), "auto-noroute"),
        (("0", "2", "0", "1"), "ra"),
        (("0", "2", "0", "0"), "ra-noroute"),
    ],
)
def test_ipv6_of_a_device_is_one_word(tmp_path: Path, files: tuple[str, ...], mode: str) -> None:
    names = ("disable_ipv6", "accept_ra", "autoconf", "accept_ra_defrtr")
    (tmp_path / "eth0.5").mkdir()
    for name, value in zip(names, files, strict=True):
        (tmp_path / "eth0.5" / name).write_text(f"{value}\n")
    assert ipv6_mode("eth0.5", tmp_path) == mode
    assert ipv6_mode("eth1", tmp_path) is None


def test_nameservers_are_read_in_their_order(tmp_path: Path) -> None:
    file = tmp_path / "resolv.conf"
    assert nameservers(file) == []
    file.write_text("# nameserver 1.2.3.4\nnameserver 192.0.2.53\nsearch x\n  nameserver 2001:db8::53\nnameserver\n")
    assert nameservers(file) == ["192.0.2.53", "2001:db8::53"]
