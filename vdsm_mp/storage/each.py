# SPDX-License-Identifier: Apache-2.0
"""Ask several domains the same thing at a time: one that hangs costs its own deadline once, and nobody's answer."""

import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from vdsm_mp.common.errors import Error
from vdsm_mp.storage.domain_file import FileDomain
from vdsm_mp.storage.registry import Domains

_log = logging.getLogger("storage.each")

#: For looking one domain up, and for what is asked of it.
DEADLINE_S = 10.0
_PARALLEL = 32


def which(domains: Domains, sd_ids: Sequence[str], fits: Callable[[FileDomain], bool]) -> list[str]:
    """Ids of the domains that fit, in order; one that cannot be read is left out and logged, as by VDSM.

    fits: runs in threads of its own, and asks storage with DEADLINE_S.
    """

    def one(sd_id: str) -> bool:
        try:
            return fits(domains.find(sd_id, deadline_s=DEADLINE_S))
        except Error as e:
            _log.warning("domain %s is passed over: %s", sd_id, e)
            return False

    if len(sd_ids) <= 1:
        return [sd_id for sd_id in sd_ids if one(sd_id)]
    with ThreadPoolExecutor(min(_PARALLEL, len(sd_ids)), thread_name_prefix="each") as pool:
        return [sd_id for sd_id, yes in zip(sd_ids, pool.map(one, sd_ids), strict=True) if yes]
