# SPDX-License-Identifier: Apache-2.0
"""Host.setupNetworks: one change at a time, as a transaction with confirmation and rollback.

Owns the running configuration. Every step's undo is on disk before the step runs, so that a worker that is killed half
way undoes the change when it starts again. A change that asks for a connectivity check is undone unless somebody
confirms in time (Host.confirmConnectivity, or Host.ping from outside).
"""

import threading
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from vdsm_mp.api.errors import Busy
from vdsm_mp.api.errors_network import BadNetworkParameters, ConnectivityLost, NetworkStepFailed
from vdsm_mp.api.ports import Root
from vdsm_mp.common import log
from vdsm_mp.common.clock import mono_s
from vdsm_mp.common.errors import Error
from vdsm_mp.network.persist import Store
from vdsm_mp.network.plan import Operation, Step, plan
from vdsm_mp.network.wanted import Config, changed
from vdsm_mp.network.watch import Watch

logger = log.named(__name__)

#: What the engine waits when it does not say.
CONFIRM_S = 120.0
_CONFIRM_MOST_S = 600.0
#: dhclient may wait for an answer.
_STEP_S = 60.0
_TURN_S = 5.0
_LOOK_S = 0.2


class Networks:
    def __init__(self, root: Root, watch: Watch, store: Store, draining: Callable[[], bool] = lambda: False) -> None:
        self._root = root
        self._draining = draining
        self._watch = watch
        self._store = store
        self._turn = threading.Lock()
        self._confirmed = threading.Event()
        self._config = Config()
        #: What went wrong at the start, as sentences; a later success of the same takes it out.
        self._faults: dict[str, str] = {}

    def problems(self) -> list[str]:
        """What an operator should mend: networks that did not come back, without a DHCP client."""
        known = self._config.networks
        return [says for name, says in list(self._faults.items()) if name in known or not name]

    @property
    def config(self) -> Config:
        """What is ours now."""
        return self._config

    def start(self) -> None:
        """Undo what a killed predecessor left half done; after a reboot bring the safe networks back."""
        self._store.open()
        journal = self._store.journal()
        if journal is not None:
            logger.warning("a network change was cut short, %d steps are undone", len(journal.undo))
            self._undo(journal.undo)
            self._store.drop_journal()
        running = self._store.running()
        if running is not None:
            self._config = running
            self._keep_dhcp()
            return
        safe = self._store.safe()
        if safe is not None and (safe.networks or safe.bonds):
            self._restore(safe)

    def setup(self, networks: Mapping[str, Any], bondings: Mapping[str, Any], options: Mapping[str, Any]) -> None:
        """Raises: the network errors. Whatever is raised, the network is as it was before, as far as it can be."""
        seconds = _confirm_seconds(options)
        if not self._turn.acquire(timeout=_TURN_S):
            raise Busy("the network (another change is under way)")
        try:
            wanted = changed(self._config, networks, bondings)
            steps = plan(self._watch.now(), self._config, wanted)
            self._confirmed.clear()
            self._apply(steps, seconds)
            self._store.keep_running(wanted)
            self._config = wanted
            self._faults.clear()
            self._store.drop_journal()
            if _true(options.get("commitOnSuccess", False)):
                self._store.keep_safe(wanted)
        finally:
            self._turn.release()

    def confirm(self) -> None:
        """Somebody outside still reaches us."""
        self._confirmed.set()

    def keep_safe(self) -> None:
        """The running networks outlive a reboot from now on."""
        with self._turn:
            self._store.keep_safe(self._config)

    def _apply(self, steps: list[Step], confirm_s: float | None) -> None:
        undo: list[Operation] = []
        try:
            for step in steps:
                undo = [*step.undo, *undo]
                self._store.keep_journal(undo)
                self._do(step.do)
            if confirm_s is not None:
                self._wait(confirm_s)
        except Error as error:
            self._undo(undo)
            self._store.drop_journal()
            if isinstance(error, ConnectivityLost):
                raise
            raise NetworkStepFailed(str(error)) from error

    def _wait(self, seconds: float) -> None:
        began = mono_s()
        while not self._confirmed.wait(_LOOK_S):
            # Told to stop: nobody can confirm any more, and root still answers.
            if self._draining() or mono_s() - began >= seconds:
                raise ConnectivityLost(seconds)
        logger.info("confirmed after %.1f s that the host is still reached", mono_s() - began)

    def _restore(self, safe: Config) -> None:
        try:
            self._apply(plan(self._watch.now(), Config(), safe), None)
        except Error as error:
            # The rest of the agent must come up: without it nobody could repair the network from outside.
            self._faults[""] = f"the networks of before the reboot could not be restored: {error}"
            logger.error("%s", self._faults[""])
            return
        self._config = safe
        self._store.keep_running(safe)
        self._store.drop_journal()

    def _keep_dhcp(self) -> None:
        """Clients outlive us; start those that did not live on. Harmless for the others."""
        for network in self._config.networks.values():
            if network.dhcp4:
                try:
                    self._do(("dhcp-start", {"name": network.top, "routes": network.default_route}))
                except Error as error:
                    self._faults[network.name] = f"network {network.name} has no DHCP client: {error}"
                    logger.error("%s", self._faults[network.name])

    def _do(self, operation: Operation) -> None:
        name, params = operation
        self._root.do(name, deadline_s=_STEP_S, **params)

    def _undo(self, operations: Iterable[Operation]) -> None:
        for operation in operations:
            try:
                self._do(operation)
            except Error as error:
                # The step itself may have failed before it changed anything; the other undos matter all the more.
                logger.warning("undoing: %s: %s", operation, error)


def _confirm_seconds(options: Mapping[str, Any]) -> float | None:
    """How long to wait for a confirmation, None = not at all."""
    if not _true(options.get("connectivityCheck", False)):
        return None
    try:
        seconds = float(options.get("connectivityTimeout") or CONFIRM_S)
    except (TypeError, ValueError):
        seconds = 0.0
    if not 0 < seconds <= _CONFIRM_MOST_S:
        raise BadNetworkParameters(f"connectivityTimeout {options.get('connectivityTimeout')!r}")
    return seconds


def _true(value: Any) -> bool:
    return value if isinstance(value, bool) else str(value).lower() in ("true", "yes", "1")
