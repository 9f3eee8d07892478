# SPDX-License-Identifier: Apache-2.0
"""The whole house as an operator runs it: user vdsm, sudo, own ports, run directories and prefix. Needs root.

    with RunningHouse.start(libvirt_uri=libvirtd.uri) as house:
        house.call("Host.ping2")
        os.kill(house.pid_of("virt"), signal.SIGKILL)
        house.wait_ready()

Nothing is shared with an agent that runs on this machine, nor with other tests. `stop` ends every process and removes
every file; when the test itself is killed, the master is told to stop.
"""

import atexit
import contextlib
import json
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.support.certificates import make_authority
from tests.support.eventually import eventually
from vdsm_mp.common import controlsocket, kernel
from vdsm_mp.priv import install, sudoers
from vdsm_mp.wire.client import Client
from vdsm_mp.wire.tls import Files, client_context

CHECKOUT = Path(__file__).resolve().parents[2]
USER, GROUP = "vdsm", "kvm"
_WORKERS = ("storage", "network", "virt", "scheduler", "clientif")


@cache
def program() -> Path:
    """A copy of the program and of the tests' own rooms that user vdsm can read, wherever the checkout lies."""
    folder = Path(tempfile.mkdtemp(prefix="vdsm-mp-program-", dir="/tmp"))
    atexit.register(forget_program)  # for benches and scripts; a session of tests removes it itself
    ignore = shutil.ignore_patterns("__pycache__")
    shutil.copytree(CHECKOUT / "vdsm_mp", folder / "vdsm_mp", ignore=ignore)
    (folder / "tests").mkdir()
    shutil.copytree(CHECKOUT / "tests/support", folder / "tests/support", ignore=ignore)
    # As an installation does: otherwise every worker of every house compiles all that it imports.
    beside = {name: value for name, value in os.environ.items() if name != "PYTHONPYCACHEPREFIX"}
    subprocess.run([sys.executable, "-m", "compileall", "-q", folder], check=True, env=beside)
    subprocess.run(["chmod", "-R", "a+rX", folder], check=True)
    return folder


def forget_program() -> None:
    """Called once at the end of the session."""
    if program.cache_info().currsize:
        shutil.rmtree(program(), ignore_errors=True)
        program.cache_clear()


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def ends_with_us() -> list[str]:
    """What a command is started through that is to be told to stop when these tests are killed.

    The kernel looks at the thread that began it, so only the main one's may.
    """
    if threading.current_thread() is not threading.main_thread():
        return []
    return ["setpriv", "--pdeathsig", "TERM", "--"]


