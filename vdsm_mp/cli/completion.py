# SPDX-License-Identifier: Apache-2.0
"""`vdsm-mp completion`: bash asks this program what may come next, so it is always what the declarations say."""

import argparse

import msgspec

from vdsm_mp.api.catalogue import VERBS
from vdsm_mp.cli.main import COMMANDS
from vdsm_mp.cli.workers import WORKERS

SAYS_NO = ()

_SCRIPT = """\
_vdsm_mp() {
    COMPREPLY=($(vdsm-mp completion --words -- "${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null))
    [[ ${COMPREPLY[0]} == *= ]] && compopt -o nospace
}
complete -F _vdsm_mp vdsm-mp
"""


def arguments(parser: argparse.ArgumentParser, _name: str) -> None:
    parser.add_argument("--words", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("typed", nargs="*", help=argparse.SUPPRESS)


def run(asked: argparse.Namespace) -> int:
    print("\n".join(candidates(asked.typed)) if asked.words else _SCRIPT)
    return 0


def candidates(typed: list[str]) -> list[str]:
    """What may stand for the last word. typed: the words after `vdsm-mp`, the last one unfinished."""
    *before, last = typed or [""]
    if not before:
        found = list(COMMANDS)
    elif before[0] == "call" and len(before) == 1:
        found = [name for name, spec in VERBS.items() if not spec.internal]
    elif before[0] == "call" and before[1] in VERBS:
        given = {word.partition("=")[0] for word in before[2:]}
        names = [f.encode_name for f in msgspec.structs.fields(VERBS[before[1]].message)]
        found = [f"{name}=" for name in names if name not in given]
    elif before[0] in ("restart", "stacks", "profile", "trace") and len(before) == 1:
        found = list(WORKERS)
    else:
        found = []
    return sorted(word for word in found if word.startswith(last))
