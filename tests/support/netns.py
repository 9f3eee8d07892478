# SPDX-License-Identifier: Apache-2.0
"""A network namespace with two NICs and a network worker in it, with root's real helper. Needs root, ip, sudo, setpriv.

    with contextlib.closing(Namespace()) as host:
        host.start()
        host.do("setup", {"ovirtmgmt": MANAGEMENT}, {}, {})

The worker may be killed at any moment of a change, counted from its start, and started again.
"""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vdsm_mp.priv import install

_CHECKOUT = Path(__file__).resolve().parents[2]

MANAGEMENT = {
    "nic": "veth_a",
    "ipaddr": "192.0.2.2",
    "netmask": "255.255.255.0",
    "gateway": "192.0.2.1",
    "defaultRoute": True,
    "mtu": 1400,
}
CHECK = {"connectivityCheck": True, "connectivityTimeout": 0.4}


class Refused(Exception):
    def __init__(self, answer: dict[str, Any]) -> None:
        super().__init__(answer["message"])
        self.name = answer["error"]
        self.code = answer["code"]


class Namespace:
    """A namespace with a pair of NICs (veth_a with an address and the default route, veth_b) and a worker in it."""

    def __init__(self) -> None:
        self.place = Path(tempfile.mkdtemp(prefix="vdsm-mp-net-", dir="/tmp"))
        self.place.chmod(0o755)
        install.install(self.place / "libexec", user="root", repository=str(self.place))
        self.name = self.place.name
        # Programs that run in the namespace see this file as /etc/resolv.conf.
        self.resolv = Path("/etc/netns") / self.name / "resolv.conf"
        self.resolv.parent.mkdir(parents=True)
        self.resolv.write_text("# kept\nsearch example.org\nnameserver 192.0.2.53\n")
        subprocess.run(["ip", "netns", "add", self.name], check=True)
        self.ip("link", "add", "veth_a", "type", "veth", "peer", "name", "veth_b")
        self.ip("addr", "add", "192.0.2.2/24", "dev", "veth_a")
        for nic in ("lo", "veth_a", "veth_b"):
            self.ip("link", "set", nic, "up")
        self.ip("route", "add", "default", "via", "192.0.2.1")
        self._worker: subprocess.Popen[str] | None = None

    def ip(self, *words: str) -> str:
        return subprocess.run(
            ["ip", "-n", self.name, *words], check=True, capture_output=True, text=True
        ).stdout.strip()

    def start(self, die_at: int = 0) -> bool:
        """die_at: the moment at which it kills itself, 0 = never. False: it died before it had started."""
        argv = [
            "ip",
            "netns",
            "exec",
            self.name,
            sys.executable,
            "-m",
            "tests.support.netns_worker",
            str(self.place),
            str(die_at),
        ]
        self._worker = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=_CHECKOUT)
        return bool(self._line() == '"started"')

    def tell(self, name: str, *arguments: Any) -> None:
        assert self._worker is not None and self._worker.stdin is not None
        self._worker.stdin.write(json.dumps([name, arguments]) + "\n")
        self._worker.stdin.flush()

    def do(self, name: str, *arguments: Any) -> Any:
        self.tell(name, *arguments)
        answer = self.answer()
        if "error" in answer:
            raise Refused(answer)
        return answer["result"]

    def do_or_die(self, name: str, *arguments: Any) -> bool:
        """False: it died of it."""
        self.tell(name, *arguments)
        return bool(self._line())

    def answer(self) -> Any:
        return json.loads(self._line())

    def _line(self) -> str:
        assert self._worker is not None and self._worker.stdout is not None
        return self._worker.stdout.readline().strip()

    def reap(self) -> None:
        """It killed itself."""
        assert self._worker is not None
        self._worker.communicate(timeout=20)
        assert self._worker.returncode == -signal.SIGKILL
        self._worker = None

    def kill(self) -> None:
        """-9, and nothing is told."""
        assert self._worker is not None
        os.kill(self._worker.pid, signal.SIGKILL)
        self._worker.communicate()
        self._worker = None

    def stop(self) -> None:
        if self._worker is not None:
            self._worker.communicate(timeout=20)
            self._worker = None

    def links(self) -> dict[str, Any]:
        """{link: (master, addresses)}; local addresses left out."""
        found = {}
        for link in json.loads(self.ip("-j", "addr", "show")):
            addresses = [a["local"] for a in link.get("addr_info", ()) if a.get("scope") == "global"]
            found[link["ifname"]] = (link.get("master", ""), addresses)
        return found

    def gateway(self) -> tuple[str, str]:
        routes = json.loads(self.ip("-j", "route", "show", "default") or "[]")
        return (routes[0]["gateway"], routes[0]["dev"]) if routes else ("", "")

    def run(self, *argv: str) -> str:
        return subprocess.run(
            ["ip", "netns", "exec", self.name, *argv], check=True, capture_output=True, text=True
        ).stdout

    def run_python(self, module: str) -> str:
        """What a module of the tests prints that runs in the namespace."""
        argv = ["ip", "netns", "exec", self.name, sys.executable, "-m", module]
        done = subprocess.run(argv, check=False, capture_output=True, text=True, cwd=_CHECKOUT)
        assert done.returncode == 0, done.stderr[-2000:]
        return done.stdout

    @contextlib.contextmanager
    def beside(self, program: str, *arguments: str) -> Iterator[None]:
        """A program of Python that runs in the namespace until its input ends."""
        argv = ["ip", "netns", "exec", self.name, sys.executable, "-c", program, *arguments]
        process = subprocess.Popen(argv, stdin=subprocess.PIPE)
        try:
            yield
        finally:
            process.communicate(timeout=20)
        assert process.returncode == 0

    def reboot(self) -> None:
        """What a reboot does to the network and to the run directory."""
        self.stop()
        for name, _ in self.links().items():
            if name not in ("lo", "veth_a", "veth_b"):
                self.ip("link", "delete", name)
        shutil.rmtree(self.place / "run")

    def close(self) -> None:
        self.stop()
        subprocess.run(["ip", "netns", "delete", self.name], check=True)
        shutil.rmtree(self.resolv.parent)
        shutil.rmtree(self.place)
