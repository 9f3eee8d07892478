# SPDX-License-Identifier: Apache-2.0
"""Host.fenceNode: operate another host's power management through an installed fence agent.

Owns nothing but what runs now. Agents get their parameters on stdin, so that no password is in a process list, and run
as the agent's user with a deadline. A client names an agent and gives options line by line; what could become another
line or another program is refused. What an agent says of its trouble is logged without passwords: some repeat all they
were told.
"""

import os
import re
import threading
from collections import deque
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from vdsm_mp.api.errors import Busy
from vdsm_mp.api.errors_host import FenceAgentUnsupported, FenceRequestInvalid
from vdsm_mp.api.host import FenceNode, FenceResult
from vdsm_mp.api.internal import GetPeerLiveness
from vdsm_mp.api.ports import Background, Caller
from vdsm_mp.api.verb import handles
from vdsm_mp.common import command, log
from vdsm_mp.common.command import CommandFailed, CommandOverdue
from vdsm_mp.common.errors import Error

logger = log.named(__name__)

AGENTS_DIR = "/usr/sbin"
#: An agent that has not told the state by then will not; the engine asks another proxy.
STATUS_S = 60.0
#: Switching off, waiting until it is off, and switching on again.
POWER_S = 300.0
#: Agents that switch; the others wait. The beats of the house run in the same pool: a rack without power, whose agents
#: all hang, must not take every thread from them.
AT_ONCE = 10
_WAITING_MOST = 100
_AGENT = re.compile(r"\A[a-z][a-z0-9_]*\Z")
_OPTION = re.compile(r"\A[A-Za-z_][A-Za-z0-9_-]*(=[^\x00-\x1f\x7f]*)?\Z")
_ACTIONS = ("status", "on", "off", "reboot")
#: What is said by other fields of the request, and what would make an agent write files or log passwords.
_RESERVED = re.compile(
    r"\A(action|option|agent|ipaddr|ip|login|username|passwd|password|.*script.*|debug.*|verbose.*)\Z"
)
#: Options whose value is nobody's business.
_SECRET = re.compile(r"pass|secret|community|key|token|cookie|pwd|priv|identity", re.IGNORECASE)
_TOLD_MOST = 500


