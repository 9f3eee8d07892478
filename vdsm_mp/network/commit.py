# SPDX-License-Identifier: Apache-2.0
"""Host.setupNetworks: one change at a time, as a transaction with confirmation and rollback.

Owns the running configuration. Every step's undo is on disk before the step runs, and so is what was in force before:
the end of the journal is the moment from which the new networks count. A worker that is killed before it brings back
the old ones when it starts again, one that is killed after it finds the new ones. A change that asks for a connectivity
check is undone unless somebody confirms in time (Host.confirmConnectivity, or Host.ping from outside). Undoing waits
for root's side that has died; while that cannot be started, the journal stays, and nothing else is begun.
"""

import contextlib
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from vdsm_mp.api.errors import Busy, RootHelperGone
from vdsm_mp.api.errors_network import BadNetworkParameters, ConnectivityLost, NetworkStepFailed
from vdsm_mp.api.ports import Root
from vdsm_mp.common import log
from vdsm_mp.common.clock import mono_s
from vdsm_mp.common.errors import Error
from vdsm_mp.network.details import complete
from vdsm_mp.network.persist import Store
from vdsm_mp.network.plan import plan
from vdsm_mp.network.state import State
from vdsm_mp.network.steps import Operation, Step
from vdsm_mp.network.wanted import Bond, Config, changed
from vdsm_mp.network.watch import Watch

logger = log.named(__name__)

#: What the engine waits when it does not say.
CONFIRM_S = 120.0
_CONFIRM_MOST_S = 600.0
#: dhclient may wait for an answer.
_STEP_S = 60.0
_TURN_S = 5.0
_LOOK_S = 0.2
#: It is started again a second after its death at the latest, and sudo may be slow on a busy host.
_ROOT_BACK_S = 10.0


