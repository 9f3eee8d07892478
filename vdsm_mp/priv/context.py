# SPDX-License-Identifier: Apache-2.0
"""What an operation on the root side is given besides its parameters."""

from collections.abc import Mapping
from dataclasses import dataclass

from vdsm_mp.priv.child import Children


@dataclass(frozen=True, slots=True)
class Context:
    """config: the root-owned settings of this installation. uid, gid: the agent's, for folders made in its name."""

    config: Mapping[str, str]
    children: Children
    deadline_mono: float
    uid: int
    gid: int
