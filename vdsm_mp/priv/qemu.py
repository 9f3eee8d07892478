# SPDX-License-Identifier: Apache-2.0
"""QEMUs of libvirt's among the processes of this host, and the end of one that libvirt doesn't know any more.

Root side, standard library only; `running` is for whoever may read /proc. A process says by its command line which VM
it is, so root signals nothing but what calls itself a QEMU of libvirt's with exactly that id: who imitates one ends it.
"""

import contextlib
import os
import select
import signal
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from vdsm_mp.priv.child import OperationFailed
from vdsm_mp.priv.context import Context

#: As long as libvirt itself gives a QEMU to write out what it caches.
_POLITE_S = 10.0
_MOST_S = 25.0


def running(vm_id: str) -> list[int]:
    """Process ids of its QEMUs; ended ones that nobody has waited for have no command line."""
    return [int(name) for name in os.listdir("/proc") if name.isdigit() and _is(int(name), vm_id)]


def _is(pid: int, vm_id: str) -> bool:
    try:
        line = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False
    return b"\0-name\0guest=" in line and b"\0-uuid\0" + vm_id.encode() + b"\0" in line


def end(context: Context, params: Mapping[str, Any]) -> int:
    """By SIGTERM, if wanted, and SIGKILL; how many there were. Raises: OperationFailed when one outlives it."""
    vm_id = params["vm_id"]
    until_mono = min(context.deadline_mono, time.monotonic() + _MOST_S)
    pids = running(vm_id)
    for pid in pids:
        with _held(pid) as descriptor:
            # Held first, then looked at again: now the number cannot be another process's.
            if descriptor is None or not _is(pid, vm_id):
                continue
            gently = params.get("gracefully") and _ends(descriptor, signal.SIGTERM, time.monotonic() + _POLITE_S)
            if not gently and not _ends(descriptor, signal.SIGKILL, until_mono):
                raise OperationFailed(f"process {pid} does not end: it hangs in the kernel")
    return len(pids)


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
