# SPDX-License-Identifier: Apache-2.0
"""What a purge takes of the agent's state, by the functions of the maintainer script in a folder of the test's."""

import re
import subprocess
from pathlib import Path

import pytest

from tests.support.needs import needs_root

_TEXT = (Path(__file__).parents[3] / "debian/vdsm-mp.postrm").read_text()
_NOT_IN_USE = "in_use() { return 1; }"
_IN_USE = "in_use() { return 0; }"
#: For a test that mounts: what is there before its mounts are gone again.
_LOOK = ('find "${LOOK:-/dev/null}" -mindepth 1 >&2',)


def _functions(root: Path, *names: str) -> list[str]:
    """Their texts, which name no folder but those below root."""
    parts = []
    for name in names:
        found = re.search(rf"(?ms)^{name}\(\) \{{.*?^\}}", _TEXT)
        assert found is not None, name
        parts.append(re.sub(r"(/run/vdsm|/var/lib/vdsm)\b", rf"{root}\1", found[0]))
        text = parts[-1].replace(str(root), "ROOT").replace(" /proc/self/mounts", "")
        assert re.findall(r" /(?!dev/null)\w+", text) == [], text
    return parts


def _purge(root: Path, in_use: str, *before: str) -> str:
    script = "\n".join(
        ["set -e", *before, *_functions(root, "domain_below", "clear_away", "state"), in_use, "state", *_LOOK]
    )
    shell = ["unshare", "--mount", "sh"] if before else ["sh"]
    done = subprocess.run([*shell, "-c", script], check=True, capture_output=True, text=True, timeout=30)
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


@needs_root()
@pytest.mark.parametrize(
    ("in_use", "name"),
    [
        (_IN_USE, "var/lib/vdsm/plain"),
        (_IN_USE, "var/lib/vdsm/deep/er/a b*[c]"),
        (_NOT_IN_USE, "var/lib/vdsm/plain"),
        (_NOT_IN_USE, "var/lib/vdsm/deep/er/a b*[c]"),
        (_NOT_IN_USE, "run/vdsm/storage"),
    ],
)
@pytest.mark.parametrize("kind", ["tmpfs", "bind"])
def test_what_is_mounted_there_stays_and_all_else_goes(root: Path, in_use: str, name: str, kind: str) -> None:
    mounted, other = root / name, root / "var/lib/vdsm/deep/er/a bc"
    for folder in (mounted, other, root / "data/full"):
        folder.mkdir(parents=True, exist_ok=True)
    (root / "data/full/file").write_text("somebody's")
    (root / "var/lib/vdsm/file").write_text("state")
    mount = f"mount --bind '{root}/data' '{mounted}'"
    if kind == "tmpfs":
        mount = f"mount -t tmpfs tmpfs '{mounted}' && cp -r '{root}/data/full' '{mounted}'"
    said = _purge(root, in_use, mount, f"LOOK='{mounted}'")
    assert "is mounted there, and stays" in said
    assert f"{mounted}/full/file" in said.splitlines()
    assert mounted.is_dir() and not other.exists() and not (root / "var/lib/vdsm/file").exists()
    assert (root / "data/full/file").read_text() == "somebody's"


@needs_root()
def test_a_state_directory_that_is_a_file_system_of_its_own_is_emptied(root: Path) -> None:
    folder = root / "var/lib/vdsm"
    mount = f"mount -t tmpfs tmpfs '{folder}' && mkdir '{folder}/network' && echo >'{folder}/network/file'"
    assert _purge(root, _NOT_IN_USE, mount, f"LOOK='{folder}'") == ""
