# SPDX-License-Identifier: Apache-2.0
"""What `call --wait` follows, and how it ends. The agent here is a list of answers."""

from typing import Any

import pytest

from vdsm_mp.api.catalogue import VERBS
from vdsm_mp.api.errors import DeadlineExceeded
from vdsm_mp.cli import call, waiting

ID = "11111111-2222-3333-4444-555555555555"


class Agent:
    """Answers in order, the last one again and again; what was asked is kept."""

    def __init__(self, *answers: Any) -> None:
        self.answers = list(answers)
        self.asked: list[tuple[str, dict[str, Any]]] = []

    def ask(self, verb: str, params: dict[str, Any]) -> Any:
        self.asked.append((verb, params))
        if verb == "Task.clear":
            return True
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]


def task(state: str, result: str = "") -> dict[str, Any]:
    return {"taskID": ID, "taskState": state, "taskResult": result, "code": 0, "message": ""}


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "_EVERY_S", 0.01)


@pytest.mark.parametrize(("result", "well"), [("success", True), ("cleanSuccess", False), ("cleanFailure", False)])
def test_a_task_is_followed_to_its_end_and_cleared(result: str, well: bool) -> None:
    agent = Agent(task("running"), task("running"), task("finished", result))
    spec = VERBS["Volume.create"]
    assert waiting.begins(spec, {}, ID) == "task"
    assert waiting.follow(agent.ask, spec, {}, ID, 5) == (well, task("finished", result))
    assert agent.asked[-1] == ("Task.clear", {"taskID": ID})


@pytest.mark.parametrize(("status", "well"), [("done", True), ("failed", False), ("aborted", False)])
def test_a_job_is_followed_to_its_end(status: str, well: bool) -> None:
    agent = Agent({ID: {"status": "running", "progress": 10.0}}, {ID: {"status": status}})
    for verb, params in (("SDM.add_bitmap", {"job_id": ID}), ("VM.snapshot", {"jobUUID": ID})):
        assert waiting.begins(VERBS[verb], params, True) == "job"
    assert waiting.follow(agent.ask, VERBS["SDM.add_bitmap"], {"job_id": ID}, True, 5) == (well, {"status": status})


def test_a_job_that_nobody_knows_did_not_end_well() -> None:
    assert waiting.follow(Agent({}).ask, VERBS["SDM.merge"], {"job_id": ID}, True, 5) == (False, None)


def test_waiting_ends_while_the_task_goes_on_and_leaves_it() -> None:
    agent = Agent(task("running"))
    with pytest.raises(DeadlineExceeded, match="may still be running"):
        waiting.follow(agent.ask, VERBS["Image.move"], {}, ID, 0.05)
    assert "Task.clear" not in {verb for verb, _ in agent.asked}


def test_what_is_over_with_its_answer_is_not_followed() -> None:
    for verb, result in (("Host.ping2", True), ("NBD.start_server", "nbd:unix:x"), ("VM.snapshot", True)):
        assert waiting.begins(VERBS[verb], {"vmID": ID}, result) is None
    assert waiting.begins(None, {}, ID) is None


def test_new_makes_an_id_where_an_id_is_wanted(capsys: pytest.CaptureFixture[str]) -> None:
    params = call.parameters(VERBS["Volume.setDescription"], ["volumeID=new", "description=new"], None)
    assert params["description"] == "new"
    assert len(params["volumeID"]) == 36
    assert f"volumeID is {params['volumeID']}" in capsys.readouterr().err
