# SPDX-License-Identifier: Apache-2.0
"""Root's helper behind the real sudo, asked by user vdsm: what it does, and what it refuses to a hostile caller."""

import base64
import contextlib
import grp
import json
import lzma
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.eventually import eventually
from tests.support.loopdevice import MIB, ext4_on_loop
from tests.support.needs import needs_program, needs_root
from vdsm_mp.api.errors import DeadlineExceeded, PrivilegedFailed, RootHelperGone
from vdsm_mp.priv import install, sudoers
from vdsm_mp.priv.call import SudoRoot
from vdsm_mp.priv.confine import KEPT

pytestmark = [needs_root(), needs_program("sudo", "setpriv", "mkfs.ext4", "losetup")]

VM = "11111111-2222-3333-4444-555555555555"


class Place:
    """An installation of the helpers under its own prefix, with its own sudo rules."""

    def __init__(self) -> None:
        # Not pytest's own folder: user vdsm must be able to reach the programs.
        self.root = Path(tempfile.mkdtemp(prefix="vdsm-mp-root-", dir="/tmp"))
        self.root.chmod(0o755)
        self.libexec = self.root / "libexec"
        self.repository = self.root / "repo"
        for name in ("repo", "nvram", "tpm"):
            (self.root / name).mkdir()
        shutil.chown(self.repository, "vdsm", "kvm")
        install.install(
            self.libexec,
            repository=str(self.repository),
            nvram_dir=str(self.root / "nvram"),
            tpm_dir=str(self.root / "tpm"),
        )
        self._rules = Path(f"/etc/sudoers.d/{self.root.name}")
        fresh = self._rules.with_name(f".{self._rules.name}.new")
        fresh.write_text(sudoers.rules(str(self.libexec), "vdsm"))
        fresh.chmod(0o440)
        fresh.rename(self._rules)
        self._open: list[SudoRoot] = []

    def root_of(self, worker: str, **more: Any) -> SudoRoot:
        """As user vdsm through the real sudo. The step down is `setpriv`'s, because the tests are root."""
        argv = [*as_vdsm(), "sudo", "-n"]
        root = SudoRoot(worker, str(self.libexec), sudo=argv, **more)
        self._open.append(root)
        return root

    def helper(self, name: str) -> "subprocess.Popen[bytes]":
        """A raw helper for lines that no honest caller would send."""
        argv = [*as_vdsm(), "sudo", "-n", str(self.libexec / f"helper-{name}")]
        return subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    def close_roots(self) -> None:
        while self._open:
            self._open.pop().close()

    def close(self) -> None:
        self._rules.unlink()
        shutil.rmtree(self.root)


def as_vdsm() -> list[str]:
    user = pwd.getpwnam("vdsm")
    return ["setpriv", "--reuid", str(user.pw_uid), "--regid", str(user.pw_gid), "--init-groups", "--"]


@pytest.fixture(scope="module")
def place() -> Iterator[Place]:
    try:
        grp.getgrnam("kvm")
        pwd.getpwnam("vdsm")
    except KeyError:
        pytest.skip("not installed: user vdsm")
    made = Place()
    yield made
    made.close()


@pytest.fixture(autouse=True)
def _no_helper_is_left(place: Place) -> Iterator[None]:
    yield
    place.close_roots()


@pytest.fixture
def storage(place: Place) -> SudoRoot:
    return place.root_of("storage")


def talk(helper: "subprocess.Popen[bytes]", *lines: bytes) -> list[dict[str, Any]]:
    """Send lines, read as many answers (fewer when the helper ends), then EOF."""
    assert helper.stdin is not None and helper.stdout is not None
    writer = threading.Thread(target=_write, args=(helper.stdin, b"".join(lines)))
    writer.start()
    answers = []
    while len(answers) < len(lines) and (line := helper.stdout.readline()):
        answers.append(json.loads(line))
    writer.join()
    helper.communicate(timeout=20)
    return answers


def _write(stdin: Any, data: bytes) -> None:
    with contextlib.suppress(BrokenPipeError):
        stdin.write(data)
        stdin.flush()


def request(op: str, params: Any, number: Any = 1, **more: Any) -> bytes:
    return json.dumps({"id": number, "op": op, "params": params, "deadline_s": 5, **more}).encode() + b"\n"


# What it does


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


