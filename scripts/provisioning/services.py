# SPDX-License-Identifier: Apache-2.0
"""The daemons around the agent: virtlogd, libvirtd, sanlock. By systemd where it runs; else started here, and noted.

What was started here is written to `STARTED`, so that `scripts/down` ends just that and nothing else.
"""

import grp
import json
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from provisioning.say import Failure, run, say

STARTED = Path("/run/vdsm-mp-demo/started.json")
LIBVIRT_SOCKET = Path("/run/libvirt/libvirt-sock")
SANLOCK_SOCKET = Path("/run/sanlock/sanlock.sock")
LOGS = Path("/var/log/vdsm-mp-demo")
#: Where rpcbind tells its pid. Debian's package starts it with the system's first services, whatever it is asked for.
RPCBIND = Path("/run/rpcbind.pid")


def systemd() -> bool:
    """Whether systemd is the init of this machine, not merely installed."""
    return Path("/run/systemd/system").is_dir()


def ensure() -> None:
    """Start what does not run. Raises Failure when one of them does not come up."""
    if systemd():
        for unit in ("virtlogd.socket", "libvirtd.socket", "libvirtd.service", "sanlock.service"):
            start_unit(unit)
        wait_for("libvirtd", lambda: _answers(LIBVIRT_SOCKET))
        wait_for("sanlock", _sanlock_answers)
        return
    _kvm_as_udev_has_it()
    LOGS.mkdir(parents=True, exist_ok=True)
    Path("/run/libvirt").mkdir(exist_ok=True)
    if not _answers(Path("/run/libvirt/virtlogd-sock")):
        start("virtlogd", ["/usr/sbin/virtlogd"], lambda: _answers(Path("/run/libvirt/virtlogd-sock")))
    if not _answers(LIBVIRT_SOCKET):
        start("libvirtd", ["/usr/sbin/libvirtd"], lambda: _answers(LIBVIRT_SOCKET))
    if not _sanlock_answers():
        _start_sanlock()


def start_unit(unit: str) -> None:
    """Start a unit that does not run, and note it. Raises Failure with the end of its journal."""
    if _unit_state(unit) == "active":
        return
    try:
        run(["systemctl", "start", unit], why=f"starting {unit}", timeout_s=180)
    except Failure as failure:
        told = run(["journalctl", "-u", unit, "-n", "8", "-o", "cat", "--no-pager"], why="reading why", check=False)
        raise Failure(f"{failure}\n  {unit} says:\n    " + "\n    ".join(told.splitlines())) from failure
    started = noted()
    started[unit] = {"unit": True}
    _write(started)


def _unit_state(unit: str) -> str:
    """ "active", "inactive", "failed"…"""
    return run(["systemctl", "is-active", unit], why=f"asking for {unit}", check=False).strip()


def stop_units() -> None:
    """Stop what `start_unit` started, last first. Guests go on: the units leave them alone."""
    for unit in reversed([name for name, entry in noted().items() if "unit" in entry]):
        if _unit_state(unit) == "active":
            say(f"stopping {unit}")
            run(["systemctl", "stop", unit], why=f"stopping {unit}", timeout_s=180, check=False)


def wait_for(what: str, ready: Callable[[], bool], *, within_s: float = 30) -> None:
    """Until a daemon that systemd has started answers. Raises Failure."""
    until = time.monotonic() + within_s
    while not ready():
        if time.monotonic() > until:
            raise Failure(f"starting {what}: it does not answer after {within_s:.0f} s")
        time.sleep(0.1)


def _kvm_as_udev_has_it() -> None:
    """Group kvm may use /dev/kvm. Where root may and QEMU may not, libvirt probes QEMU anew at every call."""
    # By number: in a container the group that has it may be one that only the host knows.
    device, kvm = Path("/dev/kvm"), grp.getgrnam("kvm").gr_gid
    if device.exists() and not Path("/run/udev/control").exists() and device.stat().st_gid != kvm:
        say("giving /dev/kvm to group kvm, as udev would")
        shutil.chown(device, group="kvm")
        device.chmod(0o660)


