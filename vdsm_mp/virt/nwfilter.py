# SPDX-License-Identifier: Apache-2.0
"""The filter that engines put on every card unless told otherwise: no frame leaves with another MAC than the card's.

libvirt has the parts; engines know the whole by a name of its own, and a VM with a filter that is not there does not
start. So it is defined after each connect, when it is not there.
"""

from typing import Any

import libvirt

from vdsm_mp.common import log

logger = log.named(__name__)

NAME = "vdsm-no-mac-spoofing"
_PARTS = ("no-mac-spoofing", "no-arp-mac-spoofing")


def ensure(conn: Any) -> None:
    """A libvirt that cannot filter is told of: cards without a filter work with it all the same."""
    try:
        names = conn.listNWFilters()
        if NAME in names:
            return
        parts = "".join(f"<filterref filter='{part}'/>" for part in _PARTS)
        conn.nwfilterDefineXML(f"<filter name='{NAME}' chain='root'>{parts}</filter>")
        logger.info("network filter %s is defined", NAME)
    except libvirt.libvirtError as error:
        if error.get_error_code() != libvirt.VIR_ERR_NO_SUPPORT:
            logger.warning("network filter %s cannot be defined: VMs that want it will not start: %s", NAME, error)
