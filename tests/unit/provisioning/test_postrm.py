# SPDX-License-Identifier: Apache-2.0
"""What a purge takes of the agent's state, by the functions of the maintainer script in a folder of the test's."""

import re
import subprocess
from pathlib import Path

import pytest

_TEXT = (Path(__file__).parents[3] / "debian/vdsm-mp.postrm").read_text()
_NOT_IN_USE = "in_use() { return 1; }"
_IN_USE = "in_use() { return 0; }"


def _functions(root: Path, *names: str) -> list[str]:
    """Their texts, which name no folder but those below root."""
    parts = []
    for name in names:
        found = re.search(rf"(?ms)^{name}\(\) \{{.*?^\}}", _TEXT)
        assert found is not None, name
        parts.append(re.sub(r"(/run/vdsm|/var/lib/vdsm)\b", rf"{root}\1", found[0]))
        assert re.findall(r" /\w+", parts[-1].replace(str(root), "ROOT")) == [], parts[-1]
    return parts


def _purge(root: Path, in_use: str) -> str:
    script = "\n".join(["set -e", *_functions(root, "domain_below", "state"), in_use, "state"])
    done = subprocess.run(["sh", "-c", script], check=True, capture_output=True, text=True, timeout=30)
    return done.stderr


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name in ("run/vdsm/storage", "var/lib/vdsm/storage", "var/lib/vdsm/transient", "var/lib/vdsm/network"):
        (tmp_path / name).mkdir(parents=True)
    return tmp_path


def test_state_goes_when_nothing_needs_it(root: Path) -> None:
    assert _purge(root, _NOT_IN_USE) == ""
    assert not (root / "var/lib/vdsm").exists() and not (root / "run/vdsm").exists()
    assert _purge(root, _NOT_IN_USE) == ""


def test_what_guests_use_stays(root: Path) -> None:
    assert "guests or mounts are still there" in _purge(root, _IN_USE)
    assert sorted(path.name for path in (root / "var/lib/vdsm").iterdir()) == ["storage", "transient"]
    assert (root / "run/vdsm/storage").is_dir()


@pytest.mark.parametrize("in_use", [_IN_USE, _NOT_IN_USE])
def test_a_storage_domain_that_lies_there_stays(root: Path, in_use: str) -> None:
    metadata = root / "var/lib/vdsm/data/5d000000-1111-4222-8333-444444444444/dom_md/metadata"
    metadata.parent.mkdir(parents=True)
    metadata.write_text("CLASS=Data\n")
    assert "a storage domain is below" in _purge(root, in_use)
    assert metadata.exists()
