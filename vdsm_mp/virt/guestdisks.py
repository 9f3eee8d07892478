# SPDX-License-Identifier: Apache-2.0
"""What a guest calls its disks: told by its agent by serial number, kept as `guestName` in each disk's metadata.

Engines read it there, in the domain XML, which they fetch again when the hash of the devices changes.
"""

from collections.abc import Mapping
from typing import Any

from vdsm_mp.common import log
from vdsm_mp.common.errors import Error
from vdsm_mp.virt.domxml_parse import GUEST_NAME
from vdsm_mp.virt.keeping import Keeper
from vdsm_mp.virt.records import VmRecord

logger = log.named(__name__)

#: virtio-blk has no room for more of a serial number.
_SERIAL = 20


def names(record: VmRecord, mapping: Mapping[str, Any]) -> dict[str, str]:
    """{target dev: name in the guest}. mapping: {serial: {"name": …}}, as the agent tells it."""
    found = {}
    for drive in record.devices.drives:
        short = drive.serial[:_SERIAL]
        for serial, told in mapping.items():
            name = told.get("name") if isinstance(told, Mapping) else None
            if short and short in serial and isinstance(name, str) and name:
                found[drive.name] = name
    return found


def learn(keeper: Keeper, record: VmRecord, mapping: Mapping[str, Any]) -> None:
    """Write down the names that are new, and tell engines that there is something to read."""
    known = {drive.name: drive.guest_name for drive in record.devices.drives}
    news = {drive: name for drive, name in names(record, mapping).items() if known.get(drive) != name}
    try:
        for drive, name in news.items():
            identity = {"devtype": "disk", "name": drive}
            keeper.remember_device(record.vm_id, identity, {**record.metadata.device(**identity), GUEST_NAME: name})
        if news:
            keeper.refresh(record.vm_id, tell=("hash",))
    except Error as error:
        logger.info("vm=%s what its guest calls its disks is not written down: %s", record.vm_id, error)
