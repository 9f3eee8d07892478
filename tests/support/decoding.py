# SPDX-License-Identifier: Apache-2.0
"""How `tests.support.decode` checks an answer, and the answers that say little."""

from typing import Any

from tests.support.rules import (
    Rule,
    Undecodable,
    bare_integer,
    complaints_about,
    list_of,
    nowhere_nan,
    text,
    uuid,
)

Table = dict[str, Rule]


def check(what: str, answer: Any, must: Table, may: Table | None = None, extra: list[str] | None = None) -> Any:
    complaints = [*complaints_about(answer, must, may or {}), *nowhere_nan(answer), *(extra or [])]
    if complaints:
        raise Undecodable(what, complaints)
    return answer


def check_true(answer: Any) -> Any:
    """The result of a verb with nothing to say."""
    if answer is not True:
        raise Undecodable("result", [f"{answer!r}: true is needed"])
    return answer


def check_status(answer: Any) -> Any:
    """The status object that nine verbs return instead of true."""
    return check("status", answer, {"code": bare_integer, "message": text})


def check_task_id(answer: Any) -> Any:
    wrong = uuid(answer)
    if wrong:
        raise Undecodable("task id", [wrong])
    return answer


def check_whole(what: str, answer: Any, must: Table, may: Table | None = None) -> Any:
    """An answer that an engine takes for its own map, and a member `status` for what became of the call."""
    taken = ["status: an engine takes it for the outcome of the call"] if "status" in (answer or {}) else []
    return check(what, answer, must, may or {}, taken)


def check_ids(answer: Any) -> Any:
    """A list of ids."""
    wrong = list_of(uuid)(answer)
    return check("list of ids", {}, {}, {}, [wrong] if wrong else []) or answer


def check_text(answer: Any) -> Any:
    wrong = text(answer)
    return check("text", {}, {}, {}, [wrong] if wrong else []) or answer
