# SPDX-License-Identifier: Apache-2.0
"""Who listens to what: a map of destinations to sessions, our events as VDSM's messages, and the small broker that
passes what one client sends to others.

Requests are not passed on, although VDSM does: whoever subscribed to the request queue would read every password.
"""

from typing import Protocol

import msgspec

from vdsm_mp.api.event import spec_of
from vdsm_mp.api.verb import Message
from vdsm_mp.clientif.limits import MIB
from vdsm_mp.common import log
from vdsm_mp.wire import stomp

logger = log.named(__name__)

_encode = msgspec.json.Encoder().encode


#: Octets of one message for all who listen; each gets a copy.
MOST_PASSED_ON = 32 * MIB


class TooMuch(Exception):
    """A message is too large for so many."""


class Listener(Protocol):
    """A session, as the broker sees it."""

    def deliver(self, destination: str, subscription: str, body: bytes) -> None:
        """Send a message of ours."""
        ...

    def pass_on(self, subscription: str, frame: stomp.Frame) -> None:
        """Send another client's message."""
        ...


class Broker:
    """All sessions' subscriptions: {destination: {(session, id): None}}, in the order in which they were made."""

    def __init__(self, event_queue: str, since_ms: int = 0) -> None:
        self._event_queue = event_queue
        #: As `notify_time`. What is older is no news: the bus tells last values again to a door that has just begun.
        self._since_ms = since_ms
        self._listeners: dict[str, dict[tuple[Listener, str], None]] = {}

    def add(self, destination: str, listener: Listener, subscription: str) -> None:
        self._listeners.setdefault(destination, {})[listener, subscription] = None

    def remove(self, destination: str, listener: Listener, subscription: str) -> None:
        """Unknown ones are fine."""
        listeners = self._listeners.get(destination, {})
        listeners.pop((listener, subscription), None)
        if not listeners:
            self._listeners.pop(destination, None)

    def pass_on(self, destination: str, frame: stomp.Frame) -> bool:
        """Give a client's message to whoever listens to its destination or to a dotted prefix of it. False: nobody.

        Raises: TooMuch (nobody has got it).
        """
        found = [key for name in prefixes(destination) if name in self._listeners for key in self._listeners[name]]
        if len(frame.body) * len(found) > MOST_PASSED_ON:
            raise TooMuch(f"{len(frame.body)} octets are too many for {len(found)} subscriptions")
        for listener, subscription in found:
            listener.pass_on(subscription, frame)
        return bool(found)

    def publish(self, event: Message) -> None:
        """Tell a public event to whoever listens to the event queue, encoded once."""
        listeners = self._listeners.get(self._event_queue)
        if not listeners or event.notify_time < self._since_ms:  # type: ignore[attr-defined]
            return
        body = event_body(event)
        for listener, subscription in list(listeners):
            listener.deliver(self._event_queue, subscription, body)


def prefixes(destination: str) -> list[str]:
    """`a.b.c` -> `a.b.c`, `a.b`, `a`."""
    parts = destination.split(".")
    return [".".join(parts[:count]) for count in range(len(parts), 0, -1)]


def event_body(event: Message) -> bytes:
    """A public event as the notification that the engine reads. notify_time: when the state was read."""
    spec = spec_of(type(event))
    assert spec.public is not None
    fields = msgspec.structs.asdict(event)
    # `params` is part of every public event, see `api/event.py`.
    params = {**event.params(), "notify_time": fields["notify_time"]}  # type: ignore[attr-defined]
    return b'{"jsonrpc": "2.0", "method": %b, "params": %b}' % (_encode(spec.public.format(**fields)), _encode(params))
