# SPDX-License-Identifier: Apache-2.0
"""QEMUs of libvirt's among the processes of this host, and the end of one that libvirt doesn't know any more.

Root side, standard library only; `running`, `everyone` and `folder` are for whoever may read /proc. A process says by
its command line which VM it is, so root signals nothing but what calls itself a QEMU of libvirt's with exactly that id:
who imitates one ends it.
"""

import contextlib
import os
import re
import select
import signal
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from vdsm_mp.priv.child import OperationFailed
from vdsm_mp.priv.context import Context

#: As long as libvirt itself gives a QEMU to write out what it caches.
_POLITE_S = 10.0
_MOST_S = 25.0
#: Each has one, in the folder that libvirt made for it.
_KEY = re.compile(rb'([^\0"=]+)/master-key\.aes')
#: A comma in a name is written twice.
_NAME = re.compile(rb"\0-name\0guest=((?:[^,\0]|,,)+)")
_ID = re.compile(rb"\0-uuid\0([0-9a-f-]{36})\0")
_CPUS = re.compile(rb"\0-smp\0(?:cpus=)?(\d+)")
#: Where the libvirtd of the whole host has those folders; others of the same network are of its users.
_HOSTS = "/var/lib/libvirt/qemu/"
#: A libguestfs appliance: nobody's VM.
_APPLIANCE = b"org.libguestfs.channel.0"


class Guest(NamedTuple):
    """What a QEMU's command line tells of its VM."""

    pid: int
    vm_id: str
    name: str
    cpus: int
    kvm: bool


def running(vm_id: str) -> list[int]:
    """Process ids of its QEMUs; ended ones that nobody has waited for have no command line."""
    return [int(name) for name in os.listdir("/proc") if name.isdigit() and _is(int(name), vm_id)]


def everyone() -> Iterator[Guest]:
    """Every QEMU of the libvirtd of a host, this one's or, where those share its processes, another's."""
    for pid in (int(name) for name in os.listdir("/proc") if name.isdigit()):
        line = _line(pid)
        name, vm_id = _NAME.search(line), _ID.search(line)
        if name and vm_id and _APPLIANCE not in line and folder(pid).startswith(_HOSTS):
            cpus = _CPUS.search(line)
            called = os.fsdecode(name[1]).replace(",,", ",")
            yield Guest(pid, vm_id[1].decode(), called, int(cpus[1]) if cpus else 1, b"\0-accel\0kvm" in line)


def hidden() -> bool:
    """Does /proc hide from us what others' processes are (its option hidepid)? Then no QEMU is found."""
    try:
        return not Path("/proc/1/cmdline").read_bytes()
    except OSError:
        return True


def folder(pid: int) -> str:
    """Where its monitor's socket is; "" when it is gone, or none of libvirt's."""
    found = _KEY.search(_line(pid))
    return os.fsdecode(found[1]) if found else ""


def _is(pid: int, vm_id: str) -> bool:
    line = _line(pid)
    return b"\0-name\0guest=" in line and b"\0-uuid\0" + vm_id.encode() + b"\0" in line


def _line(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def end(context: Context, params: Mapping[str, Any]) -> bool:
    """By SIGTERM, if wanted, and SIGKILL; False: it was over already. Raises: OperationFailed when it outlives that."""
    pid = params["pid"]
    until_mono = min(context.deadline_mono, time.monotonic() + _MOST_S)
    with _held(pid) as descriptor:
        # Held first, then looked at: now the number cannot be another process's.
        if descriptor is None or not _is(pid, params["vm_id"]):
            return False
        gently = params.get("gracefully") and _ends(descriptor, signal.SIGTERM, time.monotonic() + _POLITE_S)
        if not gently and not _ends(descriptor, signal.SIGKILL, until_mono):
            raise OperationFailed(f"process {pid} does not end: it hangs in the kernel")
        return True


@contextlib.contextmanager
def _held(pid: int) -> Iterator[int | None]:
    """A pidfd; None when it is gone."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        yield None
        return
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _ends(descriptor: int, number: signal.Signals, until_mono: float) -> bool:
    with contextlib.suppress(ProcessLookupError):
        signal.pidfd_send_signal(descriptor, number)
    ended, _, _ = select.select([descriptor], [], [], max(0.1, until_mono - time.monotonic()))
    return bool(ended)


HANDLERS = {"end-qemu": end}
