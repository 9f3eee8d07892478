# SPDX-License-Identifier: Apache-2.0
"""The public socket: when its address is not there, and without TLS."""

import contextlib

import pytest

from tests.support.house import free_port
from vdsm_mp import master
from vdsm_mp.common.options import Addresses, Config, House, Vars
from vdsm_mp.house import listener


def test_an_address_that_the_host_has_not_been_given_yet_is_waited_for() -> None:
    # As after a boot that starts the agent before DHCP has answered.
    with pytest.raises(OSError, match=r"cannot listen on 192\.0\.2\.77 port 54321") as raised:
        listener.bind(Config(addresses=Addresses(management_ip="192.0.2.77")))
    assert master._may_pass(raised.value)


@pytest.mark.parametrize(
    ("asked", "forced", "listens_on"),
    [
        ("::", False, "127.0.0.1"),
        ("0.0.0.0", False, "127.0.0.1"),
        ("192.0.2.77", False, "127.0.0.1"),
        ("0.0.0.0", True, "0.0.0.0"),
    ],
)
def test_clear_text_is_for_this_host_only_unless_it_is_forced(asked: str, forced: bool, listens_on: str) -> None:
    config = Config(
        vars=Vars(ssl=False),
        vdsm_mp=House(force_plain_everywhere=forced),
        addresses=Addresses(management_ip=asked, management_port=free_port()),
    )
    with contextlib.closing(listener.bind(config)) as sock:
        assert sock.getsockname()[0] == listens_on
