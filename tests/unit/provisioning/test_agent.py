# SPDX-License-Identifier: Apache-2.0
"""Whose supervisord runs the agent."""

from pathlib import Path

import pytest

from provisioning import agent, install
from provisioning.say import Failure


def test_the_configuration_of_a_supervisord_that_was_removed_is_not_taken_for_the_hosts_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(install, "SUPERVISORD_CONF", tmp_path / "supervisord.conf")
    monkeypatch.setattr(install, "REMEMBERED", tmp_path / "installed.json")
    install.SUPERVISORD_CONF.write_text("[supervisord]\n")
    with pytest.raises(Failure, match=r"supervisord\.conf is left of one that was removed"):
        agent.require_program(str(tmp_path))
    (tmp_path / "supervisord").write_text("#!/bin/sh\n")
    (tmp_path / "supervisord").chmod(0o755)
    agent.require_program(str(tmp_path))
    (tmp_path / "supervisord").unlink()
    install.SUPERVISORD_CONF.unlink()
    install.put(install.SUPERVISORD_CONF, b"[supervisord]\n", [])
    agent.require_program(str(tmp_path))