class RunningHouse:
    """See the module. root: the prefix; its folders are run, log, state, repo, vrun, libexec, etc."""

    def __init__(self, options: Mapping[str, Mapping[str, object]], *, tls: bool, table: str, libvirt_uri: str) -> None:
        user = pwd.getpwnam(USER)  # before anything is there that would be left
        self.root = Path(tempfile.mkdtemp(prefix="vdsm-mp-house-", dir="/tmp"))
        self.root.chmod(0o755)
        self.tls = tls
        self.table = table
        self.port = free_port()
        self.process: subprocess.Popen[bytes] | None = None
        #: More of its environment.
        self.environment: dict[str, str] = {}
        #: A command that the master is started through, such as prlimit.
        self.through: list[str] = []
        self._sudoers = Path(f"/etc/sudoers.d/{self.root.name}")
        self._clients: list[Client] = []
        for name in ("run", "log", "state", "repo", "vrun"):
            (self.root / name).mkdir()
            os.chown(self.root / name, user.pw_uid, user.pw_gid)
        for name in ("etc", "hooks"):
            (self.root / name).mkdir()
        self.files = self._pki() if tls else None
        self._install()
        self._configure(options, libvirt_uri)

    # Making the prefix

    def _pki(self) -> Files:
        self.authority = make_authority(self.root / "ca")
        files = self.authority.issue("host", "127.0.0.1")
        subprocess.run(["chmod", "-R", "a+rX", self.root / "ca"], check=True)
        return files

    def _install(self) -> None:
        libexec = self.root / "libexec"
        install.install(libexec, user=USER, repository=str(self.root / "repo"))
        fresh = self._sudoers.with_name(f".{self._sudoers.name}.new")
        fresh.write_text(sudoers.rules(str(libexec), USER))
        fresh.chmod(0o440)
        fresh.rename(self._sudoers)

    def _configure(self, options: Mapping[str, Mapping[str, object]], libvirt_uri: str) -> None:
        root = self.root
        shutil.copy(CHECKOUT / "etc/logger.conf", root / "etc/logger.conf")
        (root / "etc/vdsm.id").write_text("6b1f7ee0-0b1e-4f0c-9d0e-2f3f1f9a7c11\n")
        sections: dict[str, dict[str, object]] = {
            "vars": {"ssl": self.tls, "cpu_affinity": ""},
            "irs": {"repository": root / "repo"},
            "addresses": {"management_port": self.port, "management_ip": "127.0.0.1"},
            "vdsm_mp": {
                "run_dir": root / "run",
                "vdsm_run_dir": root / "vrun",
                "log_dir": root / "log",
                "state_dir": root / "state",
                "libexec_dir": root / "libexec",
                "logger_conf": root / "etc/logger.conf",
                "vdsm_id_file": root / "etc/vdsm.id",
                "hooks_dir": root / "hooks",
                "pki_dir": self.files.key.parents[1] if self.files is not None else root / "no-pki",
                "libvirt_uri": libvirt_uri,
            },
        }
        for name, values in options.items():
            sections.setdefault(name, {}).update(values)
        lines: list[str] = []
        for name, values in sections.items():
            lines += [f"[{name}]", *(f"{key} = {value}" for key, value in values.items())]
        self.config_file.write_text("\n".join(lines) + "\n")

    @property
    def config_file(self) -> Path:
        return self.root / "etc/vdsm.conf"

    # Life

    @classmethod
    def start(
        cls,
        options: Mapping[str, Mapping[str, object]] | None = None,
        *,
        tls: bool = False,
        table: str = "",
        libvirt_uri: str = "test:///default",
        wait: bool = True,
    ) -> Self:
        """A house that is ready, unless `wait` is false. table: module with another process table."""
        house = cls(options or {}, tls=tls, table=table, libvirt_uri=libvirt_uri)
        try:
            house.begin()
            if wait:
                house.wait_ready()
        except BaseException:
            print(house.log_text()[-8000:], file=sys.stderr)
            house.stop()
            raise
        return house

    def begin(self) -> None:
        """Start the master (again)."""
        user = pwd.getpwnam(USER)
        groups = os.getgrouplist(USER, user.pw_gid)
        argv = [*ends_with_us(), *self.through]
        argv += [sys.executable, "-W", "error", "-m", "vdsm_mp", "--config", str(self.config_file)]
        with open(self.root / "stderr.log", "ab") as stderr:
            self.process = subprocess.Popen(
                [*argv, *(["--table", self.table] if self.table else [])],
                user=user.pw_uid,
                group=user.pw_gid,
                extra_groups=groups,
                cwd="/",
                env={
                    "HOME": user.pw_dir,
                    "PATH": os.environ["PATH"],
                    "PYTHONPATH": str(program()),
                    "PYTHONDONTWRITEBYTECODE": "1",
                    **self.environment,
                },
                stdin=subprocess.DEVNULL,
                stdout=stderr,
                stderr=stderr,
                start_new_session=True,
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            print(self.log_text()[-12000:], file=sys.stderr)
        self.stop()

    def stop(self) -> None:
        """End everything and remove every trace. Repeating is harmless."""
        for client in self._clients:
            client.close()
        self._clients = []
        left = self.all_pids()
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(30)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait(10)
        for pid in left:
            facts = kernel.process(pid)
            if facts is not None and facts.session == pid:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        # One that did not answer, or that somebody else began; its workers die with it.
        if master := kernel.who_has_open(str(self.root / "run" / controlsocket.LOCK)):
            with contextlib.suppress(ProcessLookupError):
                os.kill(master, signal.SIGKILL)
        self._sudoers.unlink(missing_ok=True)
        shutil.rmtree(self.root, ignore_errors=True)

    def terminate(self, within_s: float = 30) -> int:
        """SIGTERM, and the exit code."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(within_s)

    # Looking

    def ask(self, do: str, *, timeout_s: float = 20.0, **more: Any) -> Any:
        """One request to the control socket."""
        return controlsocket.ask(str(self.root / "run"), do, timeout_s=timeout_s, **more)

    def status(self) -> dict[str, Any]:
        answer = self.ask("status")
        assert isinstance(answer, dict)
        return answer

    def worker(self, name: str) -> dict[str, Any]:
        found = self.status()["workers"][name]
        assert isinstance(found, dict)
        return found

    def pid_of(self, name: str) -> int:
        return int(self.worker(name)["pid"])

    def all_pids(self) -> list[int]:
        """The master, its workers and their children, as far as the master answers."""
        try:
            status = self.status()
        except (controlsocket.NotRunning, controlsocket.Refused, OSError, json.JSONDecodeError):
            return []
        pids = [w["pid"] for w in status["workers"].values() if w["pid"]] + [c["pid"] for c in status["children"]]
        return [status["pid"], *pids]

    def ready(self) -> bool:
        if self.process is not None and self.process.poll() is not None:
            raise RuntimeError(f"the master has ended with {self.process.returncode}:\n{self.log_text()[-4000:]}")
        try:
            status = self.status()
        except (controlsocket.NotRunning, controlsocket.Refused, OSError):
            return False
        return all(worker["state"] == "ready" for worker in status["workers"].values())

    def wait_ready(self, within_s: float = 30.0) -> None:
        eventually(self.ready, within_s=within_s)

    def wait_other_pid(self, name: str, pid: int, within_s: float = 15.0) -> None:
        """Until the worker is ready with another pid than this."""

        def there() -> bool:
            worker = self.worker(name)
            return worker["state"] == "ready" and worker["pid"] != pid

        eventually(there, within_s=within_s)

    def kill_worker(self, name: str, within_s: float = 15.0) -> None:
        """And wait for the next one to be ready."""
        pid = self.pid_of(name)
        os.kill(pid, signal.SIGKILL)
        self.wait_other_pid(name, pid, within_s)

    def _wait_written(self) -> None:
        """Until the log's writer has written what was said before; the house may be gone, or the writer hang."""
        until = time.monotonic() + 2
        with contextlib.suppress(controlsocket.NotRunning, controlsocket.Refused, OSError, json.JSONDecodeError):
            while self.status()["log"]["waiting_bytes"] and time.monotonic() < until:
                time.sleep(0.01)

    def log_text(self) -> str:
        self._wait_written()
        parts = [path.read_text(errors="replace") for path in sorted((self.root / "log").glob("*.log"))]
        stderr = self.root / "stderr.log"
        return "".join(parts) + (stderr.read_text(errors="replace") if stderr.exists() else "")

    # Calling

    def client(self, **more: Any) -> Client:
        """A connection through the public port; closed with the house."""
        context = client_context(self.files) if self.files is not None else None
        client = Client("127.0.0.1", self.port, context=context, **more)
        self._clients.append(client)
        return client

    def call(self, verb: str, params: Mapping[str, Any] | None = None, *, timeout_s: float = 60.0) -> Any:
        """One call on a connection of its own."""
        context = client_context(self.files) if self.files is not None else None
        with contextlib.closing(Client("127.0.0.1", self.port, context=context)) as client:
            return client.call(verb, dict(params or {}), timeout_s=timeout_s)
