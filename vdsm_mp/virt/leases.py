# SPDX-License-Identifier: Apache-2.0
"""Leases of a VM: who holds one may run it. Filled in at the start, plugged and unplugged while it runs.

libvirt's lock manager takes and gives up the lease together with the device, so there is nothing to ask of the guest.
"""

import xml.etree.ElementTree as ET
from collections.abc import Collection

import libvirt

from vdsm_mp.api.errors_virt import CannotCreateVm, HotplugLeaseFailed, HotunplugLeaseFailed
from vdsm_mp.api.internal import PreparedDrive
from vdsm_mp.api.lease import LeaseName
from vdsm_mp.api.verb import handles
from vdsm_mp.api.vm_devices import HotplugVmLease, HotunplugVmLease
from vdsm_mp.common import log, xml
from vdsm_mp.common.errors import Error
from vdsm_mp.virt.connection import translated
from vdsm_mp.virt.devices import Devices, find
from vdsm_mp.virt.domxml_build import leases_to_fill
from vdsm_mp.virt.drives import Drives
from vdsm_mp.virt.registry import short_status

logger = log.named(__name__)


def fill(domain: ET.Element, prepared: Collection[PreparedDrive], drives: Drives) -> None:
    """Give the leases that are no volume's their place, in `domain` itself. Raises: CannotCreateVm."""
    volumes = {link.volume_id for drive in prepared for link in drive.chain}
    for target, key, lockspace in leases_to_fill(domain):
        if key in volumes:
            continue
        try:
            info = drives.lease(lockspace, key)
        except Error as error:
            raise CannotCreateVm(f"lease {key} on domain {lockspace}: {error}") from error
        target.set("path", info.path)
        target.set("offset", str(info.offset))


@handles(HotplugVmLease)
def hotplug_lease(devices: Devices, ask: HotplugVmLease) -> dict[str, str]:
    record = devices.vms.running(ask.vm_id, "plug a lease")
    dom, domain = devices.live(ask.vm_id)
    if _lease(domain, ask.lease) is not None:
        raise HotplugLeaseFailed(f"{ask.lease.lease_id} is plugged already")
    try:
        info = devices.drives.lease(ask.lease.sd_id, ask.lease.lease_id)
    except Error as error:
        raise HotplugLeaseFailed(str(error)) from error
    lease = ET.Element("lease")
    xml.add(lease, "lockspace", ask.lease.sd_id)
    xml.add(lease, "key", ask.lease.lease_id)
    xml.add(lease, "target", path=info.path, offset=str(info.offset))
    with translated(ask.vm_id, HotplugLeaseFailed):
        dom.attachDeviceFlags(xml.dump(lease), libvirt.VIR_DOMAIN_AFFECT_LIVE)
    now = devices.changed(ask.vm_id)
    logger.info("vm=%s lease %s plugged", ask.vm_id, ask.lease.lease_id)
    return short_status(now or record)


@handles(HotunplugVmLease)
def hotunplug_lease(devices: Devices, ask: HotunplugVmLease) -> dict[str, str]:
    record = devices.vms.running(ask.vm_id, "unplug a lease")
    dom, domain = devices.live(ask.vm_id)
    lease = _lease(domain, ask.lease)
    if lease is None:
        raise HotunplugLeaseFailed(f"there is no lease {ask.lease.lease_id}")
    with translated(ask.vm_id, HotunplugLeaseFailed):
        dom.detachDeviceFlags(xml.dump(lease), libvirt.VIR_DOMAIN_AFFECT_LIVE)
    if _lease(devices.live(ask.vm_id)[1], ask.lease) is not None:
        raise HotunplugLeaseFailed(f"{ask.lease.lease_id} is still there")
    now = devices.changed(ask.vm_id)
    logger.info("vm=%s lease %s unplugged", ask.vm_id, ask.lease.lease_id)
    return short_status(now or record)


def _lease(domain: ET.Element, name: LeaseName) -> ET.Element | None:
    wanted = (name.lease_id, name.sd_id)
    return find(domain, "lease", lambda e: (xml.text_of(e, "key"), xml.text_of(e, "lockspace")) == wanted)
