# SPDX-License-Identifier: Apache-2.0
"""The other workers, as something a handler can be given."""

import msgspec

from vdsm_mp.api.ports import Caller


class Owners(msgspec.Struct, frozen=True):
    call: Caller
