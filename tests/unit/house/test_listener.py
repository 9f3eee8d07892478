# SPDX-License-Identifier: Apache-2.0
"""The public socket when its address is not there."""

import pytest

from vdsm_mp import master
from vdsm_mp.common.options import Addresses, Config
from vdsm_mp.house import listener


def test_an_address_that_the_host_has_not_been_given_yet_is_waited_for() -> None:
    # As after a boot that starts the agent before DHCP has answered.
    with pytest.raises(OSError, match=r"cannot listen on 192\.0\.2\.77 port 54321") as raised:
        listener.bind(Config(addresses=Addresses(management_ip="192.0.2.77")))
    assert master._may_pass(raised.value)
