# SPDX-License-Identifier: Apache-2.0
"""The process table of a house that waits a second for root's helper to answer, and another for its end."""

from tests.support.rogue_table import CHILDREN, PRELOAD, WORKERS
from vdsm_mp import privileges

__all__ = ["CHILDREN", "PRELOAD", "WORKERS"]

privileges.SUDO_S = 1.0
