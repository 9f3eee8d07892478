# SPDX-License-Identifier: Apache-2.0
"""How much a client, and all of them together, may take. Every number that bounds the door, with its reason."""

from dataclasses import dataclass

MIB = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Limits:
    """Seconds end in `_s`, octets in `_bytes`; the rest are counts."""

    # An engine holds two connections, a migrating host one, local tools one each.
    connections: int = 1024
    connections_per_address: int = 256
    # From accept to the end of the handshake, and from there to the first five octets.
    handshake_s: float = 10.0
    detect_s: float = 10.0
    # Beyond these the connection is not read until answers have gone out: back-pressure, not errors.
    calls_per_connection: int = 256
    calls: int = 1024
    unread_soft_bytes: int = 1 * MIB
    # Beyond these the client does not read at all and is dropped. One larger frame alone may always be sent.
    unread_hard_bytes: int = 16 * MIB
    unread_all_bytes: int = 128 * MIB
    subscriptions_per_connection: int = 64
    # Frames of one connection handled before the others have their turn.
    frames_per_turn: int = 16
    # How long a call waits for a worker that is just being restarted before the client hears code 99.
    worker_back_s: float = 0.9
    # Less than the worker's grace, so that clients are told (RST) before it ends.
    drain_s: float = 2.5


#: Between two frames to an engine: its reader loses track of frames that follow each other faster.
ENGINE_GAP_S = 0.005
#: The shortest heart-beat interval offered. The engine shortens its own limit at every reconnect when a server
#: accepts less, until any hiccup drops the host.
HEARTBEAT_FLOOR_MS = 15000
#: A beat goes out a little before it is due.
HEARTBEAT_EARLY = 0.85
