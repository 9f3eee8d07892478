# SPDX-License-Identifier: Apache-2.0
"""What one client listens to, and with it where its replies go: to the id of its own subscription."""

from collections.abc import Collection, Mapping

from vdsm_mp.clientif.subscriptions import Broker, Listener
from vdsm_mp.common import log
from vdsm_mp.wire import stomp

logger = log.named(__name__)

#: Room in an outgoing header block of 1024 octets for a destination and a subscription id together.
_MAX_NAMES = 700


class Ears:
    """The subscriptions of one session, which the broker knows as well. name: the client's. most: how many at once.

    The session is given to each method that needs it and not kept, so that it is freed as soon as it is closed.
    """

    def __init__(self, broker: Broker, name: str, most: int) -> None:
        self._broker = broker
        self._name = name
        self._most = most
        #: {subscription id: destination}
        self._subscriptions: dict[str, str] = {}
        #: {reply-to: everything of a MESSAGE before content-length, None = nobody listens there}
        self._heads: dict[str, bytes | None] = {}

    @property
    def destinations(self) -> Collection[str]:
        return self._subscriptions.values()

    def subscribe(self, headers: Mapping[str, str], listener: Listener) -> str:
        """Of a SUBSCRIBE. Returns "" or what the client is told instead."""
        destination, subscription = headers.get("destination"), headers.get("id")
        if not destination or not subscription:
            return "Missing destination or subscription id header"
        if subscription in self._subscriptions:
            return "Subscription id already exists"
        if len(stomp.escape(destination).encode()) + len(stomp.escape(subscription).encode()) > _MAX_NAMES:
            return "Destination and subscription id are too long"
        if len(self._subscriptions) >= self._most:
            return "Too many subscriptions"
        self._subscriptions[subscription] = destination
        self._heads.clear()
        self._broker.add(destination, listener, subscription)
        return ""

    def unsubscribe(self, headers: Mapping[str, str], listener: Listener) -> str:
        """Of an UNSUBSCRIBE; an unknown id is fine. Returns "" or what the client is told instead."""
        subscription = headers.get("id")
        if not subscription:
            return "Missing id header"
        destination = self._subscriptions.pop(subscription, None)
        if destination is not None:
            self._heads.clear()
            self._broker.remove(destination, listener, subscription)
        return ""

    def reply_head(self, reply_to: str, *, engine: bool) -> bytes | None:
        """How a reply begins, kept for the next one; None = the client does not listen where it wants its replies."""
        try:
            return self._heads[reply_to]
        except KeyError:
            if len(self._heads) >= self._most:
                self._heads.clear()
            head = self._heads[reply_to] = self._head_of(reply_to, engine)
            return head

    def _head_of(self, reply_to: str, engine: bool) -> bytes | None:
        if not reply_to:
            return None
        for subscription, destination in self._subscriptions.items():
            if destination == reply_to:
                return message_head(destination, subscription)
        if engine and len(stomp.escape(reply_to)) < _MAX_NAMES // 2:
            # In clear text the engine can lose one of its SUBSCRIBE frames; it finds the call by its id anyway.
            return message_head(reply_to, reply_to)
        logger.warning("%s does not listen where it wants its replies", self._name)
        return None

    def close(self, listener: Listener) -> None:
        for subscription, destination in self._subscriptions.items():
            self._broker.remove(destination, listener, subscription)
        self._subscriptions.clear()


def message_head(destination: str, subscription: str) -> bytes:
    """What a MESSAGE of ours begins with; `stomp.with_body` adds the rest."""
    return stomp.head(
        "MESSAGE",
        (("destination", destination), ("content-type", "application/json"), ("subscription", subscription)),
    )
