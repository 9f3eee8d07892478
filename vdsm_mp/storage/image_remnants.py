# SPDX-License-Identifier: Apache-2.0
"""What is left of deleted images goes, however their deletion ended; by the SPM alone.

A deletion may end before its second phase: the worker dies, the role or the domain goes, a step fails. Or nobody
knows whether its first phase was carried out: a request that its I/O child died under, or that is late, may still
rename the image. So domains are swept when the role is taken, when they come (back) into sight, and a few times after
a deletion that did not end well.
"""

import logging
import threading

from vdsm_mp.api.ports import Background
from vdsm_mp.common.errors import Error
from vdsm_mp.storage.domain_file import FileDomain
from vdsm_mp.storage.image_delete import image_of_remnant, remnants_of, remove_remnant
from vdsm_mp.storage.pool import Pools
from vdsm_mp.storage.registry import Domains
from vdsm_mp.storage.resources import Resources
from vdsm_mp.storage.spm import Spm
from vdsm_mp.storage.volume_file import image_path
from vdsm_mp.tasks.progress import Progress

_log = logging.getLogger("storage.delete")

#: After a deletion that did not end well. A request is given up after seconds; what hangs in the kernel for longer
#: takes the domain out of sight, too.
_LOOKS_AFTER_S = (2.0, 10.0, 60.0, 300.0)
#: A deletion that is being refused puts its image back within its claim.
_TURN_S = 5.0


class Remnants:
    """Any thread. Nothing is durable here: the next SPM looks anyway."""

    def __init__(self, domains: Domains, pools: Pools, spm: Spm, resources: Resources, background: Background) -> None:
        self._domains = domains
        self._pools = pools
        self._spm = spm
        self._resources = resources
        self._background = background
        self._lock = threading.Lock()
        #: {sd_id: how many of the looks were made}
        self._expected: dict[str, int] = {}

    def sweep(self) -> None:
        """As the new SPM, in the background already: the domains of the pool. Ends when the role is gone."""
        state = self._pools.state
        for sd_id in sorted(state.domains) if state is not None else ():
            self._sweep(sd_id)

    def on_verdict(self, sd_id: str, valid: bool) -> None:
        """It was activated, or can be reached again."""
        if valid and self._is_spm(sd_id):
            # Not `start`: a check whose listener fails would call the domain invalid.
            self._background.later(0.0, f"sweep {sd_id}", lambda: self._sweep(sd_id), key=f"sweep {sd_id}")

    def expect(self, sd_id: str) -> None:
        """A deletion there did not end well: remnants may be there, or come."""
        with self._lock:
            under_way = sd_id in self._expected
            self._expected[sd_id] = 0
        if not under_way:
            self._look_later(sd_id)

    def _look_later(self, sd_id: str) -> None:
        with self._lock:
            made = self._expected[sd_id]
            if made == len(_LOOKS_AFTER_S) or not self._is_spm(sd_id):
                del self._expected[sd_id]
                return
            self._expected[sd_id] = made + 1
        name = f"sweep {sd_id}"
        self._background.later(_LOOKS_AFTER_S[made], name, lambda: self._look(sd_id), key=name)

    def _look(self, sd_id: str) -> None:
        try:
            self._sweep(sd_id)
        finally:
            self._look_later(sd_id)

    def _sweep(self, sd_id: str) -> None:
        progress = Progress(lambda: self._background.draining or not self._is_spm(sd_id))
        try:
            progress.check()
            domain = self._domains.find(sd_id)
            for remnant in remnants_of(domain):
                self._remove(domain, remnant, progress)
        except Error as e:
            if progress.interrupted:
                _log.info("domain %s: remains of deleted images are left to the next SPM: %s", sd_id, e)
                return
            _log.warning("domain %s: remains of deleted images stay for now: %s", sd_id, e)

    def _remove(self, domain: FileDomain, remnant: str, progress: Progress) -> None:
        progress.check()
        name = ("image", domain.sd_id, image_of_remnant(remnant))
        with self._resources.claim("sweep", exclusive=(name,), within_s=_TURN_S):
            if not domain.io.exists(image_path(remnant)):
                return
        _log.info("domain %s: %s is removed", domain.sd_id, remnant)
        remove_remnant(domain, remnant, progress)

    def _is_spm(self, sd_id: str) -> bool:
        state = self._pools.state
        return self._spm.ours and state is not None and sd_id in state.domains
