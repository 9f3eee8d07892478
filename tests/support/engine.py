# SPDX-License-Identifier: Apache-2.0
"""An engine for tests: asks through the public port, and judges every answer and every event as the engine reads it.

    engine = Engine(house.client())
    sequences.activate_host(engine.ask)

`asked` counts the verbs, so that a test can say which of them were judged.
"""

from collections import Counter
from typing import Any

from demonstration.sequences import Refused
from tests.support import decode
from vdsm_mp.api.errors import RemoteError
from vdsm_mp.wire.client import Client


class Engine:
    """One connection that is subscribed to events."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.asked: Counter[str] = Counter()
        client.subscribe()

    def ask(self, verb: str, /, **params: Any) -> Any:
        """The result, after it was judged. Raises Refused, Undecodable."""
        try:
            result = self.client.call(verb, params, timeout_s=120)
        except RemoteError as error:
            raise Refused(verb, error.code, str(error)) from error
        self.asked[verb] += 1
        check = decode.CHECKS.get(verb)
        return check(result) if check is not None else result

    def statuses(self, vm_id: str, *, until: str, within_s: float = 15) -> list[str]:
        """Statuses of a VM in the events that have come when one tells this status; each event is judged."""
        found: list[str] = []
        for event in self.client.events(timeout_s=within_s):
            if event.method == f"|virt|VM_status|{vm_id}":
                decode.check_vm_event(dict(event.params))
                found.append(event.params[vm_id]["status"])
                if found[-1] == until:
                    return found
        raise AssertionError(f"{until} was not told within {within_s} s, but {found}")
