# SPDX-License-Identifier: Apache-2.0
"""A worker that is there and answers nothing, in the place of one that a test has no use for."""

from types import ModuleType
from typing import Any

from vdsm_mp.api import catalogue
from vdsm_mp.api.errors import NotSupported
from vdsm_mp.api.ports import Ports
from vdsm_mp.api.verb import VERBS, VerbSpec, handles
from vdsm_mp.common.options import Config
from vdsm_mp.workers.base import Room

_ = catalogue


def build(config: Config, ports: Ports) -> Room:
    module = ModuleType(f"idle_{ports.worker}")
    for number, spec in enumerate(s for s in VERBS.values() if s.owner == ports.worker and not s.planned):
        setattr(module, f"answer_{number}", _refusing(spec))
    return Room(handlers=(module,))


def _refusing(spec: VerbSpec) -> Any:
    def answer(ask: Any) -> None:
        raise NotSupported(spec.name)

    answer.__annotations__ = {"ask": spec.message, "return": None}
    return handles(spec.message)(answer)
