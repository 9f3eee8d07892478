# SPDX-License-Identifier: Apache-2.0
"""Pause, continue, reset and shut down a running VM."""

from collections.abc import Callable
from typing import Any

import libvirt
import msgspec

from vdsm_mp.api.errors_virt import NoSuchVm, ResetFailed, ShutdownFailed, VmWrongState
from vdsm_mp.api.ports import Background
from vdsm_mp.api.verb import handles
from vdsm_mp.api.vm import ContinueVm, PauseVm, ResetVm, SetVmDestroyOnReboot, ShutdownVm
from vdsm_mp.common import clock, log
from vdsm_mp.common.errors import Error
from vdsm_mp.common.options import Vars
from vdsm_mp.virt import machine
from vdsm_mp.virt.connection import Connection, translated
from vdsm_mp.virt.guesttime import GuestTime
from vdsm_mp.virt.keeping import Keeper
from vdsm_mp.virt.machine import ExitReason, VmStatus
from vdsm_mp.virt.patience import Again
from vdsm_mp.virt.records import VmRecord
from vdsm_mp.virt.registry import Vms
from vdsm_mp.virt.vmhooks import VmHooks

logger = log.named(__name__)

#: Of a shutdown that is under way, in the metadata.
_NOTE = "shutdown"
#: Pause and continue say nothing about the VM; upstream's bridge leaves an empty object.
_NOTHING: dict[str, Any] = {"vmList": {}}


class Power:
    """What the power verbs need."""

    def __init__(
        self,
        connection: Connection,
        vms: Vms,
        keeper: Keeper,
        background: Background,
        variables: Vars,
        hooks: VmHooks,
        times: GuestTime,
    ) -> None:
        self.connection = connection
        self.vms = vms
        self.keeper = keeper
        self.background = background
        self.hooks = hooks
        self.times = times
        self.sync_time = variables.time_sync_cont_enable
        self.delay_s = variables.user_shutdown_timeout
        self.timeout_s = variables.sys_shutdown_timeout

    def resume(self, vm_id: str) -> None:
        """Let its CPUs run. Harmless when they do. Raises: NoSuchVm, VmOperationFailed."""
        record = self.vms.find(vm_id)
        self.hooks.before("vm_cont", record)
        with translated(vm_id):
            dom = self.connection.domain(vm_id)
            try:
                dom.resume()
            except libvirt.libvirtError:
                # libvirt refuses what is the case already: the answer to the one who asked first was lost, say.
                if dom.state()[0] != libvirt.VIR_DOMAIN_RUNNING:
                    raise
        self.vms.move(vm_id, machine.on_resumed)
        self.hooks.after("vm_cont", record)
        if self.sync_time:
            self.times.set_soon(vm_id)


@handles(PauseVm)
def pause(power: Power, ask: PauseVm) -> dict[str, Any]:
    record = power.vms.running(ask.vm_id, "pause", even_busy=True)
    power.hooks.before("vm_pause", record)
    with translated(ask.vm_id):
        power.connection.domain(ask.vm_id).suspend()
    power.vms.move(ask.vm_id, lambda life: machine.on_suspended(life, clock.mono_s()))
    power.hooks.after("vm_pause", record)
    return _NOTHING


@handles(ContinueVm)
def cont(power: Power, ask: ContinueVm) -> dict[str, Any]:
    power.vms.running(ask.vm_id, "continue")
    power.resume(ask.vm_id)
    return _NOTHING


@handles(ResetVm)
def reset(power: Power, ask: ResetVm) -> None:
    power.vms.running(ask.vm_id, "reset")
    with translated(ask.vm_id, ResetFailed):
        power.connection.domain(ask.vm_id).reset(0)


@handles(SetVmDestroyOnReboot)
def set_destroy_on_reboot(power: Power, ask: SetVmDestroyOnReboot) -> None:
    power.vms.running(ask.vm_id, "set destroy on reboot")
    power.keeper.remember(ask.vm_id, destroy_on_reboot=True)
    power.vms.move(ask.vm_id, machine.on_destroy_on_reboot)


@handles(ShutdownVm)
def shutdown(power: Power, ask: ShutdownVm) -> None:
    """Begin the chain and return; each step waits for the guest before the next, rougher one."""
    record = power.vms.running(ask.vm_id, "shut down", even_hanging=True, even_busy=True)
    if record.life.status is VmStatus.PAUSED and not ask.force:
        raise VmWrongState(ask.vm_id, VmStatus.PAUSED, "a shutdown")
    steps = _steps(record, reboot=bool(ask.reboot), force=bool(ask.force))
    if not steps:
        raise ShutdownFailed("it has neither ACPI nor an active guest agent")
    delay_s = power.delay_s if ask.delay is None else max(0, ask.delay)
    wait_s = max(1, power.timeout_s if ask.timeout is None else ask.timeout)
    logger.info("VM.shutdown vm=%s delay=%ss message=%r", ask.vm_id, delay_s, ask.message)
    # The delay gives users in the guest time to save; only an agent can tell them, so without one it is of no use.
    delay_s = delay_s if record.devices.agent_connected else 0
    chain = _Chain(power, record, steps, wait_s, reboot=bool(ask.reboot))
    if not ask.reboot:  # a reboot that happened while we were dead must not happen again
        _remember(power, ask, delay_s, wait_s, steps=len(steps))
    power.vms.move(ask.vm_id, lambda life: machine.on_powerdown_request(life, clock.mono_s()))
    power.background.later(delay_s, f"shut down {ask.vm_id}", chain.step)