def test_the_bridge_of_cards_without_a_network_is_made_once_and_is_up(place: Place) -> None:
    keeper = subprocess.Popen(["unshare", "--net", "sleep", "60"])
    try:
        eventually(lambda: os.readlink(f"/proc/{keeper.pid}/ns/net") != os.readlink("/proc/self/ns/net"))
        inside = ["nsenter", "--target", str(keeper.pid), "--net"]
        root = SudoRoot("network", str(place.libexec), sudo=inside)
        root.do("dummy-bridge")
        root.do("dummy-bridge")
        root.close()
        shown = subprocess.run(
            [*inside, "ip", "-j", "-d", "link", "show", ";vdsmdummy;"], check=True, capture_output=True
        )
        (link,) = json.loads(shown.stdout)
        assert (link["linkinfo"]["info_kind"], "UP" in link["flags"]) == ("bridge", True)
    finally:
        keeper.kill()
        keeper.wait(10)


def test_ping_answers_as_root(storage: SudoRoot) -> None:
    assert storage.do("ping") == {"helper": "storage", "uid": 0, "lost": 0}


def test_a_file_system_is_mounted_and_unmounted_by_the_name_of_its_device(
    place: Place, storage: SudoRoot, tmp_path: Path
) -> None:
    with ext4_on_loop(tmp_path / "fs.img", 16 * MIB) as device:
        name = device.replace("/", "_")
        try:
            first = storage.do("mount-posix", remote=device, vfs_type="ext4", options="noatime")
            again = storage.do("mount-posix", remote=device, vfs_type="ext4")
            mounts = Path("/proc/mounts").read_text()
        finally:
            storage.do("umount", remote=device)
    target = str(place.repository / "mnt" / name)
    assert first == {"path": target, "already": False}
    assert again == {"path": target, "already": True}
    assert f"{device} {target} ext4 rw,nosuid,nodev,noatime" in mounts
    assert not Path(target).exists()
    assert storage.do("umount", remote=device)["already"]


def test_a_mount_point_that_the_agent_turned_into_a_link_is_refused(
    place: Place, storage: SudoRoot, tmp_path: Path
) -> None:
    with ext4_on_loop(tmp_path / "fs.img", 16 * MIB) as device:
        mnt = place.repository / "mnt"
        mnt.mkdir(exist_ok=True)
        link = mnt / device.replace("/", "_")
        link.symlink_to("/etc")
        try:
            with pytest.raises(PrivilegedFailed, match="not a plain folder"):
                storage.do("mount-posix", remote=device, vfs_type="ext4")
        finally:
            link.unlink()
    assert " /etc " not in Path("/proc/mounts").read_text()


def test_a_mnt_folder_that_the_agent_turned_into_a_link_is_refused(place: Place, storage: SudoRoot) -> None:
    mnt = place.repository / "mnt"
    aside = place.repository / "aside"
    mnt.mkdir(exist_ok=True)
    mnt.rename(aside)
    mnt.symlink_to("/")
    try:
        with pytest.raises(PrivilegedFailed, match="not a plain folder"):
            storage.do("umount", remote="proc")
    finally:
        mnt.unlink()
        aside.rename(mnt)
    assert Path("/proc/self").exists()


@pytest.mark.parametrize("remote", ["/etc/passwd", "/dev/null", "/dev/../etc/passwd", "relative", "a b:/x", "..", "."])
def test_only_block_devices_and_remote_paths_are_mounted(storage: SudoRoot, remote: str) -> None:
    with pytest.raises(PrivilegedFailed):
        storage.do("mount-posix", remote=remote, vfs_type="ext4")


def test_uefi_variables_are_read_and_written_in_place(place: Place) -> None:
    virt = place.root_of("virt")
    path = place.root / "nvram" / f"{VM}.fd"
    assert virt.do("read-nvram", vm_id=VM)["data"] == ""
    content = os.urandom(60_000)
    for offset in range(0, len(content), 30_000):
        piece = base64.b64encode(content[offset : offset + 30_000]).decode()
        virt.do("write-nvram", vm_id=VM, offset=offset, data=piece, last=offset == 30_000)
    assert base64.b64decode(virt.do("read-nvram", vm_id=VM)["data"]) == content
    assert path.stat().st_mode & 0o777 == 0o600
    path.unlink()
    path.symlink_to("/etc/shadow")
    with pytest.raises(PrivilegedFailed):
        virt.do("read-nvram", vm_id=VM)
    path.unlink()


