# SPDX-License-Identifier: Apache-2.0
"""What the declarations say to people: `vdsm-mp call VERB --help` and docs/api.md are made of nothing else."""

import re
from pathlib import Path

import pytest

from vdsm_mp.api.verb import VerbSpec
from vdsm_mp.cli import verbhelp
from vdsm_mp.common.errors import Error, Failed, Unavailable
from vdsm_mp.tool import failures, schema

SPECS = schema.public_verbs()
BUILT = [spec for spec in SPECS if not spec.planned]
ERRORS = sorted(failures.declared(SPECS), key=lambda cls: (cls.code, cls.__name__))


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.name)
def test_a_verb_says_in_its_first_line_what_it_does(spec: VerbSpec) -> None:
    assert spec.doc.endswith(".")
    assert len(spec.doc.split()) >= (3 if spec.planned and not spec.name.startswith("Gluster") else 1)


@pytest.mark.parametrize("spec", BUILT, ids=lambda spec: spec.name)
def test_the_help_of_a_verb_tells_its_parameters_and_every_number_it_declares(spec: VerbSpec) -> None:
    text = verbhelp.verb_help(spec.name)
    for name, _, _ in schema.parameters(spec):
        assert re.search(rf"^{name}\b", text, re.MULTILINE), name
    for cls in (*spec.raises, *spec.later):
        assert re.search(rf"^ *{cls.code}  ", text, re.MULTILINE), cls


@pytest.mark.parametrize("spec", BUILT, ids=lambda spec: spec.name)
def test_numbers_in_a_verb_s_text_are_numbers_that_it_declares(spec: VerbSpec) -> None:
    """A number in brackets names an error; so does one at the beginning of a sentence."""
    told = {int(n) for n in re.findall(r"\((\d{2,4})\)|(?:\. |^|\n)(\d{2,4}) ", spec.text) for n in n if n}
    assert told <= {cls.code for cls in (*spec.raises, *spec.later, *failures.ANY_VERB)}


@pytest.mark.parametrize("cls", ERRORS, ids=lambda cls: cls.__name__)
def test_an_error_says_what_has_changed(cls: type[Error]) -> None:
    """By its family, where that settles it; else by its own docstring."""
    if issubclass(cls, (Failed, Unavailable)):
        assert failures.changed(cls) != "The message says what is left."
    assert "{" not in failures.sentence(cls)
    assert len(failures.sentence(cls)) > 4


def test_no_verb_declares_an_error_that_nobody_raises() -> None:
    product = Path(schema.__file__).parents[1]
    rooms = [path for path in product.rglob("*.py") if path.relative_to(product).parts[0] not in ("api", "tool", "cli")]
    words = set(re.findall(r"\w+", " ".join(path.read_text() for path in rooms)))
    nobody = {cls.__name__ for cls in ERRORS} - words
    # Families of which only the members are raised.
    assert nobody <= {parent.__name__ for cls in ERRORS for parent in cls.__mro__[1:]}


def test_the_page_of_the_api_has_every_verb_and_every_error() -> None:
    page = schema.markdown()
    assert not [spec.name for spec in SPECS if f"**{spec.name}**" not in page and not spec.name.startswith("Gluster")]
    assert not [cls for cls in ERRORS if f"\n| {cls.code} | " not in page]


def test_a_misspelt_verb_is_told_its_neighbours() -> None:
    assert verbhelp.similar("Host.getStat")[0] == "Host.getStats"
    assert "Host.fenceNode" in verbhelp.similar("host.fencenodes")
    assert verbhelp.similar("xyzzy") == []
