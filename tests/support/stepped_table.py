# SPDX-License-Identifier: Apache-2.0
"""A whole house whose virt worker stands still at named steps; networks are not what is tested."""

from dataclasses import replace

from vdsm_mp.workers import table

__all__ = ["CHILDREN", "PRELOAD", "WORKERS"]

_OTHER = {"virt": "tests.support.stepped_virt", "network": "tests.support.idle_room"}
WORKERS = tuple(replace(spec, main=_OTHER.get(spec.name, spec.main)) for spec in table.WORKERS)
CHILDREN = table.CHILDREN
PRELOAD = table.PRELOAD
