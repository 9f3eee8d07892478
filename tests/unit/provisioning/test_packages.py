# SPDX-License-Identifier: Apache-2.0
"""Installing Debian packages where dpkg was interrupted. apt and dpkg are stand-ins that answer as those do."""

from pathlib import Path

import pytest

from provisioning import packages
from provisioning.say import Failure

_APT = """#!/bin/sh
echo "apt-get $*" >> {0}/told
case "$*" in *update*) exit 0 ;; esac
[ -e {0}/whole ] && exit 0
echo "E: dpkg was interrupted, you must manually run 'dpkg --configure -a' to correct the problem."
exit 100
"""
_DPKG = """#!/bin/sh
echo "dpkg $*" >> {0}/told
{1}
"""


@pytest.mark.parametrize("outcome", ["repaired", "beyond repair"])
def test_an_installation_that_was_interrupted_is_finished_first(
    outcome: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    programs = {
        "apt-get": _APT.format(tmp_path),
        "dpkg": _DPKG.format(tmp_path, f"touch {tmp_path}/whole" if outcome == "repaired" else "exit 1"),
        "dpkg-query": "#!/bin/sh\nexit 1\n",
    }
    for name, text in programs.items():
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setattr("os.geteuid", lambda: 0)
    if outcome == "repaired":
        packages.install_debian(("fdisk",), tmp_path / "log")
    else:
        with pytest.raises(Failure, match="finishing what was interrupted"):
            packages.install_debian(("fdisk",), tmp_path / "log")
    told = (tmp_path / "told").read_text().splitlines()
    installs = [line for line in told if "install" in line]
    assert told[2] == "dpkg --configure -a"
    assert len(installs) == (2 if outcome == "repaired" else 1)
