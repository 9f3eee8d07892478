# SPDX-License-Identifier: Apache-2.0
"""Certificates of the demo CA are made where there are none, and never take the place of an engine's."""

import re
import subprocess
from pathlib import Path

import pytest

from provisioning.pki import Pki, ensure
from tests.support.certificates import make_authority
from tests.support.needs import needs_program

pytestmark = needs_program("openssl")
_POSTRM = Path(__file__).parents[3] / "debian/vdsm-mp.postrm"


@pytest.fixture
def demo(tmp_path: Path) -> Pki:
    made = Pki(tmp_path / "vdsm", tmp_path / "vdsm-demo-ca")
    assert ensure(made, owner=None)
    return made


def _content(pki: Pki) -> list[bytes | None]:
    return [path.read_bytes() if path.exists() else None for path in (pki.key, pki.certificate, pki.ca)]


def _enter_engine(pki: Pki, tmp_path: Path) -> None:
    """As an engine does when it takes the host."""
    files = make_authority(tmp_path / "engine").issue("host", "host.example")
    for source, target in ((files.key, pki.key), (files.cert, pki.certificate), (files.ca, pki.ca)):
        target.unlink()
        target.write_bytes(source.read_bytes())


def test_they_stay_as_long_as_they_are_good(demo: Pki) -> None:
    before = _content(demo)
    assert ensure(demo, owner=None)
    assert _content(demo) == before


def test_those_of_an_engine_stay_though_the_demo_ca_was_there_first(demo: Pki, tmp_path: Path) -> None:
    _enter_engine(demo, tmp_path)
    before = _content(demo)
    assert not ensure(demo, owner=None)
    assert _content(demo) == before


@pytest.mark.parametrize("engine", [False, True])
def test_a_purge_takes_those_of_the_demo_ca_only(demo: Pki, tmp_path: Path, engine: bool) -> None:
    if engine:
        _enter_engine(demo, tmp_path)
    before = _content(demo)
    function = re.search(r"(?ms)^demo_certificates\(\) \{.*?^\}", _POSTRM.read_text())
    assert function is not None
    here = function[0].replace("/etc/pki", str(tmp_path))
    subprocess.run(["sh", "-c", f"{here}\ndemo_certificates"], check=True, timeout=30)
    assert _content(demo) == (before if engine else [None] * 3)
    assert not demo.authority.exists()
