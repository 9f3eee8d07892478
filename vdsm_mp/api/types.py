# SPDX-License-Identifier: Apache-2.0
"""Scalars shared by the declarations."""

from typing import Annotated

from msgspec import Meta

#: Lower case only and to the very end: nothing that passes here can name another file than it seems to.
UUID_PATTERN = r"\A[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\Z"

Uuid = Annotated[str, Meta(pattern=UUID_PATTERN, max_length=36)]

#: Of a pool's master, counted up at every change. Clients read 32 bits of it.
MasterVersion = Annotated[int, Meta(ge=0, le=2**31 - 1)]

#: VDSM's word for "none" where an id is expected.
BLANK = "00000000-0000-0000-0000-000000000000"
