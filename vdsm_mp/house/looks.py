# SPDX-License-Identifier: Apache-2.0
"""What operators have asked workers for and not been told yet: stacks, a profile, a trace. Nobody waits here."""

from collections.abc import Callable

from vdsm_mp.house.members import Worker
from vdsm_mp.house.notes import Notes
from vdsm_mp.ipc import control

#: Called with the worker's answer, or with None when it died first.
Done = Callable[[str | None], None]


class Looks:
    def __init__(self, notes: Notes) -> None:
        self._notes = notes
        self._asked: dict[int, tuple[str, Done]] = {}

    def ask(self, number: int, worker: Worker, kind: str, seconds: float, done: Done) -> str:
        """kind: "stacks", "trace" or "profile". Returns "" or why `done` will not be called."""
        name = worker.spec.name
        self._asked[number] = (name, done)
        if not self._notes.tell(worker, control.Look(id=number, kind=kind, seconds=seconds)):
            del self._asked[number]
            return f"{name} does not listen"
        return ""

    def answered(self, number: int, text: str) -> None:
        """Late answers, to somebody who was told that the worker had died, are nobody's."""
        if (asked := self._asked.pop(number, None)) is not None:
            asked[1](text)

    def died(self, worker: str) -> None:
        for number in [n for n, (name, _) in self._asked.items() if name == worker]:
            self._asked.pop(number)[1](None)
