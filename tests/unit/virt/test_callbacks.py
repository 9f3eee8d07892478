# SPDX-License-Identifier: Apache-2.0
"""Whose will it is that a guest shuts down: its own, a client's, or that of the host, which is shutting down itself."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import libvirt
import pytest
from msgspec.structs import replace

from tests.support.virt_room import RecordedEvents
from vdsm_mp.virt import machine
from vdsm_mp.virt.callbacks import Callbacks
from vdsm_mp.virt.machine import ExitReason, Life, VmStatus
from vdsm_mp.virt.records import VmRecord
from vdsm_mp.virt.registry import Vms

DOWN = "System is going down. Unprivileged users are not permitted to log in anymore."
GUEST, HOST = libvirt.VIR_DOMAIN_EVENT_SHUTDOWN_GUEST, libvirt.VIR_DOMAIN_EVENT_SHUTDOWN_HOST


@pytest.mark.parametrize(
    ("said", "detail", "asked", "reason"),
    [
        ("", GUEST, False, ExitReason.USER_SHUTDOWN),
        ("", HOST, False, ExitReason.HOST_SHUTDOWN),
        (DOWN, GUEST, False, ExitReason.HOST_SHUTDOWN),
        (DOWN, GUEST, True, ExitReason.USER_SHUTDOWN),
        (DOWN.replace("going down", "booting up"), GUEST, False, ExitReason.USER_SHUTDOWN),
    ],
    ids=["by itself", "QEMU was told to", "with its host", "a client asked", "while the host boots"],
)
def test_a_guest_that_goes_down_with_its_host_is_no_users_will(
    tmp_path: Path, said: str, detail: int, asked: bool, reason: ExitReason
) -> None:
    nologin = tmp_path / "nologin"
    if said:
        nologin.write_text(said)
    vms, nobody = Vms(RecordedEvents()), lambda *words: None
    life = replace(Life(status=VmStatus.UP, cpus_run=True), powerdown_mono=1.0 if asked else None)
    vms.add(VmRecord(vm_id="x", name="x", life=life))
    callbacks = Callbacks(vms, nobody, nobody, nobody, nobody, nobody, nobody, nobody, nologin)
    dom: Any = SimpleNamespace(UUIDString=lambda: "x")
    callbacks._lifecycle(None, dom, libvirt.VIR_DOMAIN_EVENT_SHUTDOWN, detail, None)
    vms.move("x", machine.on_stopped)
    record = vms.get("x")
    assert record is not None
    assert record.life.exit is not None
    assert record.life.exit.reason is reason


def test_who_leaves_the_console_of_a_vm_that_has_ended_is_no_news_of_its_end() -> None:
    events, nobody = RecordedEvents(), lambda *words: None
    vms = Vms(events)
    vms.describe = lambda record: {"clientIp": record.client_ip}
    vms.add(VmRecord(vm_id="x", name="x", life=Life(status=VmStatus.UP, cpus_run=True)))
    callbacks = Callbacks(vms, nobody, nobody, nobody, nobody, nobody, nobody, nobody)
    dom: Any = SimpleNamespace(UUIDString=lambda: "x")
    viewer = {"node": "192.0.2.1", "service": "1001"}

    def graphics(phase: int) -> None:
        callbacks._graphics(None, dom, phase, {}, viewer, "spice", [], None)

    graphics(libvirt.VIR_DOMAIN_EVENT_GRAPHICS_INITIALIZE)
    assert events.of("x") == [{"clientIp": "192.0.2.1", "status": "Up"}]
    vms.move("x", machine.on_stopped)
    told = events.of("x")
    graphics(libvirt.VIR_DOMAIN_EVENT_GRAPHICS_DISCONNECT)
    assert events.of("x") == told
    assert "exitCode" in told[-1]
