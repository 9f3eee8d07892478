# SPDX-License-Identifier: Apache-2.0
"""What sanlock knows of other hosts: asked before a host is fenced. Reads the daemon's memory only."""

import sanlock

from vdsm_mp.api.internal import GetPeerLiveness
from vdsm_mp.api.verb import handles

_WORDS = {
    sanlock.HOST_FREE: "free",
    sanlock.HOST_LIVE: "live",
    sanlock.HOST_FAIL: "fail",
    sanlock.HOST_DEAD: "dead",
    sanlock.HOST_UNKNOWN: "unknown",
}


@handles(GetPeerLiveness)
def peer_liveness(ask: GetPeerLiveness) -> dict[str, str]:
    """A domain that this host has not joined, or joined a moment ago, says "unavailable"."""
    found: dict[str, str] = {}
    for sd_id, host_id in ask.host_ids.items():
        try:
            hosts = sanlock.get_hosts(sd_id.encode(), host_id)
        except sanlock.SanlockException:
            found[sd_id] = "unavailable"
        else:
            found[sd_id] = _WORDS.get(hosts[0]["flags"], "unknown") if hosts else "free"
    return found
