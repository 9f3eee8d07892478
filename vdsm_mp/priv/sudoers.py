# SPDX-License-Identifier: Apache-2.0
"""The sudo rules, generated from the table, and a checker that refuses what must never be in such a file."""

import re

from vdsm_mp.priv.table import CLASSES, OPERATIONS

_RULE = re.compile(r"[a-z_][a-z0-9_-]* ALL=\(root\) NOPASSWD: (?P<commands>/.+)")
_COMMAND = re.compile(r'/[A-Za-z0-9_./-]+ ""')
_DEFAULTS = re.compile(r"Defaults:[a-z_][a-z0-9_-]* !requiretty")
_QUIET = re.compile(r"Defaults!(?P<programs>/[A-Za-z0-9_./-]+(, /[A-Za-z0-9_./-]+)*) !syslog, !pam_session")


def rules(libexec_dir: str, user: str) -> str:
    """The text of `/etc/sudoers.d/50_vdsm`: one command a helper, each with no arguments at all (`""`)."""
    commands = [f'{libexec_dir}/helper-{helper} ""' for helper in CLASSES]
    lines = [
        "# SPDX-License-Identifier: Apache-2.0",
        "# Generated from vdsm_mp/priv/table.py. No wildcard, no argument.",
        "# What each helper may do, and no more:",
    ]
    for helper, workers in CLASSES.items():
        names = " ".join(sorted(name for owner, name in OPERATIONS if owner == helper))
        lines.append(f"#   helper-{helper} (for {', '.join(workers)}): {names}")
    programs = ", ".join(one.removesuffix(' ""') for one in commands)
    lines += [
        "",
        f"Defaults:{user} !requiretty",
        "# Each tells syslog itself of its start and of each call, and waits no longer than 2 s for that; sudo and PAM",
        "# wait for ever when syslog hangs. What is refused to the user is logged by sudo as ever.",
        f"Defaults!{programs} !syslog, !pam_session",
        *(f"{user} ALL=(root) NOPASSWD: {one}" for one in commands),
    ]
    return "\n".join(lines) + "\n"


def faults(text: str) -> list[str]:
    """What is wrong with the rules, one sentence each; empty when they are as narrow as they must be."""
    found: list[str] = []
    for number, line in enumerate(text.splitlines(), 1):
        stripped = line.strip()
        if not stripped or (stripped.startswith("#") and not stripped.startswith(("#include", "#includedir"))):
            continue
        quiet = _QUIET.fullmatch(stripped)
        if _DEFAULTS.fullmatch(stripped) or (
            quiet and all(f'{one} ""' in text for one in quiet["programs"].split(", "))
        ):
            continue
        rule = _RULE.fullmatch(stripped)
        if rule is None:
            found.append(f"line {number} is neither a rule nor a setting of ours: {stripped}")
        elif not _COMMAND.fullmatch(rule["commands"]) or "/../" in rule["commands"]:
            found.append(f'line {number} does not name one plain program that takes no argument (""): {stripped}')
    return found
