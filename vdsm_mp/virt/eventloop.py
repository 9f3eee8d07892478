# SPDX-License-Identifier: Apache-2.0
"""libvirt's own event loop, in a thread of its own; callbacks arrive there and must not call libvirt."""

import threading
import time

import libvirt

from vdsm_mp.common import log

logger = log.named(__name__)

_TICK_MS = 1000
_loop_lock = threading.Lock()
_loop: threading.Thread | None = None


def start() -> None:
    """Register libvirt's own event loop, once a process and before the first open, and run it in a thread."""
    global _loop
    with _loop_lock:
        if _loop is None:
            libvirt.registerErrorHandler(_quiet, None)
            libvirt.virEventRegisterDefaultImpl()
            # A timer that does nothing: without it a pass of the loop may sleep through what was added meanwhile.
            libvirt.virEventAddTimeout(_TICK_MS, _tick, None)
            _loop = threading.Thread(target=_run_events, name="libvirt-events", daemon=True)
            _loop.start()


def _run_events() -> None:
    while True:
        try:
            libvirt.virEventRunDefaultImpl()
        except libvirt.libvirtError:
            logger.exception("libvirt's event loop failed one pass")
            time.sleep(0.1)


def _tick(timer: int, opaque: object) -> None:
    return


def _quiet(context: object, error: object) -> None:
    """libvirt prints errors to stderr unless told otherwise; we raise and log them ourselves."""
