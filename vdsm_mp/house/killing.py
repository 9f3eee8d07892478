# SPDX-License-Identifier: Apache-2.0
"""How a process that does not go by itself is ended: SIGABRT, so that it writes its stacks, a real pause, SIGKILL, and
after that nothing: what is there then hangs in the kernel. Nothing waits here; `carry_on` is called again and again.
"""

import signal

from vdsm_mp.common import kernel, log
from vdsm_mp.house.members import DUMP_S, KILL_S, Process

logger = log.named("master")


def begin(process: Process, why: str, now: float, *, stacks: bool = True) -> None:
    """`why` becomes the reason of its death. A process that is stopped writes no stacks: no pause for that."""
    facts = kernel.process(process.pid)
    stacks = stacks and (facts is None or not facts.stopped)
    process.why_killed = why
    logger.error("%s pid=%d: %s", process.name, process.pid, why)
    abort = [(now, signal.SIGABRT.value)] if stacks else []
    at(process, now + (DUMP_S if stacks else 0.0), before=abort)


def at(process: Process, kill_mono: float, *, before: list[tuple[float, int]] | None = None) -> None:
    """SIGKILL at this time unless it has ended; `before`: other signals with their times."""
    process.killing = [*(before or []), (kill_mono, signal.SIGKILL.value), (kill_mono + KILL_S, 0)]


def carry_on(process: Process, now: float) -> bool:
    """Send what is due. True: SIGKILL had its time, and it is still there; or a debugger keeps what is left of it."""
    while process.killing and now >= process.killing[0][0]:
        _, number = process.killing.pop(0)
        if not number:
            return True
        signal.pidfd_send_signal(process.pidfd, number)
    return bool(process.killing) and not process.killing[0][1] and _kept_dead(process.pid)


def _kept_dead(pid: int) -> bool:
    facts = kernel.process(pid)
    return facts is not None and facts.state == "Z" and kernel.tracer(pid) != 0
