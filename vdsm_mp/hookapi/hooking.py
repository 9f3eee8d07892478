# SPDX-License-Identifier: Apache-2.0
"""What hook scripts import as `hooking`: read and write the document, say something, end.

Lies alone in a folder on the hook's PYTHONPATH; standard library only, nothing of the agent is importable from there.
"""

import json
import os
import subprocess
import sys
from typing import Any, NoReturn
from xml.dom import minidom

#: For hooks that tell apart what goes wrong.
OK, FAILED, STOP = 0, 1, 2

_DOMXML, _JSON = "_hook_domxml", "_hook_json"


def read_domxml() -> Any:
    """The XML document of this point, as xml.dom.minidom. The agent wrote it; it is as trusted as the agent."""
    return minidom.parse(os.environ[_DOMXML])  # noqa: S318


def write_domxml(domxml: Any) -> None:
    """Make it the result."""
    with open(os.environ[_DOMXML], "w", encoding="utf-8") as file:
        file.write(domxml.toxml())


def read_json() -> Any:
    """The JSON document of this point."""
    with open(os.environ[_JSON], encoding="utf-8") as file:
        return json.load(file)


def write_json(data: Any) -> None:
    """Make it the result."""
    with open(os.environ[_JSON], "w", encoding="utf-8") as file:
        json.dump(data, file)


def tobool(value: Any) -> bool:
    """True for true, yes, on, 1 and the like, in any case."""
    return str(value).strip().lower() in ("true", "yes", "on", "1", "y", "t")


def log(message: str, *args: object) -> None:
    """A line for the agent's log."""
    sys.stderr.write((message % args if args else message) + "\n")


def exit_hook(message: str, return_code: int = STOP) -> NoReturn:
    """End with an error; the default keeps the hooks after this one from running."""
    sys.stderr.write(f"{message}\n")
    sys.exit(return_code)


def execCmd(argv: list[str], sudo: bool = False, data: bytes | None = None, raw: bool = False) -> tuple[int, Any, Any]:
    """Run a program; (status, out, err), both as lists of lines unless `raw`."""
    words = ["sudo", "-n", *argv] if sudo else argv
    done = subprocess.run(words, input=data, capture_output=True, check=False)
    if raw:
        return done.returncode, done.stdout, done.stderr
    return done.returncode, done.stdout.splitlines(), done.stderr.splitlines()
