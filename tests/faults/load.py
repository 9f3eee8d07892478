# SPDX-License-Identifier: Apache-2.0
"""Load as an engine and its like make it: many TLS clients at the public port, every question written down with an id.

Each client is a thread with a connection of its own that it opens again when it was lost. Which worker a question
needs is known (`Question.owner`), so that calls which a fault does not concern can be compared with the same calls in
quiet times. A question that no answer came for, while its connection stayed open, is silence: it stays unanswered.
"""

import random
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tests.support.load import Operation, outcome_of
from vdsm_mp.api.catalogue import VERBS
from vdsm_mp.api.errors import DeadlineExceeded
from vdsm_mp.common.errors import Error
from vdsm_mp.wire.client import Client, ConnectionLost

#: How much later than the deadline that the verb declares a client still listens, before it calls it silence.
LATE_S = 10.0
#: The outcome of a question whose connection was closed: seen by the client, and an answer of a kind.
CLOSED = "closed"


@dataclass(frozen=True, slots=True)
class Question:
    """One kind. params are made for each time."""

    verb: str
    weight: int
    params: Callable[[random.Random], Mapping[str, Any]] = lambda _: {}

    @property
    def owner(self) -> str:
        """The worker that answers."""
        return VERBS[self.verb].owner


class Load:
    """`callers` clients that ask about `per_s` questions a second altogether, until `stop`. Seeded."""

    def __init__(
        self, connect: Callable[[], Client], questions: Sequence[Question], *, callers: int, per_s: float, seed: int
    ) -> None:
        self.history: list[Operation] = []
        self.reconnects = 0
        self._connect = connect
        self._questions = list(questions)
        self._weights = [question.weight for question in questions]
        self._each_per_s = per_s / callers
        self._stop = threading.Event()
        self._crashed: list[BaseException] = []
        self._threads = [
            threading.Thread(target=self._live, args=(number, random.Random(f"{seed}-{number}")), daemon=True)
            for number in range(callers)
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Ask nothing new, wait for the last answers. Raises what a client stumbled over, if it was our own fault."""
        self._stop.set()
        for thread in self._threads:
            thread.join(120)
        if self._crashed:
            raise self._crashed[0]

    def _live(self, caller: int, rng: random.Random) -> None:
        client: Client | None = None
        number = 0
        try:
            while not self._stop.wait(rng.expovariate(self._each_per_s)):
                if client is None and (client := self._open()) is None:
                    continue
                number += 1
                if not self._ask(client, f"{caller}-{number}", rng):
                    client.close()
                    client = None
                    self.reconnects += 1
        except BaseException as error:
            self._crashed.append(error)
        finally:
            if client is not None:
                client.close()

    def _open(self) -> Client | None:
        try:
            return self._connect()
        except (ConnectionLost, DeadlineExceeded):
            return None  # nothing was asked

    def _ask(self, client: Client, name: str, rng: random.Random) -> bool:
        """False when the connection is of no use any more."""
        (question,) = rng.choices(self._questions, self._weights)
        params = question.params(rng)
        deadline_s = VERBS[question.verb].deadline_s
        operation = Operation(name, question.verb, False, time.monotonic(), deadline_s)
        self.history.append(operation)
        try:
            value: object = client.call(question.verb, params, timeout_s=deadline_s + LATE_S)
            outcome = "done"
        except ConnectionLost as error:
            value, outcome = str(error), CLOSED
            if "silent" in str(error):
                return False
        except DeadlineExceeded:
            return False  # our own clock: nobody answered
        except Error as error:
            value, outcome = (error.code, str(error)), outcome_of(error)
        operation.answers.append((time.monotonic(), outcome, value if outcome != "done" else None))
        return outcome != CLOSED
