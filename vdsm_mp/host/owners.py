# SPDX-License-Identifier: Apache-2.0
"""The other workers, as something a handler can be given."""

from dataclasses import dataclass

from vdsm_mp.api.ports import Caller


@dataclass(frozen=True, slots=True)
class Owners:
    call: Caller
