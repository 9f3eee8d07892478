# SPDX-License-Identifier: Apache-2.0
"""Public verbs of two workers that exist only in a house under load. Imported there alone, never by the tests."""

from vdsm_mp.api.verb import Lane, Message, verb


@verb("Load.look", owner="back", reply=str, lane=Lane.READ, safe=True, deadline_s=10)
class Look(Message, frozen=True, kw_only=True):
    """The same text back; may be asked twice."""

    text: str


@verb("Load.change", owner="back", reply=str, lane=Lane.READ, deadline_s=10)
class Change(Message, frozen=True, kw_only=True):
    """Something that must not be done twice."""

    text: str


@verb("Load.turn", owner="back", reply=str, lane=Lane.KEYED, key="thing", deadline_s=10)
class Turn(Message, frozen=True, kw_only=True):
    """The same, one at a time per thing."""

    text: str
    thing: str


@verb("Load.through", owner="front", reply=str, lane=Lane.READ, deadline_s=10)
class Through(Message, frozen=True, kw_only=True):
    """The same, asked of `back` by `front` while it serves its own caller."""

    text: str
