# SPDX-License-Identifier: Apache-2.0
"""Errors of the declarations as a person reads them: number, sentence, and what has changed when one is answered."""

import re
from collections.abc import Iterable

from vdsm_mp.api import errors
from vdsm_mp.api.errors_storage import STORAGE_ACCESS
from vdsm_mp.api.verb import VerbSpec
from vdsm_mp.common.errors import BadRequest, Conflict, Denied, Error, Internal, NotFound, Unavailable

#: Of any verb, whatever it declares.
ANY_VERB: tuple[type[Error], ...] = (
    errors.InvalidParameters,
    errors.UnknownVerb,
    errors.NotSupported,
    errors.StillStarting,
    errors.Busy,
    errors.DeadlineExceeded,
    errors.PeerRestarted,
    errors.CommandFailed,
    errors.CommandOverdue,
    errors.SystemRefused,
    Internal,
)
#: Of any verb that works on a storage domain.
ON_STORAGE: tuple[type[Error], ...] = STORAGE_ACCESS

_PLACE = re.compile(r"\{self\.\w+(![rs])?(:[^}]*)?\}")
_WORD = re.compile(r"(?<=[a-z])(?=[A-Z])")
_UNCHANGED = (BadRequest, NotFound, Conflict, Denied)


def sentence(cls: type[Error]) -> str:
    """What the error says, with … for what only an instance knows; its name where that leaves nothing."""
    said = re.sub(r"[:,\s(]*…[):\s]*$", "", _PLACE.sub("…", cls.msg)).strip()
    shared = any(parent.__dict__.get("msg") == cls.msg for parent in cls.__mro__[1:])
    if shared or not re.search(r"[a-z]{3}", said):
        name = " ".join(_WORD.split(cls.__name__)).capitalize()
        return re.sub(r"\b(spm|iso|vm|id|Iso|Vm|Io|Spm)\b", lambda found: found[0].upper(), name)
    return said


def changed(cls: type[Error]) -> str:
    """What has changed when it is answered, as its family and its own docstring say."""
    own = " ".join((cls.__dict__.get("__doc__") or "").split())
    if issubclass(cls, _UNCHANGED) and not own.lower().startswith("nothing"):
        return f"Nothing has changed. {own}".rstrip()
    return own or ("It may have run." if issubclass(cls, Unavailable) else "The message says what is left.")


def rows(classes: Iterable[type[Error]]) -> list[tuple[int, str, str]]:
    """(number, sentence, what has changed), by number; equal ones once."""
    return sorted({(cls.code, sentence(cls), changed(cls)) for cls in classes})


def numbers(classes: Iterable[type[Error]]) -> str:
    """As in `1, 6, 16`."""
    return ", ".join(map(str, sorted({cls.code for cls in classes})))


def declared(specs: Iterable[VerbSpec]) -> set[type[Error]]:
    """Every error that a declaration names, and those of any verb."""
    return {*ANY_VERB, *ON_STORAGE, *(cls for spec in specs for cls in (*spec.raises, *spec.later))}
