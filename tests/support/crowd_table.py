# SPDX-License-Identifier: Apache-2.0
"""The process table of a house whose door lets in more than ten thousand."""

from msgspec.structs import replace

from tests.support.door_table import CHILDREN, PRELOAD
from tests.support.door_table import WORKERS as _WORKERS

__all__ = ["CHILDREN", "PRELOAD", "WORKERS"]

WORKERS = tuple(
    replace(spec, main="tests.support.crowd_door") if spec.name == "clientif" else spec for spec in _WORKERS
)
