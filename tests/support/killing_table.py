# SPDX-License-Identifier: Apache-2.0
"""The usual process table, in a house whose workers may be killed again as soon as they live: no back-off for that.

Elsewhere they must have lived for five seconds, which tests that kill them in a row would have to wait out.
"""

from vdsm_mp.house import members
from vdsm_mp.workers.table import CHILDREN, PRELOAD, WORKERS

__all__ = ["CHILDREN", "PRELOAD", "WORKERS"]

members.STEADY_S = 0.0
