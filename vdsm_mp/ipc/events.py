# SPDX-License-Identifier: Apache-2.0
"""Events between workers: numbered per publisher, epoch and topic, so that a loss is always noticed.

PUB/SUB may drop (a slow subscriber, one that joined late, a restart) and says nothing. So the publisher
(`ipc/outlet.py`) numbers its events and, on every new subscription and now and then, sends a mark with the newest
number. A subscriber (`ipc/inlet.py`) that sees a gap or a new epoch asks the publisher for the last values, hands them
to the subscriber's function as if they had just happened, and then calls `resync`. All queues are bounded; a full one
is one more gap. Here is what both sides have to agree on.
"""

import msgspec

#: Ends a topic, so that no topic is the beginning of another one.
END = b"\0"


class LastValues(msgspec.Struct, array_like=True, frozen=True):
    """The answer to `last`: the newest value per key, oldest first, and the number they are true for."""

    number: int
    values: list[msgspec.Raw]
