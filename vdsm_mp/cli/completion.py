# SPDX-License-Identifier: Apache-2.0
"""`vdsm-mp completion`: bash asks this program what may come next, so it is always what the declarations say.

Ids of VMs, domains, pools and tasks are asked of the agent here, within two seconds; without one there are none.
"""

import argparse
import re
from typing import Any

import msgspec

from vdsm_mp.api.catalogue import VERBS
from vdsm_mp.cli import door
from vdsm_mp.cli.main import COMMANDS
from vdsm_mp.cli.workers import WORKERS
from vdsm_mp.common.errors import Error
from vdsm_mp.common.options import Config
from vdsm_mp.tool.types import type_name

SAYS_NO = ()

#: Bash breaks words at `=`, and replaces only what comes after it: what comes before is taken off again.
_SCRIPT = """\
_vdsm_mp() {
    local line=${COMP_LINE:0:COMP_POINT} word
    COMPREPLY=()
    while IFS= read -r word; do
        [[ ${line##* } == *=* && $COMP_WORDBREAKS == *=* ]] && word=${word#*=}
        [[ -n $word ]] && COMPREPLY+=("$word")
    done < <(vdsm-mp completion --line "$line" 2>/dev/null)
    [[ ${COMPREPLY[0]} == *[=,] ]] && compopt -o nospace
}
complete -F _vdsm_mp vdsm-mp
"""

_HELP = ("--help",)
#: Options that take the next word. Not `--wait`, which may do without.
_WITH_VALUE = ("--params", "--flow-id", "--host", "--port", "--pki", "--timeout", "--seconds", "--for", "--config")
_DOOR = ("--host", "--port", "--pki", "--plain", "--timeout")
#: Of each command, those that are of use to an operator.
_OPTIONS = {
    "status": ("--json",),
    "restart": ("--json",),
    "stop": ("--json",),
    "stacks": ("--json",),
    "profile": ("--seconds", "--json"),
    "trace": ("--seconds", "--json"),
    "call": ("--params", "--flow-id", "--json", "--wait", *_DOOR),
    "events": ("--json", "--for", *_DOOR),
    "verbs": ("--planned", "--built", "--json"),
    "show-config": ("--config", "--changed", "--json"),
    "check-host": ("--all", "--json"),
    "metrics": ("--listen",),
    "schema": ("--json",),
}
#: Parameter -> (verb that knows the ids, what in its answer they are).
_IDS: dict[str, tuple[str, str]] = {
    "vmID": ("Host.getVMList", "vmId"),
    "storagedomainID": ("Host.getStorageRepoStats", ""),
    "sd_id": ("Host.getStorageRepoStats", ""),
    "sdUUID": ("Host.getStorageRepoStats", ""),
    "storagepoolID": ("Host.getConnectedStoragePools", ""),
    "taskID": ("Host.getAllTasks", ""),
}
_WITHIN_S = 2.0


def arguments(parser: argparse.ArgumentParser, _name: str) -> None:
    parser.add_argument("--line", help=argparse.SUPPRESS)


def run(asked: argparse.Namespace) -> int:
    print(_SCRIPT if asked.line is None else "\n".join(candidates(asked.line.split(" ")[1:])))
    return 0


def candidates(typed: list[str]) -> list[str]:
    """What may stand for the last word. typed: the words after `vdsm-mp`, the last one unfinished."""
    *before, last = typed or [""]
    words = [word for word in before if word]
    if words in ([], ["help"]):
        found = list(COMMANDS)
    elif last.startswith("-"):
        found = [*_OPTIONS.get(words[0], ()), *_HELP]
    elif words[-1] in _WITH_VALUE:
        found = []
    elif words[0] == "call":
        found = _of_call(_plain(words[1:]), last)
    elif words[0] in ("restart", "stacks", "profile", "trace") and not _plain(words[1:]):
        found = list(WORKERS)
    elif words[0] == "verbs":
        found = sorted({name.partition(".")[0] for name, spec in VERBS.items() if not spec.internal})
    elif words[0] == "show-config":
        found = _sections(last)
    else:
        found = []
    return sorted(word for word in found if word.startswith(last))


def _plain(words: list[str]) -> list[str]:
    """Without options and their values."""
    return [
        word
        for before, word in zip(["", *words], words, strict=False)
        if not word.startswith("-") and before not in _WITH_VALUE
    ]


def _sections(last: str) -> list[str]:
    """Sections of the configuration; the options of one after its dot."""
    sections = {f.encode_name: f.type for f in msgspec.structs.fields(Config)}
    section, dot, _ = last.partition(".")
    if not dot:
        return list(sections)
    return (
        [f"{section}.{f.encode_name}" for f in msgspec.structs.fields(sections[section])] if section in sections else []
    )


def _of_call(words: list[str], last: str) -> list[str]:
    if not words:
        return [name for name, spec in VERBS.items() if not spec.internal]
    if words[0] not in VERBS:
        return []
    kinds = {f.encode_name: f.type for f in msgspec.structs.fields(VERBS[words[0]].message)}
    name, typed, _ = last.partition("=")
    if typed and name in kinds:
        return [f"{name}={value}" for value in _values(name, kinds[name])]
    given = {word.partition("=")[0] for word in words[1:]}
    return [f"{one}=" for one in kinds if one not in given]


def _values(name: str, kind: Any) -> list[str]:
    if type_name(kind) == "boolean":
        return ["false", "true"]
    if name not in _IDS:
        return []
    verb, member = _IDS[name]
    asked = argparse.Namespace(host="localhost", port=None, pki=None, plain=False, timeout=_WITHIN_S)
    try:
        with door.connect(asked) as client:
            answer = client.call(verb, {}, timeout_s=_WITHIN_S)
    except (Error, OSError, *door.SAYS_NO):
        return []  # somebody who is typing is not told why the agent is silent
    rows = answer if isinstance(answer, list | dict) else ()
    found = [row.get(member) if member and isinstance(row, dict) else row for row in rows]
    return [one for one in found if isinstance(one, str) and re.fullmatch(r"[\w-]+", one)]