class Networks:
    def __init__(self, root: Root, watch: Watch, store: Store, draining: Callable[[], bool] = lambda: False) -> None:
        self._root = root
        self._draining = draining
        self._watch = watch
        self._store = store
        self._turn = threading.Lock()
        self._confirmed = threading.Event()
        self._config = Config()
        self._known = False
        self._unsettled = False

    @property
    def unsettled(self) -> bool:
        """Is there a change that could not be undone, because root's side is gone?"""
        return self._unsettled

    @property
    def changing(self) -> bool:
        """Is a change under way? Then what is there is neither the old nor the new."""
        return self._turn.locked()

    @property
    def config(self) -> Config:
        """What is ours now."""
        return self._config

    @property
    def nics(self) -> set[str]:
        """Those that our networks and bonds are on."""
        bonds = self._config.bonds.values()
        return {net.base for net in self._config.networks.values()} | {nic for bond in bonds for nic in bond.nics}

    def start(self) -> bool:
        """Undo what a killed predecessor left half done. True: this is a new boot, nothing of ours is there yet."""
        self._store.open()
        journal = self._store.journal()
        if journal is not None:
            logger.warning("a network change was cut short, %d steps are undone", len(journal.undo))
            self._back(journal.undo, journal.before)
        running = self._store.running()
        if running is not None:
            self._config, self._known = running, True
        return running is None

    def safe(self) -> Config:
        """What outlives a reboot."""
        return self._store.safe() or Config()

    def setup(self, networks: Mapping[str, Any], bondings: Mapping[str, Any], options: Mapping[str, Any]) -> None:
        """Raises: the network errors. Whatever is raised, the network is as it was before, as far as it can be."""
        seconds = _confirm_seconds(options)
        with self._alone():
            state = self.state()
            old = _adopt(state, self._config, bondings)
            wanted = changed(old, networks, bondings)
            commit = _true(options.get("commitOnSuccess", False))
            self._change(plan(state, old, wanted, {*networks, *bondings}), wanted, seconds, commit=commit)

    def apply(self, wanted: Config, asked: Iterable[str], state: State | None = None) -> None:
        """Make `asked` as `wanted` says, unasked by an engine: after a boot, or because a NIC came back.

        Raises: the network errors, Busy; then the network is as it was before.
        """
        with self._alone():
            state = state if state is not None else self.state()
            # Nothing of them is in force, so nothing is kept: a DHCP client must be started.
            names = set(asked)
            old = Config(
                networks={name: net for name, net in self._config.networks.items() if name not in names},
                bonds={n: bond for n, bond in self._config.bonds.items() if n not in names or n in state.links},
            )
            self._change(plan(state, old, wanted, names, strict=False), wanted, None)

    def own(self, config: Config) -> None:
        """These are ours, whether or not they could be brought up."""
        with self._alone(settled=False):
            self._store.keep_running(config)
            self._config, self._known = config, True

    def settle(self) -> None:
        """Undo now what could not be undone. Raises: Busy, NetworkStepFailed."""
        with self._alone():
            pass

    @contextlib.contextmanager
    def _alone(self, *, settled: bool = True) -> Iterator[None]:
        if not self._turn.acquire(timeout=_TURN_S):
            raise Busy("the network (another change is under way)")
        try:
            if settled:
                self._settle()
            yield
        finally:
            self._turn.release()

    def state(self) -> State:
        """Everything that plans and comparisons look at. Raises: CommandFailed, CommandOverdue."""
        return complete(self._watch.now())

    def confirm(self) -> None:
        """Somebody outside still reaches us."""
        self._confirmed.set()

    def keep_safe(self) -> None:
        """The running networks outlive a reboot from now on. Raises: Busy."""
        with self._alone(settled=False):
            self._store.keep_safe(self._config)

    def do_alone(self, operations: Iterable[Operation]) -> None:
        """While no change is under way. Raises: Busy, what ports.Root says."""
        with self._alone():
            for operation in operations:
                self.do(operation)

    def do(self, operation: Operation) -> None:
        """One of root's operations. Raises: what ports.Root says."""
        name, params = operation
        self._root.do(name, deadline_s=_STEP_S, **params)

    def _settle(self) -> None:
        journal = self._store.journal() if self._unsettled else None
        if journal is not None:
            self._back(journal.undo, journal.before)
            if self._unsettled:
                raise NetworkStepFailed("the change before is not undone yet, root's side cannot be started")
            logger.warning("the change that could not be undone is")
        self._unsettled = False

    def _back(self, undo: Iterable[Operation], before: Config | None) -> None:
        self._unsettled = not self._undo(undo)
        self._store.keep_running(before)
        if not self._unsettled:
            self._store.drop_journal()

    def _change(self, steps: list[Step], wanted: Config, confirm_s: float | None, *, commit: bool = False) -> None:
        before, undo = self._config if self._known else None, list[Operation]()
        try:
            self._store.begin_journal(before)
            for step in steps:
                self._store.append_journal(step.undo)
                undo = [*step.undo, *undo]
                self.do(step.do)
            if confirm_s is not None:
                self._wait(confirm_s)
            self._store.keep_running(wanted)
            if commit:  # a change that cannot be kept as it was asked for has failed
                self._store.keep_safe(wanted)
        except (Error, OSError) as error:
            self._back(undo, before)
            if isinstance(error, ConnectivityLost):
                raise
            raise NetworkStepFailed(str(error)) from error
        self._store.drop_journal()
        self._config, self._known = wanted, True

    def _wait(self, seconds: float) -> None:
        # What came while the steps ran may have come by the old way.
        self._confirmed.clear()
        began = mono_s()
        while not self._confirmed.wait(_LOOK_S):
            waited_s = mono_s() - began
            if waited_s >= seconds:
                raise ConnectivityLost(seconds)
            if self._draining():  # nobody can confirm any more, and root still answers
                raise ConnectivityLost(waited_s, stopping=True)
        logger.info("confirmed after %.1f s that the host is still reached", mono_s() - began)

    def _undo(self, operations: Iterable[Operation]) -> bool:
        """False: not all of it, root's side is gone."""
        until = mono_s() + _ROOT_BACK_S
        for operation in operations:
            try:
                self._do_patiently(operation, until)
            except RootHelperGone as error:
                logger.error("undoing: %s: %s", operation, error)
                return False
            except Error as error:
                # The step itself may have failed before it changed anything; the other undos matter all the more.
                logger.warning("undoing: %s: %s", operation, error)
        return True

    def _do_patiently(self, operation: Operation, until: float) -> None:
        """Undoing twice is as good as once. Raises: RootHelperGone after `until`, and what else ports.Root says."""
        while True:
            try:
                self.do(operation)
            except RootHelperGone:
                if mono_s() >= until:
                    raise
                time.sleep(_LOOK_S)
            else:
                return


def _adopt(state: State, config: Config, bondings: Mapping[str, Any]) -> Config:
    """`config` with those bonds of others that are to be removed: an administrator may say that through an engine."""
    bonds = dict(config.bonds)
    for name, attributes in bondings.items():
        link = state.links.get(name)
        removed = isinstance(attributes, Mapping) and _true(attributes.get("remove", False))
        if removed and name not in bonds and link is not None and link.kind == "bond":
            bonds[name] = Bond(name=name, nics=tuple(state.ports(name)), options=link.bond_options)
    return Config(networks=config.networks, bonds=bonds)


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
