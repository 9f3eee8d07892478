# SPDX-License-Identifier: Apache-2.0
"""The command line, as far as it needs no agent."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.certificates import make_authority
from tests.support.needs import needs_root
from vdsm_mp.api.catalogue import VERBS
from vdsm_mp.cli import call, completion, main, render, status, verbhelp
from vdsm_mp.common.options import Config, House


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    code = main.main(words)
    said = capsys.readouterr()
    return code, said.out, said.err


@pytest.mark.parametrize("name", [name for name in main.COMMANDS if name != "master"])
def test_every_command_has_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    try:
        code, out, _ = run(capsys, name, "--help")
    except SystemExit as ended:
        code, out = int(ended.code or 0), capsys.readouterr().out
    assert code == 0
    assert f"vdsm-mp {name}" in out


def test_an_unknown_command_is_one_line_and_code_2(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, "frobnicate")
    assert (code, out) == (2, "")
    assert "there is no command frobnicate" in err


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("status", "x"), "unrecognized arguments: x; `vdsm-mp status --help` tells more"),
        (("restart",), "the following arguments are required: WORKER; `vdsm-mp restart --help` tells more"),
        (("metrics", "--listen", "192.0.2.1:1"), "--listen 192.0.2.1:1: Cannot assign requested address"),
        (("call", "Host.\udcff"), "'Host.\\udcff' is not UTF-8"),
        (("call", "Host.ping2\n"), "'Host.ping2\\n' is no verb"),
        (("",), "there is no command ''; `vdsm-mp --help` lists them"),
    ],
)
def test_a_mistake_is_one_line_and_code_2(
    words: tuple[str, ...], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(capsys, *words) == (2, "", f"vdsm-mp: {says}\n")


def test_help_of_a_command_may_be_asked_for_in_either_order(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main.main(["help", "verbs"])
    assert "usage: vdsm-mp verbs" in capsys.readouterr().out


@pytest.mark.parametrize("words", ["--help", "--version", "verbs", "schema", "completion", "show-config --help"])
@pytest.mark.parametrize(
    ("where", "outcome"), [(">&-", "0 "), (">/dev/full", "2 vdsm-mp: No space left on device"), ("| false", "0 ")]
)
def test_an_answer_that_nobody_can_take_is_no_traceback(words: str, where: str, outcome: str) -> None:
    command = f"{sys.executable} -m vdsm_mp.cli.main {words} {where}; echo ${{PIPESTATUS[0]}} >&2"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    *said, code = done.stderr.splitlines()
    assert f"{code} {' '.join(said)}" == outcome


def test_names_that_the_terminal_has_no_letters_for_are_spelled() -> None:
    environment = {"LC_ALL": "POSIX", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0", "PYTHONPATH": os.getcwd()}
    argv = [sys.executable, "-m", "vdsm_mp.cli.main", "--help"]
    done = subprocess.run(argv, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert r"vdsm-mp COMMAND \u2026" in done.stdout


def test_a_closed_input_is_an_empty_one() -> None:
    command = f"{sys.executable} -m vdsm_mp.cli.main call Host.ping2 --params - <&-"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("vdsm-mp: Host.ping2: --params is not JSON")


def test_a_mistyped_command_is_told_its_neighbours(capsys: pytest.CaptureFixture[str]) -> None:
    assert "did you mean status" in run(capsys, "stauts")[2]


def test_a_list_may_be_written_with_commas() -> None:
    spec = VERBS["Host.getVMList"]
    assert call.parameters(spec, ["vmList=a,b", "onlyUUID=true"], None) == {"vmList": ["a", "b"], "onlyUUID": True}
    assert call.parameters(spec, ['vmList=["a"]'], None) == {"vmList": ["a"]}


def test_mistakes_are_json_where_json_is_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, "call", "Task.clear", "taskid=1", "--json")
    assert (code, json.loads(out)["error"]["code"]) == (2, -32602)
    assert err.count("Task.clear has no parameter taskid") == 1


@pytest.mark.parametrize(
    "words",
    [
        ("call", "Host.ping2", "--pki", "/nowhere"),
        ("call", "Host.\udcff"),
        ("events", "--pki", "/nowhere"),
        ("show-config", "nope"),
        ("show-config", "--config", "/nowhere"),
    ],
)
def test_every_command_that_is_asked_for_json_answers_in_json_when_it_fails_too(
    words: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = run(capsys, *words, "--json")
    assert code == 2
    assert json.loads(out)["error"]["message"] in err


def test_a_system_that_says_no_is_told_as_json_too(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "vdsm.conf").write_text(f"[vdsm_mp]\nrun_dir = {tmp_path}/vdsm.conf\n")
    monkeypatch.setenv("VDSM_MP_CONFIG", str(tmp_path / "vdsm.conf"))
    code, out, err = run(capsys, "restart", "virt", "--json")
    message = f"{tmp_path}/vdsm.conf/control.sock: Not a directory"
    assert (code, err) == (2, f"vdsm-mp: {message}\n")
    assert json.loads(out) == {"error": {"code": None, "message": message}}


@pytest.mark.parametrize(("encoding", "shown"), [("utf-8", "\U0001f600"), ("ascii", r"\ud83d\ude00")])
def test_json_is_json_whatever_letters_the_terminal_has(encoding: str, shown: str) -> None:
    script = "from vdsm_mp.cli import render; print(render.as_json('\\U0001f600'))"
    environment = {"PYTHONIOENCODING": f"{encoding}:backslashreplace", "PYTHONPATH": os.getcwd()}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, check=True)
    assert done.stdout.decode("utf-8").strip() == f'"{shown}"'
    assert json.loads(done.stdout) == "\U0001f600"


@pytest.mark.parametrize(
    ("key", "cert", "says"),
    [
        ("", None, "{pki}/keys/vdsmkey.pem: there is no private key in it"),
        (None, "nothing", "{pki}/certs/vdsmcert.pem: there is no certificate in it"),
        ("other", None, "cannot be used together"),
    ],
)
def test_a_key_or_a_certificate_that_is_none_is_named(
    key: str | None, cert: str | None, says: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    authority = make_authority(tmp_path)
    files = authority.issue("this", "host")
    if key is not None:
        other = authority.issue("other", "host").key.read_bytes()
        files.key.write_bytes(other if key == "other" else b"")
    if cert is not None:
        files.cert.write_text(cert)
    pki = tmp_path / "pki"
    for name, path in (
        ("keys/vdsmkey.pem", files.key),
        ("certs/vdsmcert.pem", files.cert),
        ("certs/cacert.pem", files.ca),
    ):
        (pki / name).parent.mkdir(parents=True, exist_ok=True)
        (pki / name).write_bytes(path.read_bytes())
    code, out, err = run(capsys, "call", "Host.ping2", "--pki", str(pki), "--json")
    assert code == 2
    assert says.format(pki=pki) in err
    assert json.loads(out)["error"]["message"] in err


@pytest.mark.parametrize(
    ("host", "says"),
    [
        ("x" * 300, "x:9: this is no name of a host (code -32603)\n"),
        ("127.0.0.1", "Connection refused (code -32603)\n  nobody listens there; "),
        ("[::1]", "vdsm-mp: Host.ping2: ::1:9: "),
    ],
)
def test_a_host_that_is_not_there_is_a_sentence(host: str, says: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run(capsys, "call", "Host.ping2", "--plain", "--host", host, "--port", "9")
    assert code == 1
    assert says in err


def test_each_fault_of_the_configuration_is_a_line_that_says_who_tells_it(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "vdsm.conf").write_text("[vars]\nnope = 1\n[irs]\nnope = 1\n")
    code, _, err = run(capsys, "show-config", "--config", str(tmp_path / "vdsm.conf"))
    assert (code, len(err.splitlines())) == (2, 2)
    assert all(line.startswith(f"vdsm-mp: {tmp_path}/vdsm.conf:") for line in err.splitlines())


def test_a_key_that_cannot_be_read_is_named(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    code, _, err = run(capsys, "call", "Host.ping2", "--pki", str(tmp_path))
    assert code == 2
    assert f"{tmp_path}/keys/vdsmkey.pem: No such file or directory" in err


@pytest.mark.parametrize(
    "words",
    [
        ("--timeout", "0"),
        ("--timeout", "-1"),
        ("--timeout", "nan"),
        ("--timeout", "x"),
        ("--port", "70000"),
        ("--port", "-1"),
        ("--port", "x"),
    ],
)
def test_times_and_ports_that_cannot_be_are_refused(words: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run(capsys, "call", "Host.ping2", *words)
    assert code == 2
    assert re.fullmatch(r"vdsm-mp: argument --\w+: \S+ is no (time in seconds|port); .* tells more\n", err)


def test_one_section_or_option_of_the_configuration_is_shown(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    file = tmp_path / "vdsm.conf"
    file.write_text("[irs]\nrepository = /x\n")
    asked = ("show-config", "--config", str(file))
    assert run(capsys, *asked, "irs.repository") == (0, f"[irs]\nrepository = /x    # {file}:2\n\n", "")
    assert json.loads(run(capsys, *asked, "--json", "--changed")[1])["config"] == {
        "irs": {"repository": {"value": "/x", "origin": f"{file}:2"}}
    }
    assert run(capsys, *asked, "nope")[0] == 2
    code, out, _ = run(capsys, *asked, "vars", "--changed")
    assert (code, out.startswith("# no file sets anything here")) == (0, True)


def test_the_master_loads_neither_zmq_nor_asyncio_through_the_command_line() -> None:
    script = (
        "import sys\nfrom vdsm_mp.cli import main\n"
        "try:\n    main.main(['master', '--help'])\nexcept SystemExit:\n    pass\n"
        "print([name for name in ('zmq', 'asyncio', 'libvirt', 'difflib') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_a_reader_that_goes_away_ends_a_command_quietly() -> None:
    command = f"{sys.executable} -m vdsm_mp.cli.main verbs | head -n 1; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("name")


def test_a_command_leaves_the_signals_of_its_process_alone(capsys: pytest.CaptureFixture[str]) -> None:
    before = signal.getsignal(signal.SIGPIPE)
    run(capsys, "verbs", "--json")
    assert signal.getsignal(signal.SIGPIPE) is before


def test_values_become_what_the_parameter_wants() -> None:
    words = ["vmID=123", 'vmParams={"xml": "<a/>"}']
    assert call.parameters(VERBS["VM.create"], words, None) == {"vmID": "123", "vmParams": {"xml": "<a/>"}}
    both = call.parameters(VERBS["Task.clear"], ["taskID=x"], '{"taskID": "y"}')
    assert both == {"taskID": "x"}


@pytest.mark.parametrize(
    ("words", "sealed", "complaint"),
    [
        (["taskid=1"], None, "has no parameter taskid; it has: taskID"),
        (["taskID"], None, "is not KEY=VALUE"),
        ([], '{"taskid": "1"}', "has no parameter taskid"),
        ([], "[1]", "must be an object"),
        ([], "{", "not JSON"),
        ([], '{"taskID": NaN}', "not JSON: NaN is no number"),
        ([], "[" * 100_000, "not JSON"),
    ],
)
def test_a_bad_call_is_refused_before_anything_is_sent(words: list[str], sealed: str | None, complaint: str) -> None:
    with pytest.raises(call.BadCommandLine, match=complaint):
        call.parameters(VERBS["Task.clear"], words, sealed)


def test_the_help_of_a_verb_comes_from_its_declaration() -> None:
    text = verbhelp.verb_help("Task.getStatus")
    assert "taskID" in text
    assert "uuid" in text
    assert "there are Task.getStatus" in verbhelp.verb_help("getstatus")


@pytest.mark.parametrize(
    ("verb", "code", "words"),
    [
        ("Task.getStatus", -32602, "`vdsm-mp call Task.getStatus --help`"),
        ("getstatus", -32601, "there are Task.getStatus"),
        ("Nope", -32601, "`vdsm-mp verbs` lists them"),
        ("GlusterHost.list", -32601, "`vdsm-mp verbs --planned`"),
    ],
)
def test_a_mistake_in_a_call_says_where_to_look(verb: str, code: int, words: str) -> None:
    assert words in call._hint(verb, code)
    assert call._hint(verb, 99) == ""


def test_completion_knows_verbs_and_parameters_that_are_not_given_yet() -> None:
    assert "restart" in completion.candidates(["re"])
    assert completion.candidates(["call", "Task.getS"]) == ["Task.getStatus"]
    assert completion.candidates(["call", "Image.delete", "imageID=1", "imag"]) == []
    assert completion.candidates(["call", "Image.delete", "imag"]) == ["imageID="]
    assert completion.candidates(["restart", "vi"]) == ["virt"]
    assert completion.candidates(["profile", "--seconds", "3", "vi"]) == ["virt"]
    assert completion.candidates(["help", "sta"]) == ["stacks", "status"]
    assert not [name for name in completion.candidates(["call", ""]) if name.startswith("internal.")]


def test_completion_does_not_take_the_value_of_an_option_for_a_verb() -> None:
    assert completion.candidates(["call", "--host", "there", "Task.getS"]) == ["Task.getStatus"]
    assert completion.candidates(["call", "--timeout", "5", "Task.getStatus", "--json", "task"]) == ["taskID="]
    assert completion.candidates(["call", "--host", "Task"]) == []
    assert completion.candidates(["call", "Image.delete", "--wait", "imag"]) == ["imageID="]


def test_completion_knows_the_options_of_a_section() -> None:
    assert completion.candidates(["show-config", "ir"]) == ["irs"]
    assert completion.candidates(["show-config", "irs.repo"]) == ["irs.repository"]
    assert completion.candidates(["show-config", "nope."]) == []


def test_verbs_lists_all_with_their_state(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "verbs", "--json")
    rows: list[dict[str, Any]] = json.loads(out)
    assert code == 0
    assert {row["state"] for row in rows} == {"built", "planned"}
    assert len(rows) == len([spec for spec in VERBS.values() if not spec.internal])
    assert run(capsys, "verbs", "xyzzy")[0] == 1
    assert run(capsys, "verbs", "xyzzy", "--json")[:2] == (1, "[]\n")


def test_status_without_an_agent_is_code_2_and_a_sentence(tmp_path: Path) -> None:
    gathered = status.gather(Config(vdsm_mp=House(run_dir=str(tmp_path))))
    assert gathered["exit_code"] == 2
    assert status.screen(gathered).startswith("not running: ")


@needs_root()
def test_who_may_not_ask_is_not_told_that_nothing_runs(tmp_path: Path) -> None:
    script = (
        "import os, sys\nfrom vdsm_mp.cli import status\nfrom vdsm_mp.common.options import Config, House\n"
        "os.setuid(65534)\nprint(status.screen(status.gather(Config(vdsm_mp=House(run_dir=sys.argv[1])))))\n"
    )
    tmp_path.chmod(0o700)
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("cannot be asked: ")
    assert "only root and the agent's user may ask" in done.stdout


def test_a_key_that_cannot_be_read_is_a_problem_and_not_the_end_of_status(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "vdsm.conf").write_text(f"[vdsm_mp]\npki_dir = {tmp_path}\n[vars]\nno_such_option = 1\n")
    monkeypatch.setenv("VDSM_MP_CONFIG", str(tmp_path / "vdsm.conf"))
    problems: list[str] = []
    assert status._ask_door(Config(), problems) == {}
    assert problems == [f"the door cannot be asked: {tmp_path}/keys/vdsmkey.pem: No such file or directory"]


def test_the_list_of_verbs_does_not_break_its_lines_on_a_narrow_terminal() -> None:
    rows = [("Lease.fence", "Mark the job of a lease as fenced")]
    assert render.table(("verb", "what"), rows, width=30).splitlines()[1] == "Lease.fence  Mark the job of …"
    assert render.table(("verb", "what"), rows).splitlines()[1] == "Lease.fence  Mark the job of a lease as fenced"


def test_a_table_is_as_wide_as_it_must_be() -> None:
    assert render.table(("a", "n"), [("xx", 5), ("y", None)]) == "a   n\nxx  5\ny   -"
    assert [render.seconds(s) for s in (1.25, 45, 125, 7300, 200000)] == ["1.2 s", "45 s", "2 min", "2 h", "2 d"]


def test_check_host_judges_without_changing_anything(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "check-host", "--all")
    assert code in (0, 1)
    assert "things looked at" in out
    code, out, _ = run(capsys, "check-host", "--json")
    told = json.loads(out)
    assert told["well"] is (code == 0)
    assert {"level", "about", "says"} == set(told["findings"][0])


def test_the_schema_names_every_verb(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "schema", "--json")
    assert code == 0
    assert set(json.loads(out)["verbs"]) == {name for name, spec in VERBS.items() if not spec.internal}


def _house(**changes: Any) -> dict[str, Any]:
    worker = {
        "pid": 7, "state": "ready", "uptime_s": 9.0, "restarts": 0, "degraded": False, "last_death": None,
        "rss_kib": 1, "pss_kib": 1, "last_heartbeat_ago_s": 0.1, "vitals": {},
    }  # fmt: skip
    return {
        "version": "1", "pid": 1, "state": "running", "verdict": "ok", "uptime_s": 9.0, "rss_kib": 1, "pss_kib": 1,
        "children": [], "lost": [], "workers": {"virt": worker | changes},
    }  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "sentences"),
    [
        ({}, []),
        (
            {"state": "waiting", "next_start_in_s": 12.0, "last_death": "signal SIGSEGV"},
            ["virt is waiting (next try in 12 s; last death: signal SIGSEGV)"],
        ),
        (
            {"degraded": True, "restarts": 5, "last_death": "exit 1"},
            ["virt died often lately, 5 times in all (last death: exit 1)"],
        ),
        ({"vitals": {"problems": ["libvirt is not connected"]}}, ["virt: libvirt is not connected"]),
    ],
)
def test_status_tells_what_is_wrong_with_a_worker(changes: dict[str, Any], sentences: list[str]) -> None:
    assert status.house_problems(_house(**changes)) == sentences


def test_status_tells_of_certificates_that_nobody_trusts_now_or_soon(tmp_path: Path) -> None:
    authority = make_authority(tmp_path)
    assert status.certificate_problems(authority.issue("fine", "host")) == []
    soon, old = (
        authority.issue("soon", "host", days=3),
        authority.issue("old", "host", start="20200101000000Z", days=365),
    )
    assert status.certificate_problems(soon) == ["the certificate ends in 3 days"]
    (ended,) = status.certificate_problems(old)
    assert re.fullmatch(r"the certificate ended \d{4} days ago", ended)
    (early,) = status.certificate_problems(authority.issue("early", "host", start="20900101000000Z", days=365))
    assert early.startswith("the certificate is not good for another ") and early.endswith(
        "is this host's clock right?"
    )
    old.ca.write_bytes(old.cert.read_bytes())
    assert [line.partition(" ended")[0] for line in status.certificate_problems(old)] == [
        "the certificate", "the CA's certificate",
    ]  # fmt: skip
    old.cert.write_text("nothing")
    assert status.certificate_problems(old)[0] == status.UNREADABLE


def test_the_screen_lists_each_problem_on_a_line_of_its_own() -> None:
    gathered = {
        "house": _house(), "vms": [], "domains": {}, "tasks": {}, "certificate_days_left": 3.0, "exit_code": 1,
        "memory": {"free_mib": 512, "ksm": False, "ksm_pages": 0, "load": "0.10"},
        "problems": ["the certificate ends in 3 days", "virt: libvirt is not connected"],
    }  # fmt: skip
    first, *lines = status.screen(gathered).splitlines()
    assert first.endswith(": 2 problems")
    assert lines[1:3] == ["  ! the certificate ends in 3 days", "  ! virt: libvirt is not connected"]
    assert lines[-1] == "certificate: 3 days left  memory: 512 MiB free, KSM is off  load: 0.10"