class _Note(msgspec.Struct, frozen=True):
    """A shutdown under way. delay, wait: seconds before the first step and between two; end: epoch seconds."""

    delay: int
    wait: int
    force: bool
    end: float


def _remember(power: Power, ask: ShutdownVm, delay_s: int, wait_s: int, *, steps: int) -> None:
    """The caller was told that it is under way: so it goes on when we die. Nothing is written to a VM that hangs."""
    end = clock.wall_s() + delay_s + wait_s * steps
    note = _Note(delay=delay_s, wait=wait_s, force=bool(ask.force), end=end)
    if power.vms.hangs(ask.vm_id):
        return
    try:
        power.keeper.remember(ask.vm_id, **{_NOTE: msgspec.json.encode(note).decode()})
    except Error as error:
        logger.warning("vm=%s its shutdown will not outlive us: %s", ask.vm_id, error)


def go_on_shutting_down(power: Power, again: Again, vm_id: str) -> None:
    """Take up a shutdown that was under way when we died, from its first step; one that is over is forgotten.

    From the connection's keeper thread: no waits.
    """
    record = power.vms.get(vm_id)
    text = record.metadata.get(_NOTE) if record is not None else None
    if record is None or not isinstance(text, str):
        return
    try:
        note = msgspec.json.decode(text, type=_Note)
    except msgspec.DecodeError as error:
        logger.warning("vm=%s its shutdown cannot be taken up: %s", vm_id, error)
        note = None
    if note is None or clock.wall_s() > note.end:

        def forget() -> None:
            power.keeper.take_turn(vm_id)
            power.keeper.remember(vm_id, **{_NOTE: None})

        again.start(f"forget shutdown of {vm_id}", forget)
        return
    logger.info("vm=%s goes on shutting down", vm_id)
    power.vms.move(vm_id, lambda life: machine.on_powerdown_request(life, clock.mono_s()))
    chain = _Chain(power, record, _steps(record, reboot=False, force=note.force), note.wait, reboot=False)
    power.background.later(note.delay, f"shut down {vm_id}", chain.step)


Step = Callable[[Any], object]


def _steps(record: VmRecord, *, reboot: bool, force: bool) -> list[tuple[str, Step]]:
    steps: list[tuple[str, Step]] = []
    agent, acpi = libvirt.VIR_DOMAIN_SHUTDOWN_GUEST_AGENT, libvirt.VIR_DOMAIN_SHUTDOWN_ACPI_POWER_BTN
    if record.devices.agent_connected:
        if reboot:
            steps.append(("guest agent", lambda dom: dom.reboot(libvirt.VIR_DOMAIN_REBOOT_GUEST_AGENT)))
        else:
            steps.append(("guest agent", lambda dom: dom.shutdownFlags(agent)))
    if record.devices.acpi:
        if reboot:
            steps.append(("ACPI", lambda dom: dom.reboot(libvirt.VIR_DOMAIN_REBOOT_ACPI_POWER_BTN)))
        else:
            steps.append(("ACPI", lambda dom: dom.shutdownFlags(acpi)))
    if force:
        steps.append(("force", (lambda dom: dom.reset(0)) if reboot else (lambda dom: dom.destroy())))
    return steps


class _Chain:
    """One shutdown request: its remaining steps."""

    def __init__(
        self, power: Power, record: VmRecord, steps: list[tuple[str, Step]], wait_s: int, *, reboot: bool
    ) -> None:
        self._power = power
        self._vm_id = record.vm_id
        self._steps = steps
        self._wait_s = wait_s
        self._reboot = reboot
        self._began = clock.mono_s()

    def step(self) -> None:
        if self._done():
            return
        name, do = self._steps.pop(0)
        try:
            dom = self._power.connection.domain(self._vm_id)
            if name == "force" and not self._reboot:
                self._power.vms.move(self._vm_id, lambda life: machine.on_shutdown(life, ExitReason.ADMIN_SHUTDOWN))
            with translated(self._vm_id):
                do(dom)
        except NoSuchVm:
            return
        except Error as error:
            logger.info("vm=%s shutdown by %s failed: %s", self._vm_id, name, error)
            self._next(0)
        else:
            logger.info("vm=%s shutdown by %s was asked for", self._vm_id, name)
            self._next(self._wait_s)

    def _next(self, after_s: float) -> None:
        if self._steps:
            self._power.background.later(after_s, f"shut down {self._vm_id}", self.step)

    def _done(self) -> bool:
        record = self._power.vms.get(self._vm_id)
        if record is None or record.life.status is VmStatus.DOWN or not self._steps:
            return True
        rebooted = record.life.guest_status is VmStatus.REBOOTING and record.life.guest_event_mono is not None
        return self._reboot and rebooted and (record.life.guest_event_mono or 0) > self._began
