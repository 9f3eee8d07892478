# SPDX-License-Identifier: Apache-2.0
"""How a worker's sockets are called in the directory of the bus. No zmq, so that the master may look for them."""

#: Calls come in, events go out, and the master's one word is heard.
KINDS = ("call", "events", "house")


def name(worker: str, epoch: int, kind: str) -> str:
    """With its epoch: a new worker never binds the path of a dead or written-off one."""
    return f"{worker}.{epoch}.{kind}"


def names(worker: str, epoch: int) -> frozenset[str]:
    """All that a worker which is ready has bound."""
    return frozenset(name(worker, epoch, kind) for kind in KINDS)
