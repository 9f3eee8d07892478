# SPDX-License-Identifier: Apache-2.0
"""What a pool is for this host, as a record, and what is asked of it."""

from collections.abc import Mapping

import msgspec

ACTIVE = "Active"
ATTACHED = "Attached"


class PoolState(msgspec.Struct, frozen=True, kw_only=True):
    """domains: {sd_id: "Active" or "Attached"} of every attached domain. memory: the engine keeps the truth."""

    pool_id: str
    host_id: int
    master_sd_id: str
    master_version: int
    domains: dict[str, str]
    memory: bool
    format: int = 1


class Wanted(msgspec.Struct, frozen=True):
    """A connect, as asked. domains: None = read them from the master."""

    pool_id: str
    host_id: int
    master_sd_id: str
    master_version: int
    domains: Mapping[str, str] | None