class Fencing:
    def __init__(self, call: Caller, background: Background, agents_dir: str = AGENTS_DIR) -> None:
        self._call = call
        self._background = background
        self._agents_dir = Path(agents_dir)
        self._lock = threading.Lock()
        self._running = 0
        #: (name, target, what to do)
        self._waiting: deque[tuple[str, str, Callable[[], None]]] = deque()

    def fence(self, ask: FenceNode) -> FenceResult:
        """Raises: FenceAgentUnsupported, FenceRequestInvalid, Busy; nothing was done then."""
        program, text = self._program(ask.agent), request(ask)
        if ask.action == "status":
            return FenceResult(power=self._status(program, text))
        if ask.action != "on" and self._is_alive(ask.policy or {}):
            return FenceResult(operationStatus="skipped")
        # One agent at a time for each target: a reboot and an off at once leave nobody knows what.
        name = f"fence {ask.addr} {ask.action}"
        self._begin(name, f"fence:{ask.addr}:{ask.port}", partial(self._power, name, program, text))
        return FenceResult(operationStatus="initiated")

    def _begin(self, name: str, target: str, switch: Callable[[], None]) -> None:
        """Now, or when one of those that run is over. Raises: Busy."""
        with self._lock:
            if self._running >= AT_ONCE:
                if len(self._waiting) >= _WAITING_MOST:
                    raise Busy("fencing")
                self._waiting.append((name, target, switch))
                return
            self._running += 1
        self._start(name, target, switch)

    def _start(self, name: str, target: str, switch: Callable[[], None]) -> None:
        try:
            self._background.start(name, partial(self._turn, switch), key=target)
        except Busy:
            self._over()
            raise

    def _turn(self, switch: Callable[[], None]) -> None:
        try:
            switch()
        finally:
            self._over()

    def _over(self) -> None:
        """One less runs: whoever waits longest is next."""
        while True:
            with self._lock:
                if not self._waiting:
                    self._running -= 1
                    return
                name, target, switch = self._waiting.popleft()
            try:
                self._background.start(name, partial(self._turn, switch), key=target)
            except Busy as error:
                logger.error("%s is not done: %s", name, error)
            else:
                return

    def _program(self, agent: str) -> str:
        path = self._agents_dir / f"fence_{agent}"
        if not _AGENT.match(agent) or not os.access(path, os.X_OK):
            raise FenceAgentUnsupported(agent)
        return str(path)

    def _status(self, program: str, text: bytes) -> str:
        """Exit status 0 is on, 2 is off, anything else nobody knows."""
        try:
            done = command.run([program], deadline_s=STATUS_S, stdin=text, accept=range(256), end_group=True)
        except (CommandFailed, CommandOverdue) as error:
            logger.warning("%s", without_secrets(str(error), text))
            return "unknown"
        power = {0: "on", 2: "off"}.get(done.status, "unknown")
        if power == "unknown":
            said = without_secrets(done.err.decode("utf-8", "replace"), text)
            logger.warning("%s does not know the state, status %d: %s", program, done.status, said)
        return power

    def _power(self, name: str, program: str, text: bytes) -> None:
        try:
            command.run([program], deadline_s=POWER_S, stdin=text, end_group=True)
        except (CommandFailed, CommandOverdue) as error:
            logger.error("%s: %s", name, without_secrets(str(error), text))
            return
        logger.warning("%s done", name)

    def _is_alive(self, policy: Mapping[str, Any]) -> bool:
        """Does the target still renew its leases on a domain? Unknown is no: the engine decided to fence."""
        host_ids = policy.get("storageDomainHostIdMap") or {}
        if not host_ids:
            return False
        try:
            wanted = {str(sd_id): int(host_id) for sd_id, host_id in host_ids.items()}
        except (AttributeError, TypeError, ValueError) as error:
            raise FenceRequestInvalid("storageDomainHostIdMap is not a map of host ids") from error
        try:
            found: dict[str, str] = self._call.ask(GetPeerLiveness(host_ids=wanted), deadline_s=10)
        except Error as error:
            logger.warning("what the storage says of the target is not known: %s", error)
            return False
        return "live" in found.values()


def request(ask: FenceNode) -> bytes:
    """What the agent reads. Raises: FenceRequestInvalid."""
    if ask.action not in _ACTIONS:
        raise FenceRequestInvalid(f"action {ask.action!r}")
    lines = [f"agent=fence_{ask.agent}", f"ipaddr={ask.addr}", f"login={ask.username}", f"action={ask.action}"]
    lines.append(f"passwd={ask.password}")
    options = [line.strip() for line in (ask.options or "").splitlines() if line.strip()]
    names = {option.partition("=")[0] for option in options}
    if ask.port not in (0, "", "0") and not names & {"port", "ipport"}:
        lines.append(f"ipport={ask.port}")
    if ask.secure:
        lines.append("secure=yes")
    for line in (*lines, *options):
        if not _OPTION.match(line):
            raise FenceRequestInvalid(f"{line.partition('=')[0]!r} has a form that is not allowed")
    for name in names:
        if _RESERVED.match(name.lower()):
            raise FenceRequestInvalid(f"option {name!r} is not allowed")
    return ("\n".join([*lines, *options]) + "\n").encode()


def without_secrets(said: str, told: bytes) -> str:
    """What an agent said, its end, without what must stay among those two. told: its stdin."""
    options = [line.partition("=") for line in told.decode().splitlines()]
    # A longer one may begin with a shorter one.
    for secret in sorted(
        {value for name, _, value in options if _SECRET.search(name) and value}, key=len, reverse=True
    ):
        said = said.replace(secret, "***")
    return said.strip()[-_TOLD_MOST:]


@handles(FenceNode)
def fence_node(fencing: Fencing, ask: FenceNode) -> FenceResult:
    return fencing.fence(ask)
