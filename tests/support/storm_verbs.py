# SPDX-License-Identifier: Apache-2.0
"""Verbs that exist only in a house of libvirt's test driver. Imported there alone, never by the tests."""

from vdsm_mp.api.verb import Lane, Message, verb


@verb("Storm.prepare", owner="virt", reply=list[str], lane=Lane.READ, deadline_s=60)
class PrepareStorm(Message, frozen=True, kw_only=True):
    """Make so many VMs behind the room's back; their ids."""

    vms: int


@verb("Storm.raise", owner="virt", reply=list[tuple[str, str, float]], lane=Lane.READ, deadline_s=600)
class RaiseStorm(Message, frozen=True, kw_only=True):
    """Pause and resume them in turn, `events` times in all, `per_s` a second (0: as fast as it goes).

    [(vm_id, the status this brings, CLOCK_MONOTONIC before libvirt was told)], in the order in which it was done.
    """

    events: int
    per_s: float = 0.0