def _start_sanlock() -> None:
    options = []
    if not (Path("/dev/watchdog").exists() and Path("/run/wdmd/wdmd.sock").exists()):
        say("no watchdog daemon here: sanlock runs with -w 0, which does not protect shared storage")
        options = ["-w", "0"]
    Path("/run/sanlock").mkdir(exist_ok=True)
    run(["chown", "sanlock:sanlock", "/run/sanlock"], why="preparing /run/sanlock")
    argv = ["/usr/sbin/sanlock", "daemon", "-D", *options]
    if _may_lock_memory():
        start("sanlock", [*argv, "-U", "sanlock", "-G", "sanlock"], _sanlock_answers)
    else:
        say("root may not raise limits here: sanlock runs without locked memory, as user sanlock from the start")
        plain = ["setpriv", "--reuid", "sanlock", "--regid", "sanlock", "--init-groups", "env", "SANLOCK_PRIVILEGED=0"]
        start("sanlock", [*plain, *argv], _sanlock_answers)


def _may_lock_memory() -> bool:
    """CAP_SYS_RESOURCE: sanlock raises its limit of locked memory with it, and gives up without."""
    effective = next(x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith("CapEff:"))
    return bool(int(effective.split()[1], 16) >> 24 & 1)


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(2)
        try:
            probe.connect(str(path))
        except OSError:
            return False
    return True


def _sanlock_answers() -> bool:
    said = subprocess.run(["sanlock", "client", "status"], capture_output=True, text=True, check=False, timeout=30)
    return said.returncode == 0 and "daemon" in said.stdout


def start(name: str, argv: list[str], ready: Callable[[], bool], *, within_s: float = 30) -> None:
    """Start a daemon in a session of its own, wait until it is ready, note it. Raises Failure."""
    log = LOGS / f"{name}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    say(f"starting {name}")
    with log.open("ab") as out:
        process = subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True, cwd="/"
        )
    note(name, process.pid)
    until = time.monotonic() + within_s
    while not ready():
        if process.poll() is not None:
            tail = "\n    ".join(log.read_text(errors="replace").splitlines()[-8:])
            raise Failure(f"starting {name}: it ended with {process.returncode}:\n    {tail}\n  log: {log}")
        if time.monotonic() > until:
            raise Failure(f"starting {name}: not ready after {within_s:.0f} s\n  log: {log}")
        time.sleep(0.1)


def _birth(pid: int) -> str | None:
    """When the process was born, in ticks: a pid alone may be somebody else's by now. None: it is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] == "Z" else fields[19]


def note(name: str, pid: int) -> None:
    """Remember that this process was started by us."""
    started = noted()
    started[name] = {"pid": pid, "born": _birth(pid)}
    _write(started)


def pid_of(file: Path) -> int | None:
    """Of a daemon that lives and wrote its pid there."""
    try:
        pid = int(file.read_text())
    except (FileNotFoundError, ValueError):
        return None
    return pid if _birth(pid) is not None else None


def note_started(name: str, file: Path, *, before: int | None) -> None:
    """Note a daemon that the installation of a package has started where no systemd keeps it.

    before: what `pid_of` said before.
    """
    pid = pid_of(file)
    if pid is not None and pid != before and not systemd():
        note(name, pid)


def _write(started: dict[str, dict[str, object]]) -> None:
    STARTED.parent.mkdir(parents=True, exist_ok=True)
    STARTED.write_text(json.dumps(started, indent=2))


def noted() -> dict[str, dict[str, object]]:
    """{name: {pid, born}} of processes and {name: {unit: true}} of units that were started by us, in order."""
    return json.loads(STARTED.read_text()) if STARTED.exists() else {}


def alive(name: str) -> bool:
    entry = noted().get(name)
    return entry is not None and entry.get("born") is not None and _birth(int(str(entry["pid"]))) == entry["born"]


def stop(name: str, *, within_s: float = 20, force: bool = True) -> bool:
    """End one that we started: SIGTERM, then SIGKILL. True when it was alive and is gone now."""
    if not alive(name):
        return False
    pid = int(str(noted()[name]["pid"]))
    say(f"stopping {name} ({pid})")
    os.kill(pid, signal.SIGTERM)
    until = time.monotonic() + within_s
    while alive(name):
        if time.monotonic() > until:
            if not force:
                raise Failure(f"stopping {name}: {pid} is still there after {within_s:.0f} s")
            os.kill(pid, signal.SIGKILL)
            force, until = False, time.monotonic() + 5
        time.sleep(0.1)
    return True


def forget() -> None:
    """All that was started is gone."""
    STARTED.unlink(missing_ok=True)
