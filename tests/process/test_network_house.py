# SPDX-License-Identifier: Apache-2.0
"""Networks from the door to the kernel: a whole house in a namespace, and an engine that talks TLS with it."""

import contextlib
import json

import pytest

from tests.support.needs import needs_program, needs_root
from tests.support.netns import Namespace

pytestmark = [needs_root(), needs_program("ip", "sudo", "setpriv"), pytest.mark.timeout(180)]


def test_an_engine_sets_networks_up_through_the_door() -> None:
    with contextlib.closing(Namespace()) as place:
        seen = json.loads(place.run_python("tests.support.network_house").splitlines()[-1])
    assert seen["done"] == {"code": 0, "message": "Done"}
    assert seen["safe"] is True
    assert (seen["unconfirmed"], seen["refused"]) == (10, 21)
    network = seen["network"]
    assert (network["addr"], network["gateway"], network["mtu"]) == ("192.0.2.2", "192.0.2.1", "1500")
    assert (network["bridged"], network["switch"], network["ports"]) == (True, "legacy", ["veth_a"])
    assert seen["nameservers"] == ["203.0.113.53"]
    assert seen["told"] == ["network ovirtmgmt: its MTU is 1300 instead of 1500"]
    assert seen["told_mtu"] == "1300"
    assert seen["state"] == "up"
    assert seen["lldp"] == [{}, True]
