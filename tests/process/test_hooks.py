# SPDX-License-Identifier: Apache-2.0
"""Hooks as real programs: what they are given, what they may change, and what becomes of hostile or broken ones."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from msgspec.structs import replace

from tests.support.eventually import eventually
from tests.support.needs import needs_root
from vdsm_mp.common import clock
from vdsm_mp.common.hooks import HookFailed, Hooks

XML = "<domain><name>vm</name></domain>"
Write = Callable[..., Path]


@pytest.fixture
def hooks(tmp_path: Path) -> Hooks:
    (tmp_path / "hooks").mkdir()
    (tmp_path / "work").mkdir()
    return Hooks(str(tmp_path / "hooks"), str(tmp_path / "work"), deadline_s=10)


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def make(point: str, name: str, body: str, mode: int = 0o755, shell: str = "/bin/sh") -> Path:
        folder = tmp_path / "hooks" / point
        folder.mkdir(mode=0o755, exist_ok=True)
        path = folder / name
        path.write_text(f"#!{shell}\n{body}\n")
        path.chmod(mode)
        return path

    return make


def test_without_hooks_the_document_comes_back_untouched(hooks: Hooks) -> None:
    document = {"a": object()}
    assert hooks.json("before_get_caps", document) is document
    assert hooks.xml("before_vm_start", XML) is XML
    assert hooks.installed() == {}


def test_hooks_run_in_the_order_of_their_names_and_see_each_others_work(hooks: Hooks, write: Write) -> None:
    write("before_vm_start", "20_b", 'sed -i "s/first/second/" "$_hook_domxml"')
    write("before_vm_start", "10_a", 'sed -i "s/vm/first/" "$_hook_domxml"')
    assert hooks.xml("before_vm_start", XML) == "<domain><name>second</name></domain>"


def test_a_python_hook_imports_hooking(hooks: Hooks, write: Write) -> None:
    body = (
        "import os, hooking\n"
        "data = hooking.read_json()\n"
        "data['isolated'] = hooking.tobool(os.environ['isolated'])\n"
        "hooking.write_json(data)"
    )
    write("after_disk_prepare", "50_x", body, shell="/usr/bin/env python3")
    assert hooks.json("after_disk_prepare", {"disk": 1}, {"isolated": "Yes"}) == {"disk": 1, "isolated": True}
    body = (
        "import hooking\nd = hooking.read_domxml()\nd.documentElement.setAttribute('id', '7')\nhooking.write_domxml(d)"
    )
    write("before_vm_start", "50_x", body, shell="/usr/bin/env python3")
    assert '<domain id="7">' in hooks.xml("before_vm_start", XML)


def test_an_error_lets_the_next_hooks_run_and_a_stop_does_not(hooks: Hooks, write: Write, tmp_path: Path) -> None:
    write("before_vm_start", "1", "echo no luck >&2; exit 1")
    write("before_vm_start", "2", f"touch {tmp_path}/second; exit 2")
    write("before_vm_start", "3", f"touch {tmp_path}/third")
    with pytest.raises(HookFailed, match="2: status 2"):
        hooks.xml("before_vm_start", XML)
    assert (tmp_path / "second").exists()
    assert not (tmp_path / "third").exists()


def test_a_point_that_does_not_raise_gives_the_document_whatever_happens(hooks: Hooks, write: Write) -> None:
    write("after_vm_start", "1", 'echo changed > "$_hook_domxml"; exit 77')
    assert hooks.xml("after_vm_start", XML, raises=False) == "changed\n"
    write("after_get_caps", "1", 'echo "{half" > "$_hook_json"')
    assert hooks.json("after_get_caps", {"a": 1}, raises=False) == {"a": 1}
    with pytest.raises(HookFailed, match="not JSON"):
        hooks.json("after_get_caps", {"a": 1})


def test_a_hook_that_hangs_is_ended_with_what_it_started(hooks: Hooks, write: Write, tmp_path: Path) -> None:
    write("before_vm_start", "1", f"sleep 600 & echo $! > {tmp_path}/pid; wait")
    with pytest.raises(HookFailed, match="did not end"):
        Hooks(hooks.directory, hooks.work_dir, deadline_s=0.3).xml("before_vm_start", XML)
    eventually(lambda: not alive(int((tmp_path / "pid").read_text())))


def test_hooks_that_have_some_time_together_do_not_begin_when_it_is_over(hooks: Hooks, write: Write) -> None:
    write("after_vm_destroy", "1", "exec sleep 600")
    write("after_vm_destroy", "2", 'echo changed > "$_hook_domxml"')
    together = replace(hooks, until_mono=clock.mono_s() + 0.3)
    assert together.xml("after_vm_destroy", XML, raises=False) == XML
    with pytest.raises(HookFailed, match="no time"):
        together.xml("after_vm_destroy", XML)


def test_what_a_hook_leaves_running_is_ended(hooks: Hooks, write: Write, tmp_path: Path) -> None:
    write("before_vm_start", "1", f"sleep 600 & echo $! > {tmp_path}/pid")
    hooks.xml("before_vm_start", XML)
    eventually(lambda: not alive(int((tmp_path / "pid").read_text())))


def test_output_without_end_is_an_error_and_not_our_memory(hooks: Hooks, write: Write) -> None:
    write("before_vm_start", "1", "exec cat /dev/zero")
    with pytest.raises(HookFailed, match="bytes of output"):
        hooks.xml("before_vm_start", XML)


def test_a_document_that_grew_too_large_is_an_error(hooks: Hooks, write: Write) -> None:
    write("before_vm_start", "1", 'truncate -s 100M "$_hook_domxml"')
    with pytest.raises(HookFailed, match="left more than"):
        hooks.xml("before_vm_start", XML)


def test_hooks_that_others_may_write_do_not_run(hooks: Hooks, write: Write) -> None:
    write("before_vm_start", "1", 'echo changed > "$_hook_domxml"', mode=0o777)
    write("before_vm_start", "2", 'echo changed > "$_hook_domxml"', mode=0o644)
    target = write("elsewhere", "real", 'echo changed > "$_hook_domxml"')
    (target.parents[1] / "before_vm_start/3").symlink_to(target)
    (target.parents[1] / "before_vm_start/4").mkdir()
    assert hooks.xml("before_vm_start", XML) == XML
    assert set(hooks.installed()) == {"elsewhere"}
    write("before_vm_start", "5", 'echo changed > "$_hook_domxml"')
    assert hooks.xml("before_vm_start", XML) != XML
    (target.parents[1] / "before_vm_start").chmod(0o777)
    assert hooks.xml("before_vm_start", XML) == XML


@needs_root()
def test_a_hook_of_another_user_does_not_run(hooks: Hooks, write: Write) -> None:
    os.chown(write("before_vm_start", "1", 'echo changed > "$_hook_domxml"'), 65534, 65534)
    assert hooks.xml("before_vm_start", XML) == XML


@pytest.mark.parametrize("point", ["../hooks/before_vm_start", "", ".", "a/b", "before_vm_start\n"])
def test_a_point_is_a_plain_name(hooks: Hooks, write: Write, point: str) -> None:
    write("before_vm_start", "1", 'echo changed > "$_hook_domxml"')
    assert hooks.xml(point, XML) == XML


def test_properties_of_clients_cannot_change_what_runs(hooks: Hooks, write: Write, tmp_path: Path) -> None:
    write("before_vm_start", "1", f"env > {tmp_path}/env")
    bad = {"LD_PRELOAD": "x", "PATH": "/x", "PYTHONPATH": "/x", "_hook_domxml": "/x", "a b": "x", "BASH_ENV": "x"}
    hooks.xml("before_vm_start", XML, {**bad, "macspoof": "true", "vmId": "1"})
    seen = (tmp_path / "env").read_text().splitlines()
    assert "macspoof=true" in seen
    assert "vmId=1" in seen
    assert not [line for line in seen if line.endswith(("=x", "=/x"))]


def test_nothing_is_left_in_the_work_folder(hooks: Hooks, write: Write) -> None:
    write("before_vm_start", "1", "exit 2")
    with pytest.raises(HookFailed):
        hooks.xml("before_vm_start", XML)
    assert os.listdir(hooks.work_dir) == []


def test_installed_hooks_are_told_with_their_checksums(hooks: Hooks, write: Write) -> None:
    write("before_vm_start", "50_x", "exit 0")
    checksum = hooks.installed()["before_vm_start"]["50_x"]["checksum"]
    assert len(checksum) == 64


def alive(pid: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2][:3]
    except OSError:
        return False
