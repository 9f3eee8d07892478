# SPDX-License-Identifier: Apache-2.0
"""Who looks at a VM's console, from what libvirt tells of each connection. Pure.

SPICE has a connection for the screen, one for the keyboard and so on, and several viewers may look at one VM: it is
left when the last connection is gone, not when any is.
"""

from msgspec.structs import replace

from vdsm_mp.virt.records import VmRecord

#: (address, port); of a UNIX socket both are the same for all.
Client = tuple[str, str]
#: More than any viewer opens. Who comes later puts out who came first.
_MOST = 64


def came(record: VmRecord, client: Client) -> VmRecord:
    """Its password was right."""
    return replace(record, client_ip=client[0], viewers=(*record.viewers, client)[-_MOST:])


def went(record: VmRecord, client: Client) -> VmRecord:
    """One that was refused goes, too, and changes nothing.

    Where none is known, since libvirtd or the VM's host is another one, the address tells.
    """
    left = list(record.viewers)
    if client in left:
        left.reverse()
        left.remove(client)
        left.reverse()
    elif left or client[0] != record.client_ip:
        return record
    return replace(record, client_ip=left[-1][0] if left else "", viewers=tuple(left))


def watched(record: VmRecord) -> bool:
    return bool(record.viewers or record.client_ip)
