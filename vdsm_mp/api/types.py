# SPDX-License-Identifier: Apache-2.0
"""Scalars shared by the declarations."""

from typing import Annotated

from msgspec import Meta

#: Lower case only and to the very end: nothing that passes here can name another file than it seems to.
UUID_PATTERN = r"\A[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\Z"

Uuid = Annotated[str, Meta(pattern=UUID_PATTERN, max_length=36)]

#: VDSM's word for "none" where an id is expected.
BLANK = "00000000-0000-0000-0000-000000000000"
