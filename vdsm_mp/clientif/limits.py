# SPDX-License-Identifier: Apache-2.0
"""How much a client, and all of them together, may take. Every number that bounds the door, with its reason."""

import resource

import msgspec
from msgspec.structs import replace

MIB = 1024 * 1024


class Limits(msgspec.Struct, frozen=True):
    """Seconds end in `_s`, octets in `_bytes`; the rest are counts."""

    # An engine holds two connections, a migrating host one, local tools one each.
    connections: int = 1024
    connections_per_address: int = 256
    # Of those that have not shown a certificate yet. One more pushes out the oldest: an honest handshake takes
    # milliseconds, so those who hold out longest are those who want to keep others from coming in.
    arrivals: int = 512
    # What was sent and nobody acknowledges: the client's machine is gone, or its road. The kernel alone would try for a
    # quarter of an hour, and keep what the client has not read.
    vanished_s: float = 120.0
    # From accept to the end of the handshake, and from there to the first five octets.
    handshake_s: float = 10.0
    detect_s: float = 10.0
    # Beyond these the connection is not read until answers have gone out: back-pressure, not errors.
    # Enough that one stuck worker cannot keep a connection from being read.
    calls_per_connection: int = 512
    calls: int = 2048
    # With one worker at once, which is less than the bus would refuse; the rest wait their turn so long.
    calls_per_worker: int = 192
    turn_s: float = 10.0
    unread_soft_bytes: int = 1 * MIB
    # Whose answers stand still so long may be writing, and wait for us to read: the one thread of the engine, for all
    # its hosts, writes a whole request before it reads on. Then twice as much may be unread, up to the hard limit.
    unread_still_s: float = 0.5
    # Beyond these the client does not read at all and is dropped. One larger frame alone may always be sent.
    unread_hard_bytes: int = 16 * MIB
    unread_all_bytes: int = 64 * MIB
    # Of large frames that have begun to arrive, all together: four of the largest. Each might never end.
    unfinished_all_bytes: int = 64 * MIB
    subscriptions_per_connection: int = 64
    # Frames of one connection handled before the others have their turn.
    frames_per_turn: int = 16
    # How long a call waits for a worker that is just being restarted before the client hears code 99.
    worker_back_s: float = 0.9
    # Less than the worker's grace, so that clients are told (RST) before it ends.
    drain_s: float = 2.5
    # The end of that, in which no more calls are taken.
    last_calls_s: float = 0.5

    def of_this_process(self) -> "Limits":
        """The same with no more connections than there can be descriptors; raises that number where it may."""
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        wanted = self.connections + self.arrivals + _OTHER_DESCRIPTORS
        if soft < wanted:
            soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        if soft == resource.RLIM_INFINITY or soft >= wanted:
            return self
        left = max(32, soft - _OTHER_DESCRIPTORS)
        return replace(self, connections=left * 2 // 3, arrivals=left // 3)


#: The bus, the log, the listener, and connections that are just being turned away.
_OTHER_DESCRIPTORS = 256
#: Between two frames to an engine: its reader loses track of frames that follow each other faster.
ENGINE_GAP_S = 0.005
#: The shortest heart-beat interval offered to an engine, which shortens its own limit at every reconnect when a server
#: accepts less, until any hiccup drops the host.
ENGINE_BEAT_FLOOR_MS = 15000
#: The same for everybody else. The Python client does not look at what was offered: it closes when it hears nothing for
#: as long as it had in mind, which was 5 s in older ones.
BEAT_FLOOR_MS = 1000
#: A beat goes out a little before it is due.
HEARTBEAT_EARLY = 0.85
