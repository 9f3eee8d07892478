# SPDX-License-Identifier: Apache-2.0
"""`vdsm-mp call VERB key=value…`: any verb of the public API. Help and types come from the declarations."""

import argparse
import errno
import json
import os
import sys
import uuid
from typing import Any

import msgspec

from vdsm_mp.api.catalogue import VERBS
from vdsm_mp.api.verb import VerbSpec
from vdsm_mp.cli import door, numbers, render, waiting
from vdsm_mp.cli.verbhelp import similar, verb_help
from vdsm_mp.common.errors import Error
from vdsm_mp.tool.types import type_name
from vdsm_mp.wire import stomp
from vdsm_mp.wire.client import ConnectionLost


class BadCommandLine(Exception):
    """The words do not make a call."""


#: JSON-RPC's codes.
_UNKNOWN_VERB, _BAD_PARAMETERS = -32601, -32602

SAYS_NO = (*door.SAYS_NO, BadCommandLine)


def arguments(parser: argparse.ArgumentParser, _name: str) -> None:
    parser.epilog = (
        "values are text, or JSON where the parameter wants it: key='{\"a\": 1}'; a list of ids is key=ID,ID; "
        "key=new makes a new id. Exit code: 0 answered, 1 refused, failed or not reached, 2 not asked. "
        "`VERB --help` tells a verb's parameters"
    )
    parser.add_argument("verb", metavar="VERB", nargs="?")
    parser.add_argument("words", metavar="KEY=VALUE", nargs="*")
    parser.add_argument("-h", "--help", action="store_true", help="of the command, or of the verb")
    parser.add_argument("--params", metavar="JSON", help="all parameters as one object; - reads it from stdin")
    parser.add_argument("--flow-id", default="", help="correlation id for the logs")
    parser.add_argument("--json", action="store_true", help="errors as JSON too")
    parser.add_argument(
        "--wait",
        nargs="?",
        type=numbers.seconds,
        const=600.0,
        metavar="SECONDS",
        help="follow the task or job that the verb begins, clear it and tell how it ended (600)",
    )
    door.arguments(parser)
    parser.set_defaults(parser=parser)


def run(asked: argparse.Namespace) -> int:
    if asked.help or not asked.verb:
        print(verb_help(asked.verb) if asked.verb else asked.parser.format_help(), end="")
        known = not asked.verb or (asked.verb in VERBS and not VERBS[asked.verb].internal)
        return 0 if asked.help and known else 2
    _require_text(asked.verb, *asked.words, asked.params or "", asked.flow_id)
    try:
        params = parameters(VERBS.get(asked.verb), asked.words, asked.params)
    except BadCommandLine as error:
        return _refuse(asked, _BAD_PARAMETERS, str(error), exit_code=2)
    try:
        with door.connect(asked) as client:

            def ask(verb: str, with_params: dict[str, Any]) -> Any:
                return client.call(verb, with_params, timeout_s=asked.timeout, flow_id=asked.flow_id)

            well, result = True, ask(asked.verb, params)
            spec = VERBS.get(asked.verb)
            if asked.wait and spec is not None and waiting.begins(spec, params, result):
                well, result = waiting.follow(ask, spec, params, result, asked.wait)
    except Error as error:
        return _refuse(asked, error.code, str(error), exit_code=1)
    except stomp.TooLong as error:
        return _refuse(asked, _BAD_PARAMETERS, f"--flow-id is too long: {error}", exit_code=2)
    print(render.as_json(result))
    return 0 if well else 1


def _refuse(asked: argparse.Namespace, code: int, said: str, *, exit_code: int) -> int:
    if asked.json:
        print(render.as_json({"error": {"code": code, "message": said}}))
    # Many sentences name the verb by themselves.
    about = "" if asked.verb in said else f"{asked.verb}: "
    number = "" if exit_code == 2 else f" (code {code})"
    print(f"vdsm-mp: {about}{said}{number}{_hint(asked.verb, code, said)}", file=sys.stderr)
    return exit_code


def _hint(name: str, code: int, said: str = "") -> str:
    """Where to look, for the mistakes that a person makes with a verb."""
    if code == _BAD_PARAMETERS and name in VERBS:
        return f"\n  `vdsm-mp call {name} --help` tells its parameters"
    if code == ConnectionLost.code and said.endswith(os.strerror(errno.ECONNREFUSED)):
        return "\n  nobody listens there; `vdsm-mp status` tells whether this host's agent runs"
    if code == _UNKNOWN_VERB and name in VERBS and VERBS[name].planned:
        return "\n  `vdsm-mp verbs --planned` lists what is not built yet"
    if code == _UNKNOWN_VERB:
        near = similar(name)
        return f"\n  there are {', '.join(near)}" if near else "\n  `vdsm-mp verbs` lists them"
    return ""


def _require_text(*words: str) -> None:
    """Octets that are no text come from the shell as surrogates, which cannot be sent. Raises BadCommandLine."""
    for word in words:
        if any("\ud800" <= letter <= "\udfff" for letter in word):
            raise BadCommandLine(f"{word!a} is not UTF-8")
    if not words[0].isprintable():
        raise BadCommandLine(f"{words[0]!a} is no verb")


def parameters(spec: VerbSpec | None, words: list[str], sealed: str | None) -> dict[str, Any]:
    """The call's parameters. spec: None for a verb that only the other host knows. Raises BadCommandLine."""
    params: dict[str, Any] = {}
    if sealed is not None:
        try:
            params = json.loads(sys.stdin.read() if sealed == "-" else sealed, parse_constant=_no_number)
        except (ValueError, RecursionError) as error:
            raise BadCommandLine(f"--params is not JSON: {error}") from error
        if not isinstance(params, dict):
            raise BadCommandLine("--params must be an object")
    kinds = {f.encode_name: f.type for f in msgspec.structs.fields(spec.message)} if spec else {}
    for word in words:
        key, found, value = word.partition("=")
        if not found:
            raise BadCommandLine(f"{word!r} is not KEY=VALUE")
        params[key] = _value(value, kinds.get(key, Any))
        if value == "new" and params[key] != value:
            print(f"vdsm-mp: {key} is {params[key]}", file=sys.stderr)
    unknown = [key for key in params if key not in kinds] if spec else []
    if spec and unknown:
        raise BadCommandLine(f"{spec.name} has no parameter {unknown[0]}; it has: {', '.join(kinds) or 'none'}")
    return params


def _no_number(word: str) -> float:
    """NaN and Infinity, which Python takes for JSON and nobody else does."""
    raise ValueError(f"{word} is no number")


def _value(text: str, kind: Any) -> Any:
    """Text stays text where text is wanted; elsewhere it is read as JSON, if it is JSON. A list may be `a,b`."""
    name = type_name(kind)
    if name == "uuid" and text == "new":
        return str(uuid.uuid4())
    if name in ("text", "uuid"):
        return text
    try:
        return json.loads(text, parse_constant=_no_number)
    except (ValueError, RecursionError):
        return [one for one in text.split(",") if one] if name in ("list of text", "list of uuid") else text
