# SPDX-License-Identifier: Apache-2.0
"""Root's helper behind the real sudo, asked by user vdsm: its life, and what it refuses to a hostile caller."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.eventually import eventually
from tests.support.needs import needs_program, needs_root
from tests.support.roothelpers import (
    Place,
    as_vdsm,
    helper_pid,
    parent_of,
    pids,
    request,
    talk,
)
from vdsm_mp.api.errors import DeadlineExceeded, PrivilegedFailed, RootHelperGone
from vdsm_mp.priv.call import SudoRoot
from vdsm_mp.priv.confine import KEPT

pytestmark = [needs_root(), needs_program("sudo", "setpriv", "mkfs.ext4", "losetup")]

VM = "11111111-2222-3333-4444-555555555555"


@pytest.fixture
def own_syslog(place: Place) -> Iterator[tuple[SudoRoot, socket.socket]]:
    """Helpers for storage whose /dev/log is this socket."""
    devices = place.root / "dev"
    devices.mkdir()
    for name in ("null", "zero", "full", "random", "urandom", "tty"):
        info = Path(f"/dev/{name}").stat()
        os.mknod(devices / name, info.st_mode, info.st_rdev)
        (devices / name).chmod(0o666)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as bound:
        bound.bind(str(devices / "log"))
        (devices / "log").chmod(0o666)
        bound.settimeout(20)
        there = ["unshare", "--mount", "sh", "-c", 'mount --bind "$0" /dev && exec "$@"', str(devices)]
        root = SudoRoot("storage", str(place.libexec), sudo=[*there, *as_vdsm(), "sudo", "-n"])
        yield root, bound
        root.close()
    shutil.rmtree(devices)


def test_the_helper_tells_syslog_of_its_start_and_of_each_call(own_syslog: tuple[SudoRoot, socket.socket]) -> None:
    root, bound = own_syslog
    root.do("ping")
    root.do("umount", remote="server:/none")
    told = [bound.recv(4096).decode().partition("]: by vdsm (ppid ")[2].partition("): ")[2] for _ in range(3)]
    assert told == ["start : done", "ping {}: done", 'umount {"remote": "server:/none"}: done']


def test_a_syslog_that_hangs_keeps_nobody_from_root(own_syslog: tuple[SudoRoot, socket.socket]) -> None:
    root, bound = own_syslog
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other, contextlib.suppress(BlockingIOError):
        other.connect(bound.getsockname())
        other.setblocking(False)
        while True:
            other.send(b"x")
    for _ in range(3):
        assert root.do("ping", deadline_s=20)["uid"] == 0


def test_ping_answers_as_root(storage_root: SudoRoot) -> None:
    assert storage_root.do("ping") == {"helper": "storage", "uid": 0, "lost": 0}


# The life of a helper


def test_a_helper_that_is_killed_fails_what_it_had_and_starts_again(place: Place) -> None:
    root = place.root_of("network")
    root.do("ping")
    pid = helper_pid(place, "network")
    os.kill(pid, signal.SIGKILL)

    def again() -> bool:
        with contextlib.suppress(RootHelperGone):
            return bool(root.do("ping")["uid"] == 0)
        return False

    assert eventually(again, within_s=10)


def test_a_helper_that_hangs_is_replaced(place: Place) -> None:
    root = place.root_of("network")
    root.do("ping")
    pid = helper_pid(place, "network")
    os.kill(pid, signal.SIGSTOP)
    try:
        with pytest.raises(DeadlineExceeded):
            root.do("ping", deadline_s=0.1)
        assert root.do("ping")["uid"] == 0
    finally:
        # sudo stops itself together with its program.
        sudo = parent_of(pid)
        os.kill(pid, signal.SIGKILL)
        os.kill(sudo, signal.SIGKILL)


def test_what_was_given_up_is_not_done_when_a_helper_goes_on_after_all(place: Place) -> None:
    root = place.root_of("virt")
    root.do("ping")
    pid = helper_pid(place, "virt")
    sudo = parent_of(pid)
    os.kill(pid, signal.SIGSTOP)
    try:
        with pytest.raises(DeadlineExceeded):
            root.do("write-nvram", deadline_s=0.1, vm_id=VM, offset=0, data="AAAA", last=True)
    finally:
        # sudo stops itself together with its program, and when it goes on has that go on, which may be gone at once.
        for stopped in (pid, sudo):
            os.kill(stopped, signal.SIGCONT)
    eventually(lambda: pid not in pids(place, "virt"), within_s=20)
    assert not (place.root / "nvram" / f"{VM}.fd").exists()


def test_what_was_asked_for_long_ago_is_refused(place: Place) -> None:
    asked = [time.monotonic() - ago for ago in (60, 0)]
    late, now = talk(place.helper("network"), *(request("ping", {}, n, asked_mono=at) for n, at in enumerate(asked)))
    assert late["error"] == "refused" and "too late" in late["detail"]
    assert now["result"]["uid"] == 0


@pytest.mark.parametrize("more", [{"asked_mono": float("nan")}, {"deadline_s": float("nan")}, {"deadline_s": 10**400}])
def test_what_is_no_time_is_no_deadline(place: Place, more: dict[str, Any]) -> None:
    (answer,) = talk(place.helper("network"), request("ping", {}, **more))
    assert answer["error"] == "refused"


def test_a_helper_that_nobody_asks_goes_and_comes_back(place: Place) -> None:
    root = place.root_of("network", idle_s=0.2)
    for _ in range(2):
        assert root.do("ping")["uid"] == 0
        eventually(lambda: not pids(place, "network"), within_s=10)


def test_the_end_of_its_caller_ends_the_helper_and_its_programs(place: Place) -> None:
    helper = place.helper("virt")
    eventually(lambda: pids(place, "virt"))
    helper.kill()
    helper.communicate()
    eventually(lambda: not pids(place, "virt"), within_s=10)


def test_an_operation_of_another_class_is_refused(place: Place) -> None:
    with pytest.raises(PrivilegedFailed, match="no such operation"):
        place.root_of("virt").do("umount", remote="server:/x")
    with pytest.raises(PrivilegedFailed, match="no such operation"):
        place.root_of("clientif").do("ping")
    answer = talk(place.helper("virt"), request("umount", {"remote": "server:/x"}))
    assert answer[0]["error"] == "refused"


def test_a_helper_keeps_the_capabilities_of_its_class_and_nothing_else(place: Place) -> None:
    for worker, helper in (("storage", "storage"), ("network", "network"), ("virt", "virt")):
        place.root_of(worker).do("ping")
        status = Path(f"/proc/{helper_pid(place, helper)}/status").read_text()
        facts = dict(line.split(":\t") for line in status.splitlines() if ":\t" in line)
        allowed = sum(1 << capability for capability in KEPT[helper])
        assert int(facts["CapEff"], 16) == int(facts["CapPrm"], 16) == int(facts["CapBnd"], 16) == allowed
        assert int(facts["CapInh"], 16) == int(facts["CapAmb"], 16) == 0
        assert facts["NoNewPrivs"] == "1"


def test_a_helper_inherits_no_descriptor_of_its_caller(place: Place) -> None:
    secret = os.open("/etc/hostname", os.O_RDONLY)
    os.set_inheritable(secret, True)
    try:
        place.root_of("virt").do("ping")
        opened = [os.readlink(entry) for entry in Path(f"/proc/{helper_pid(place, 'virt')}/fd").iterdir()]
    finally:
        os.close(secret)
    assert "/etc/hostname" not in opened


# A hostile caller


@pytest.mark.parametrize(
    "line",
    [
        b"\n",
        b"garbage\n",
        b"[]\n",
        b"null\n",
        b"{}\n",
        b'{"id":1}\n',
        b"\xff\xfe\n",
        b"[" * 20_000 + b"\n",
        request("ping", {}, number="1"),
        request("ping", {}, number=True),
        request("ping", {}, extra=1),
        request("ping", []),
        request("no-such-thing", {}),
        request("ping", {"x": 1}),
        request("mount-posix", {"remote": "/dev/loop0", "vfs_type": "ext4", "options": "suid"}),
    ],
)
def test_a_line_that_is_no_request_is_refused_and_the_next_one_served(place: Place, line: bytes) -> None:
    answers = talk(place.helper("storage"), line, request("ping", {}, number=7))
    served, refused = sorted(answers, key=lambda answer: answer["id"] != 7)
    assert refused["error"] == "refused"
    assert served["result"]["uid"] == 0


def test_a_line_that_never_ends_closes_the_helper(place: Place) -> None:
    helper = place.helper("storage")
    answers = talk(helper, b"x" * 200_000 + b"\n", request("ping", {}))
    assert answers == []
    assert helper.returncode == 0


def test_a_flood_is_answered_with_refusals_and_not_with_memory(place: Place) -> None:
    answers = talk(place.helper("storage"), *(request("ping", {}, number=n) for n in range(2_000)))
    assert len(answers) == 2_000
    assert any(answer.get("detail") == "too many calls in this second" for answer in answers)


def test_the_helper_does_not_serve_with_a_configuration_others_may_write(place: Place) -> None:
    config = place.libexec / "helper.json"
    config.chmod(0o666)
    try:
        helper = place.helper("storage")
        _, err = helper.communicate(timeout=10)
    finally:
        config.chmod(0o644)
    assert helper.returncode == 1
    assert b"others may write it" in err


# The rules under the real sudo


@pytest.mark.parametrize(
    "argv",
    [
        ["helper-storage", "x"],
        ["helper-storage", ""],
        ["helper-storage.sh"],
        ["helper.json"],
        ["root/vdsm_mp/priv/helper.py"],
    ],
)
def test_sudo_refuses_all_but_the_helpers_without_arguments(place: Place, argv: list[str]) -> None:
    program = f"{place.libexec}/{argv[0]}"
    assert not sudo_allows([program, *argv[1:]])


def test_sudo_allows_exactly_the_helpers(place: Place) -> None:
    for name in ("storage", "network", "virt"):
        assert sudo_allows([f"{place.libexec}/helper-{name}"])
    for other in (["/bin/sh"], ["/usr/bin/mount"], ["-u", "daemon", f"{place.libexec}/helper-storage"]):
        assert not sudo_allows(other)


def sudo_allows(argv: list[str]) -> bool:
    options = argv[:2] if argv[0] == "-u" else []
    program = argv[len(options) :]
    done = subprocess.run([*as_vdsm(), "sudo", "-n", *options, "-l", "--", *program], capture_output=True, check=False)
    return done.returncode == 0
