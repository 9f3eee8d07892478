# SPDX-License-Identifier: Apache-2.0
"""The network room in a test's namespace. Does what the test writes, a JSON line each: [method, arguments] -> answer.

    python -m tests.support.netns_worker PLACE MOMENT

Dies by its own SIGKILL at the MOMENT (0 = never): after a step of root or after a write to its files.
"""

import json
import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from vdsm_mp.common.errors import Error
from vdsm_mp.common.options import Vars
from vdsm_mp.network import caps, commit, stats
from vdsm_mp.network.commit import Networks
from vdsm_mp.network.mirrors import Mirrors
from vdsm_mp.network.neighbours import Neighbours
from vdsm_mp.network.persist import Store
from vdsm_mp.network.upkeep import Upkeep
from vdsm_mp.network.watch import Watch
from vdsm_mp.priv.call import SudoRoot


class Moments:
    """Counts them; at the one it was told, death comes as from outside."""

    def __init__(self, last: int) -> None:
        self._last = last
        self._passed = 0

    def dying(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def run(*arguments: Any, **named: Any) -> Any:
            try:
                return function(*arguments, **named)
            finally:
                self._pass()

        return run

    def _pass(self) -> None:
        self._passed += 1
        if self._passed == self._last:
            os.kill(os.getpid(), signal.SIGKILL)


class Worker:
    def __init__(self, place: Path, moments: Moments) -> None:
        self.root = SudoRoot("network", str(place / "libexec"))
        store = Store(str(place / "run"), str(place / "state"))
        self.root.do = moments.dying(self.root.do)  # type: ignore[method-assign]
        for word in ("begin_journal", "append_journal", "drop_journal", "keep_running", "keep_safe"):
            setattr(store, word, moments.dying(getattr(store, word)))
        self.watch = Watch()
        self.watch.open()
        self.draining = False
        self.networks = Networks(self.root, self.watch, store, lambda: self.draining)
        self.mirrors = Mirrors(self.root)
        self._closed = threading.Event()
        self.time = 1000.0
        self.upkeep = Upkeep(self.networks, lambda: self.time)
        self.upkeep.start()

    def setup(self, nets: dict[str, Any], bonds: dict[str, Any], options: dict[str, Any]) -> None:
        self.networks.setup(nets, bonds, options)

    def confirm_from_now_on(self) -> None:
        """Five times a second, as an engine that polls; what comes before the change is made does not count."""

        def confirm() -> None:
            while not self._closed.wait(0.2):
                self.networks.confirm()

        threading.Thread(target=confirm, daemon=True).start()

    def confirm_until_it_waits(self) -> None:
        """With each step, as an engine that is still reached the old way."""
        do = self.root.do

        def confirming(*arguments: Any, **named: Any) -> Any:
            self.networks.confirm()
            return do(*arguments, **named)

        self.root.do = confirming  # type: ignore[method-assign]

    def drain(self) -> None:
        """As if the agent had been told to stop."""
        self.draining = True

    def impatient(self) -> None:
        """Undo without long waits for root's side that is gone."""
        commit._ROOT_BACK_S = 0.5

    def facts(self) -> dict[str, Any]:
        return caps.facts(self.watch.now(), self.networks.config, Vars(), [])

    def counters(self) -> dict[str, Any]:
        return stats.counters(self.watch.now(), Vars(), stats.read_table())

    def lldp(self, nics: list[str], listen_s: int) -> dict[str, Any]:
        return Neighbours(self.root, enabled=True, listen_s=listen_s).tell(self.watch.now(), nics)

    def mirror(self, cards: dict[str, list[str]]) -> dict[str, str]:
        return self.mirrors.want(self.watch.now(), cards)

    def safe(self) -> None:
        self.networks.keep_safe()

    def look(self) -> list[str]:
        """One beat, a minute later than the last; what an operator is told then."""
        self.time += 60
        self.upkeep.look(self.watch.now())
        self.mirrors.look(self.watch.now())
        return [*self.upkeep.problems(), *self.mirrors.problems()]

    def seen(self) -> list[Any]:
        """All that a change may touch, as one value."""
        state = self.networks.state()
        links = {
            name: [link.master, sorted(link.addresses), link.mtu, link.up, link.options.get("stp_state")]
            for name, link in state.links.items()
        }
        sources = {address: [source.device, source.gateway] for address, source in state.sources.items()}
        gateways = {device: found for device, found in state.gateways.items() if found}
        config = sorted(self.networks.config.networks)
        return [links, gateways, sources, dict(state.ipv6), list(state.nameservers), config]

    def close(self) -> None:
        self._closed.set()
        self.root.close()
        self.watch.close()


def main() -> None:
    worker = Worker(Path(sys.argv[1]), Moments(int(sys.argv[2])))
    print(json.dumps("started"), flush=True)
    for line in sys.stdin:
        name, arguments = json.loads(line)
        answer: dict[str, Any]
        try:
            answer = {"result": getattr(worker, name)(*arguments)}
        except Error as error:
            answer = {"error": type(error).__name__, "code": error.code, "message": str(error)}
        print(json.dumps(answer), flush=True)
    worker.close()


if __name__ == "__main__":
    main()
