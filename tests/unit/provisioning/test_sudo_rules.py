# SPDX-License-Identifier: Apache-2.0
"""The rules for the sudo that a host has. That sudo-rs takes what is left was tried by hand on Debian 13."""

from pathlib import Path

from provisioning import install

_RULES = (Path(__file__).parents[3] / "sudoers/50_vdsm").read_text()


def test_sudo_has_them_as_they_are() -> None:
    assert install.rules_for("Sudo version 1.9.13p3\n", _RULES) == _RULES


def test_sudo_rs_has_the_same_rules_without_settings() -> None:
    rules = install.rules_for("sudo-rs 0.2.5\n", _RULES).splitlines()
    assert [line for line in _RULES.splitlines() if line not in rules and not line.startswith("Defaults")] == []
    assert not any(line.startswith("Defaults") for line in rules)
