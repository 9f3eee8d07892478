# SPDX-License-Identifier: Apache-2.0
"""Whose ticket is prolonged when a VM leaves with its viewer."""

import time
import xml.etree.ElementTree as ET

from vdsm_mp.virt.graphics import LONG_AGO, NOBODY, prolong_tickets


class Domain:
    """Has these consoles, and takes changes of them."""

    def __init__(self, consoles: str) -> None:
        self._xml = f"<domain><devices>{consoles}</devices></domain>"
        self.changed: list[ET.Element] = []

    def XMLDesc(self, flags: int) -> str:
        return self._xml

    def updateDeviceFlags(self, device: str, flags: int) -> None:
        self.changed.append(ET.fromstring(device))


def test_a_ticket_that_has_expired_is_good_again_for_its_viewer() -> None:
    dom = Domain('<graphics type="spice" passwd="secret" passwdValidTo="2020-01-01T00:00:00"/>')
    prolong_tickets(dom, "x")
    (console,) = dom.changed
    assert console.get("passwd") == "secret"
    assert console.get("passwdValidTo", "") > time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime())


def test_a_console_that_nobody_has_asked_for_stays_shut() -> None:
    dom = Domain(
        f'<graphics type="spice" passwd="{NOBODY}" passwdValidTo="{LONG_AGO}"/>'
        '<graphics type="vnc" passwd="secret" passwdValidTo="2020-01-01T00:00:00"/>'
    )
    prolong_tickets(dom, "x")
    assert not dom.changed
