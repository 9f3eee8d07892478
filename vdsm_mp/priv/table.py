# SPDX-License-Identifier: Apache-2.0
"""Root, as a list: every operation that runs as root, its parameters, and which worker's helper knows it.

Read by both sides: `call.py` (as vdsm) and `helper.py` (as root). Standard library only, because the root side imports
nothing else. Parameters name objects (an export, a NIC, a VM); paths and program options are derived by root alone.
Questions for whoever adds a row: why root? who owns the object? what if its path is swapped in between, or hangs?
which option could a value turn into? what if called twice at once, or killed half way?
"""

from collections.abc import Mapping

from vdsm_mp.priv.fields import Flag, Operation, Text, Whole

#: helper class -> workers that may start it. One sudo rule each.
CLASSES: Mapping[str, tuple[str, ...]] = {
    "storage": ("storage",),
    "network": ("network",),
    "virt": ("virt", "scheduler"),
}

#: Bytes of one request line, newline included.
LINE_LIMIT = 64 * 1024
#: Seconds that a caller waits beyond its deadline for a program to be put down and that to be said.
GRACE_S = 3.0
#: Bytes of one answer line: the UEFI variables of a VM (528 KiB, in base64) must fit.
ANSWER_LIMIT = 8 * 1024 * 1024

UUID = r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"

HOST = r"\[[0-9A-Fa-f:.]{2,45}(%[A-Za-z0-9_.-]{1,15})?\]|[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?"
EXPORT = r"/[^\x00-\x1f\x7f,\\]*"
REMOTE = Text(r"[^\x00-\x1f\x7f\\]+", max_length=1280)
OPTIONS = Text(r"[A-Za-z0-9_=.,+:/\[\]-]*", max_length=1024, optional=True)
LINK = Text(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,14}", max_length=15)
CIDR = Text(r"[0-9A-Fa-f:.]{2,45}/[0-9]{1,3}", max_length=49)
MAC = Text(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}", max_length=17, optional=True)
IP = Text(r"[0-9A-Fa-f:.]{2,45}", max_length=45)
WAY = Text(IP.pattern, max_length=45, optional=True)
MTU = Whole(68, 65535)
VM = Text(UUID, max_length=36)
VM_NAME = Text(r"[^/\x00-\x1f\x7f]+", max_length=240, optional=True)
PIECE = Text(r"[A-Za-z0-9+/=]*", max_length=48 * 1024)
TABLE = Whole(1, 2**32 - 1, optional=True)
#: Of a PCI device, as sysfs names it.
CARD = Text(r"[0-9a-f]{4,8}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]", max_length=16)

#: POSIX file systems that a storage domain may live on. Nothing of FUSE that runs a program of the caller's choice.
POSIX_TYPES = ("btrfs", "ceph", "ext2", "ext3", "ext4", "gfs2", "glusterfs", "lustre", "nfs", "nfs4", "ocfs2", "xfs")

