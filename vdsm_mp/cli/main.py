# SPDX-License-Identifier: Apache-2.0
"""`vdsm-mp COMMAND`: which module does what. Each is imported only when it is asked for, so that `vdsm-mp master`
loads nothing that a process which forks must not have.

A command's module has `arguments(parser, command)`, `run(asked) -> exit code`, and `SAYS_NO`, the errors whose
sentences are for whoever asked.
"""

import argparse
import contextlib
import gc
import importlib
import io
import json
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from vdsm_mp import __version__
from vdsm_mp.common import streams

#: Command -> module. `master` parses its own arguments.
COMMANDS = {
    "status": "vdsm_mp.cli.status",
    "restart": "vdsm_mp.cli.workers",
    "stop": "vdsm_mp.cli.workers",
    "stacks": "vdsm_mp.cli.workers",
    "profile": "vdsm_mp.cli.workers",
    "trace": "vdsm_mp.cli.workers",
    "call": "vdsm_mp.cli.call",
    "events": "vdsm_mp.cli.watch",
    "verbs": "vdsm_mp.cli.verbs",
    "show-config": "vdsm_mp.cli.showconfig",
    "check-host": "vdsm_mp.tool.check_host",
    "metrics": "vdsm_mp.cli.metrics",
    "schema": "vdsm_mp.tool.schema",
    "completion": "vdsm_mp.cli.completion",
    "master": "vdsm_mp.master",
}
SUMMARIES = {
    "status": "workers, VMs, domains, tasks, certificates; exit code 0 well, 1 degraded, 2 not running",
    "restart": "restart one worker and wait until it is ready",
    "stop": "tell the agent to stop, as SIGTERM does",
    "stacks": "what every thread of a worker does at this moment",
    "profile": "where a worker spends its time",
    "trace": "write each message of a worker on the bus to the log for a while",
    "call": "call a verb of the public API, here or on another host",
    "events": "follow the events as an engine sees them",
    "verbs": "every verb, with its state",
    "show-config": "the configuration in force, and which file says so",
    "check-host": "would this host work, and why not",
    "metrics": "this host as numbers for Prometheus; --listen serves them",
    "schema": "the API as Markdown or JSON Schema",
    "completion": "completion for bash: source <(vdsm-mp completion)",
    "master": "run the agent in the foreground (supervisord does)",
}


class _Mistake(Exception):
    """The words make no sense; the sentence for whoever typed them."""


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one sentence, as everything else here does."""

    def error(self, message: str) -> NoReturn:
        raise _Mistake(f"{message}; `{self.prog} --help` tells more")


def main(argv: Sequence[str] | None = None) -> int:
    """The command line. Returns the exit code. What cannot be done is one line on stderr, never a traceback."""
    streams.fill()
    words = list(sys.argv[1:] if argv is None else argv)
    if words[:1] == ["master"]:
        gc.disable()  # as in `vdsm_mp/__main__.py`
        return int(importlib.import_module(COMMANDS["master"]).main(words[1:]))
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # names that the terminal has no letters for
    try:
        try:
            return _do(words)
        finally:
            sys.stdout.flush()
    except KeyboardInterrupt:
        return 130
    except _Mistake as error:
        print("\n".join(f"vdsm-mp: {line}" for line in str(error).splitlines()), file=sys.stderr)
        return 2
    except BrokenPipeError:
        _say_no_more()  # a reader that goes away (`| head`) ends us quietly
        return 0
    except OSError as error:
        _say_no_more()
        where = f"{error.filename}: " if error.filename else ""
        print(f"vdsm-mp: {where}{error.strerror or error}", file=sys.stderr)
        return 2


def _say_no_more() -> None:
    """The interpreter's own last flush must not fail where ours has."""
    with contextlib.suppress(OSError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _do(words: list[str]) -> int:
    """Raises: _Mistake, OSError, SystemExit (a command's help was asked for)."""
    if words[:1] == ["help"] and len(words) > 1:
        words = [*words[1:], "--help"]
    if not words or words[0] in ("-h", "--help", "help"):
        print(_help())
        return 0 if words else 2
    if words[0] == "--version":
        print(f"vdsm-mp {__version__}")
        return 0
    name = "show-config" if words[0] == "--show-config" else words[0]
    if name not in COMMANDS:
        near = importlib.import_module("vdsm_mp.cli.spelling").near(name, COMMANDS)
        meant = f"did you mean {' or '.join(near)}?" if near else "`vdsm-mp --help` lists them"
        raise _Mistake(f"there is no command {name if name.isprintable() and name else ascii(name)}; {meant}")
    module = importlib.import_module(COMMANDS[name])
    if not hasattr(module, "arguments"):
        return int(module.main(words[1:]))
    parser = _Parser(prog=f"vdsm-mp {name}", description=SUMMARIES[name], add_help=name != "call")
    module.arguments(parser, name)
    asked = parser.parse_args(words[1:])
    try:
        return int(module.run(asked))
    except module.SAYS_NO as error:
        if getattr(asked, "json", False):
            print(json.dumps({"error": {"code": getattr(error, "code", None), "message": str(error)}}))
        raise _Mistake(str(error)) from error


def _help() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {SUMMARIES[name]}" for name in COMMANDS]
    return (
        f"vdsm-mp {__version__}: a KVM host agent\n\nusage: vdsm-mp COMMAND …\n\n"
        + "\n".join(lines)
        + "\n\n`vdsm-mp COMMAND --help` tells more; `vdsm-mp call VERB --help` tells a verb's parameters."
    )


if __name__ == "__main__":
    sys.exit(main())
