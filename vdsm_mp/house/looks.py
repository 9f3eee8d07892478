# SPDX-License-Identifier: Apache-2.0
"""What operators have asked workers for and not been told yet: stacks, a profile, a trace. Nobody waits here."""

from collections.abc import Callable

#: Called with the worker's answer, or with None when it died first.
Done = Callable[[str | None], None]


class Looks:
    def __init__(self) -> None:
        self._asked: dict[int, tuple[str, Done]] = {}

    def ask(self, number: int, worker: str, done: Done) -> None:
        self._asked[number] = (worker, done)

    def answered(self, number: int, text: str) -> None:
        """Late answers, to somebody who was told that the worker had died, are nobody's."""
        if (asked := self._asked.pop(number, None)) is not None:
            asked[1](text)

    def withdraw(self, number: int) -> None:
        self._asked.pop(number, None)

    def died(self, worker: str) -> None:
        for number in [n for n, (name, _) in self._asked.items() if name == worker]:
            self._asked.pop(number)[1](None)