_ROWS = (
    Operation(
        "mount-nfs",
        "storage",
        {"remote": Text(rf"({HOST}):({EXPORT})", max_length=1280), "options": OPTIONS},
        "Mount server:/export below <repository>/mnt. The mount point is derived; options from an allow-list.",
        deadline_s=120,
        at_once=8,
    ),
    Operation(
        "mount-posix",
        "storage",
        {"remote": REMOTE, "vfs_type": Text("|".join(POSIX_TYPES), max_length=16), "options": OPTIONS},
        "Mount a block device below /dev or a host:/path below <repository>/mnt (gluster: mnt/glusterSD).",
        deadline_s=120,
        at_once=8,
    ),
    Operation(
        "umount",
        "storage",
        {"remote": REMOTE, "gluster": Flag(optional=True)},
        "Unmount what mount-nfs or mount-posix mounted for `remote`, and remove the empty mount point.",
        deadline_s=60,
    ),
    Operation(
        "umount-detach",
        "storage",
        {"remote": REMOTE, "gluster": Flag(optional=True)},
        "The same for a server that does not answer: forced, and out of sight at once.",
    ),
    Operation(
        "gluster-volume",
        "storage",
        {"remote": Text(rf"({HOST}):/[A-Za-z0-9_][A-Za-z0-9_.-]*(/[^\x00-\x1f\x7f\\]*)?", max_length=1280)},
        "What gluster says of the volume: its replicas, and the servers that have it.",
        at_once=2,
    ),
    Operation(
        "managed-info",
        "storage",
        {},
        "What os-brick tells of this host as an initiator; null without os-brick.",
        at_once=1,
    ),
    Operation(
        "managed-attach",
        "storage",
        {"volume": VM, "data": PIECE},
        "Attach a volume by os-brick or an adapter of root's, and give its device, which nothing uses, to the agent.",
        deadline_s=120,
    ),
    Operation(
        "managed-detach",
        "storage",
        {"volume": VM, "data": PIECE},
        "Detach it; what is not there is fine.",
        deadline_s=120,
    ),
    Operation("bridge-create", "network", {"name": LINK, "stp": Flag(optional=True)}, "Make a bridge."),
    Operation("dummy-bridge", "network", {}, "Make the bridge of cards that belong to no network; idempotent."),
    Operation("bridge-set", "network", {"name": LINK, "options": OPTIONS}, "Set options of a bridge."),
    Operation("bond-create", "network", {"name": LINK, "options": OPTIONS, "mac": MAC}, "Make a bond."),
    Operation("bond-set", "network", {"name": LINK, "options": OPTIONS}, "Set options of a bond; its mode stays."),
    Operation(
        "vlan-create",
        "network",
        {"name": LINK, "nic": LINK, "tag": Whole(0, 4094)},
        "Make a VLAN device on a NIC or bond.",
    ),
    Operation("link-remove", "network", {"name": LINK}, "Remove a bridge, bond or VLAN device; never a NIC."),
    Operation("port-attach", "network", {"port": LINK, "to": LINK}, "Put a device under a bridge or bond."),
    Operation("port-detach", "network", {"port": LINK}, "Take a device from its bridge or bond."),
    Operation("link-up", "network", {"name": LINK}, "Set a device up."),
    Operation("link-down", "network", {"name": LINK}, "Set a device down."),
    Operation("mtu-set", "network", {"name": LINK, "mtu": MTU}, "Set a device's MTU."),
    Operation(
        "address-add",
        "network",
        {"name": LINK, "address": CIDR, "valid_s": Whole(1, 2**31, optional=True)},
        "Give a device an address, for so long; idempotent.",
    ),
    Operation("address-remove", "network", {"name": LINK, "address": CIDR}, "Take an address away; idempotent."),
    Operation("addresses-flush", "network", {"name": LINK}, "Take all addresses of a device away."),
    Operation(
        "ipv6-set",
        "network",
        {"name": LINK, "mode": Text("off|static|(ra|auto)(-noroute)?|default", max_length=12)},
        "How a device treats IPv6: not at all, by hand, with routers' advertisements, as new devices do.",
    ),
    Operation("stp-set", "network", {"name": LINK, "enabled": Flag()}, "Switch a bridge's spanning tree."),
    Operation(
        "route-set", "network", {"name": LINK, "gateway": IP, "table": TABLE}, "Replace the default route of a table."
    ),
    Operation(
        "route-remove", "network", {"name": LINK, "gateway": IP, "table": TABLE}, "Remove a default route; idempotent."
    ),
    Operation(
        "route-restore",
        "network",
        {
            "name": LINK,
            "destination": Text(r"default|[0-9A-Fa-f:.]{2,45}(/[0-9]{1,3})?", max_length=49),
            "gateway": WAY,
            "source": WAY,
            "protocol": Text("boot|static|dhcp", max_length=6),
            "metric": Whole(0, 2**32 - 1, optional=True),
            "onlink": Flag(optional=True),
            "six": Flag(optional=True),
        },
        "Make a route of the main table again that an administrator or his program had made; idempotent.",
    ),
    Operation(
        "source-route-set",
        "network",
        {"name": LINK, "address": CIDR, "gateway": IP},
        "Answer what comes to an IPv4 address through this gateway: a table and two rules of its own; idempotent.",
    ),
    Operation(
        "source-route-remove",
        "network",
        {"name": LINK, "address": CIDR},
        "Remove that table and its rules; idempotent.",
    ),
    Operation(
        "nameservers-set",
        "network",
        {"servers": Text(r"[0-9A-Fa-f:.,]*", max_length=160)},
        "Replace the nameservers in /etc/resolv.conf, and nothing else there.",
        at_once=1,
    ),
    Operation(
        "shape-set",
        "network",
        {"nic": LINK, "tag": Whole(0, 4094, optional=True), "curves": Text(r"[a-z0-9=:,]+", max_length=160)},
        "Shape what a NIC or bond sends for a VLAN, or without one; idempotent.",
        at_once=1,
    ),
    Operation(
        "shape-remove",
        "network",
        {"nic": LINK, "tag": Whole(0, 4094, optional=True)},
        "Shape it no more; with the last one the NIC's queue is as the kernel made it. Idempotent.",
        at_once=1,
    ),
    Operation(
        "mirror-set",
        "network",
        {"bridge": LINK, "cards": Text(rf"({LINK.pattern}(,{LINK.pattern})*)?", max_length=4096)},
        "Copy what passes a bridge to these cards of guests, and to no others; idempotent.",
        at_once=1,
    ),
    Operation(
        "lldp-hear",
        "network",
        {"names": Text(r"[A-Za-z0-9_.,-]+", max_length=1024), "seconds": Whole(1, 45)},
        "The first LLDP frame that each NIC receives, as far as one comes in time.",
        deadline_s=60,
        at_once=1,
    ),
    Operation(
        "dhcp-start",
        "network",
        {
            "name": LINK,
            "six": Flag(optional=True),
            "routes": Flag(optional=True),
            "dns": Flag(optional=True),
            "wait": Flag(optional=True),
        },
        "Have a device's address kept by dhclient; idempotent. routes, dns: the default route and nameservers too. "
        "wait: until it has one. six: an IPv6 address.",
        deadline_s=60,
    ),
    Operation(
        "dhcp-stop",
        "network",
        {"name": LINK, "six": Flag(optional=True)},
        "End that dhclient and give the address back; idempotent.",
    ),
    Operation(
        "vfs-set",
        "network",
        {"card": CARD, "number": Whole(0, 65535)},
        "Give an SR-IOV card so many virtual functions, unless a guest may have one of those that it has; idempotent.",
        deadline_s=60,
        at_once=1,
    ),
    Operation(
        "end-qemu",
        "virt",
        {"vm_id": VM, "pid": Whole(2, 2**22), "gracefully": Flag(optional=True)},
        "Kill a QEMU of a VM that libvirt doesn't know any more; idempotent. It belongs to another user.",
        at_once=8,
    ),
    Operation("hardware-info", "virt", {}, "The machine's DMI identity, which only root may read in full."),
    Operation(
        "ksm-tune",
        "virt",
        {
            "run": Whole(0, 2, optional=True),
            "sleep_millisecs": Whole(0, 2**32 - 1, optional=True),
            "pages_to_scan": Whole(0, 2**32 - 1, optional=True),
            "merge_across_nodes": Whole(0, 1, optional=True),
        },
        "Set kernel same-page merging.",
        at_once=1,
    ),
    Operation(
        "mdev-create",
        "virt",
        {
            "card": CARD,
            "type": Text(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", max_length=80),
            "uuid": VM,
            "parameters": Text(r"[A-Za-z0-9_][A-Za-z0-9_=.,:; -]*", max_length=512, optional=True),
        },
        "Have a card make a mediated device of one of its types; idempotent.",
        at_once=1,
    ),
    Operation("mdev-remove", "virt", {"uuid": VM}, "Remove a mediated device that no guest has; idempotent."),
    Operation("read-nvram", "virt", {"vm_id": VM, "vm_name": VM_NAME}, "A VM's UEFI variables, in base64."),
    Operation("read-tpm", "virt", {"vm_id": VM, "vm_name": VM_NAME}, "A VM's TPM state: base64 of a tar."),
    Operation(
        "write-nvram",
        "virt",
        {"vm_id": VM, "offset": Whole(0, 2**24), "data": PIECE, "last": Flag()},
        "One piece of a VM's UEFI variables; the last one puts them in place.",
    ),
    Operation(
        "write-tpm",
        "virt",
        {"vm_id": VM, "offset": Whole(0, 2**24), "data": PIECE, "last": Flag()},
        "One piece of a VM's TPM state; the last one puts it in place.",
    ),
)

#: Every helper answers `ping`; the rest as listed.
OPERATIONS: Mapping[tuple[str, str], Operation] = {
    **{
        (c, "ping"): Operation("ping", c, {}, "Prove that the helper runs; answers its uid and class.") for c in CLASSES
    },
    **{(row.helper, row.name): row for row in _ROWS},
}


def helper_of(worker: str) -> str | None:
    """The helper class that a worker may start, or None."""
    return next((helper for helper, workers in CLASSES.items() if worker in workers), None)