def test_pieces_that_do_not_follow_each_other_change_nothing(place: Place) -> None:
    virt = place.root_of("virt")
    with pytest.raises(PrivilegedFailed, match="follow"):
        virt.do("write-nvram", vm_id=VM, offset=10, data="AAAA", last=True)
    assert not (place.root / "nvram" / f"{VM}.fd").exists()


def test_tpm_state_comes_back_as_it_was(place: Place) -> None:
    virt = place.root_of("virt")
    folder = place.root / "tpm" / VM / "tpm2"
    folder.mkdir(parents=True)
    (folder / "tpm2-00.permall").write_bytes(b"state")
    data = virt.do("read-tpm", vm_id=VM)["data"]
    assert virt.do("read-tpm", vm_id=VM)["data"] == data
    (folder / "tpm2-00.permall").write_bytes(b"other")
    virt.do("write-tpm", vm_id=VM, offset=0, data=data, last=True)
    assert (folder / "tpm2-00.permall").read_bytes() == b"state"
    shutil.rmtree(place.root / "tpm")
    virt.do("write-tpm", vm_id=VM, offset=0, data=data, last=True)
    assert (folder / "tpm2-00.permall").read_bytes() == b"state"


def test_tpm_state_goes_to_hosts_that_run_vdsm_and_comes_from_them(place: Place, tmp_path: Path) -> None:
    """There it is unpacked and packed by tar with xz, from the folder that swtpm has for the VM."""
    virt = place.root_of("virt")
    folder = place.root / "tpm" / VM / "tpm2"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / ".lock").touch()
    (folder / "tpm2-00.permall").write_bytes(b"state" * 1000)
    packed = base64.b64decode(virt.do("read-tpm", vm_id=VM)["data"])
    subprocess.run(["tar", "--extract", "--xz", f"--directory={tmp_path}"], input=packed, check=True)
    assert (tmp_path / "tpm2" / "tpm2-00.permall").read_bytes() == b"state" * 1000

    (tmp_path / "tpm2" / "tpm2-00.permall").write_bytes(b"later")
    (tmp_path / "tpm2" / ".lock").touch()
    tar = ["tar", "--create", "--xz", "--sort=name", f"--directory={tmp_path}", "."]
    theirs = base64.b64encode(subprocess.run(tar, capture_output=True, check=True).stdout).decode()
    virt.do("write-tpm", vm_id=VM, offset=0, data=theirs, last=True)
    assert (folder / "tpm2-00.permall").read_bytes() == b"later"


@pytest.mark.parametrize(
    "content",
    [b"no xz", lzma.compress(b"no tar"), lzma.compress(b"cut")[:-5], lzma.compress(bytes(64 << 20))],
    ids=["no-xz", "no-tar", "cut", "bomb"],
)
def test_tpm_state_that_makes_no_sense_changes_nothing(place: Place, content: bytes) -> None:
    virt = place.root_of("virt")
    folder = place.root / "tpm" / VM / "tpm2"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tpm2-00.permall").write_bytes(b"state")
    with pytest.raises(PrivilegedFailed, match="TPM state"):
        virt.do("write-tpm", vm_id=VM, offset=0, data=base64.b64encode(content).decode(), last=True)
    assert (folder / "tpm2-00.permall").read_bytes() == b"state"


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


def pids(place: Place, name: str) -> list[int]:
    """Helpers of this installation that run."""
    wanted = str(place.libexec / f"helper-{name}")
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                words = (entry / "cmdline").read_bytes().decode(errors="replace").split("\0")
                if wanted in words[1:3] and words[0].endswith("python3"):
                    found.append(int(entry.name))
    return found


def parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def helper_pid(place: Place, name: str) -> int:
    return eventually(lambda: pids(place, name))[0]


def test_devices_that_are_not_there_are_refused(place: Place) -> None:
    network, virt = place.root_of("network"), place.root_of("virt")
    with pytest.raises(PrivilegedFailed, match="no virtual functions"):
        network.do("vfs-set", card="ffff:ff:1f.7", number=1)
    with pytest.raises(PrivilegedFailed, match="makes no mediated devices"):
        virt.do("mdev-create", card="ffff:ff:1f.7", type="nvidia-11", uuid=VM)
    virt.do("mdev-remove", uuid=VM)
    place.close_roots()
