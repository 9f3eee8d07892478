# SPDX-License-Identifier: Apache-2.0
"""Each error that a client may hear can be said: its sentence has all that it was raised with."""

import importlib
import inspect
import pkgutil
from typing import Any

import pytest

from vdsm_mp import api
from vdsm_mp.common.errors import Error

CLASSES = [
    kind
    for name in (module.name for module in pkgutil.iter_modules(api.__path__) if module.name.startswith("errors"))
    for kind in vars(importlib.import_module(f"vdsm_mp.api.{name}")).values()
    if inspect.isclass(kind)
    and issubclass(kind, Error)
    and kind.__module__ == f"vdsm_mp.api.{name}"
    and not kind.__name__.startswith("_")
]
#: Of a domain that is only to be made nobody needs to hear the id.
UNSAID = {"DomainTypeUnsupported": {"sd_id"}}
#: These are told beside the sentence, or by it in words.
NUMBERS = {"errno", "code"}


def values_of(kind: type[Error]) -> dict[str, Any]:
    """{parameter: something that is found again in a sentence}"""
    if kind.__init__ is Exception.__init__:
        return {}
    parameters = [one for one in inspect.signature(kind).parameters.values() if one.default is one.empty]
    made = {str: lambda name: f"<{name}>", int: lambda _: 4711, float: lambda _: 47.25}
    return {one.name: made[one.annotation](one.name) for one in parameters}


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
def test_the_sentence_of_an_error_has_all_that_it_was_raised_with(kind: type[Error]) -> None:
    values = values_of(kind)
    said = str(kind(*values.values()))
    assert said
    for name in values.keys() - UNSAID.get(kind.__name__, set()) - NUMBERS:
        assert str(values[name]) in said
