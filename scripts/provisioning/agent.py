# SPDX-License-Identifier: Apache-2.0
"""The agent itself under supervisord, as an operator would run it."""

import json
import shutil
import subprocess
import time
from pathlib import Path

from provisioning import install, services
from provisioning.say import Failure, run, say

SUPERVISORD = install.VENV / "bin/supervisord"
SUPERVISORCTL = install.VENV / "bin/supervisorctl"
CONF = install.SUPERVISORD_CONF
LOG = services.LOGS / "supervisord.log"
AGENT_LOG = Path("/var/log/vdsm/vdsm.log")
STDERR = Path("/var/log/vdsm-mp-supervisor.log")
PROGRAM = "vdsm"
#: How often one who waits for the agent is told why.
_TELL_S = 10.0
#: What supervisord says at each start on a host of its own.
_USUAL = "running without any HTTP authentication checking"


def ctl(*words: str, check: bool = True) -> str:
    """supervisorctl, with the configuration in force."""
    return run([SUPERVISORCTL, "-c", CONF, *words], why=f"supervisorctl {' '.join(words)}", check=check, timeout_s=180)


def ensure_running() -> None:
    """supervisord runs and has the agent running; an agent of an older program is restarted. Raises Failure."""
    if not _supervisord_answers():
        _start_supervisord()
    ctl("reread")
    ctl("update")
    state = _state()
    if state == "RUNNING" and _older_than_program():
        say("the program has changed: restarting the agent")
        ctl("restart", PROGRAM)
    elif state not in ("RUNNING", "STARTING"):
        say("starting the agent: supervisorctl start vdsm")
        ctl("start", PROGRAM, check=False)
    _wait_running()


def require_program(path: str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin") -> None:
    """A configuration that is not ours needs the host's supervisord, which may have been removed. Raises Failure."""
    if not install.ours() and shutil.which("supervisord", path=path) is None:
        raise Failure(
            f"starting supervisord: {install.SUPERVISORD_CONF} is left of one that was removed from this host, "
            f"and would be taken for the host's own: `apt purge supervisor`, or remove that file, and repeat"
        )


def _start_supervisord() -> None:
    require_program()
    if services.systemd():
        unit = install.UNIT.name if install.ours() else "supervisor.service"
        say(f"starting {unit}")
        services.start_unit(unit)
        services.wait_for(unit, _supervisord_answers)
        return
    services.STARTED.parent.mkdir(parents=True, exist_ok=True)
    services.start("supervisord", [str(SUPERVISORD), "-n", "-c", str(CONF)], _supervisord_answers)


def _wait_running(*, within_s: float = 60) -> None:
    """Until the door listens and the agent stays. Raises Failure as soon as it is seen to fail."""
    began = time.monotonic()
    tell_at = began + _TELL_S
    while missing := _missing():
        if (state := _state()) in ("BACKOFF", "FATAL", "EXITED"):
            raise Failure(f"starting the agent: supervisord has it {state}\n{_why()}")
        if time.monotonic() > began + within_s:
            raise Failure(f"starting the agent: not ready after {within_s:g} s: {missing}\n{_why()}")
        if time.monotonic() > tell_at:
            say(f"waiting for the agent: {missing}")
            tell_at += _TELL_S
        time.sleep(0.3)


def _missing() -> str:
    """What keeps the agent from being ready, by its own word; "" when every worker is."""
    asked = subprocess.run(
        [install.COMMAND, "status", "--json"], capture_output=True, text=True, check=False, timeout=60
    )
    try:
        status = json.loads(asked.stdout)
        house = status["house"]
        ready = house is not None and all(worker["state"] == "ready" for worker in house["workers"].values())
        return "" if ready else "; ".join(status["problems"])
    except (ValueError, KeyError, TypeError):
        return f"{install.COMMAND} status does not tell: {asked.stderr.strip()[-300:]}"


def stop() -> None:
    """Stop the agent, and supervisord when it was started by us."""
    if CONF.exists() and _supervisord_answers() and _state() in ("RUNNING", "STARTING", "BACKOFF"):
        say("stopping the agent: supervisorctl stop vdsm")
        ctl("stop", PROGRAM, check=False)


def _supervisord_answers() -> bool:
    if not SUPERVISORCTL.exists() or not CONF.exists():
        return False
    asked = subprocess.run([SUPERVISORCTL, "-c", CONF, "pid"], capture_output=True, text=True, check=False, timeout=30)
    return asked.returncode == 0 and asked.stdout.strip().isdigit()


def _state() -> str:
    words = ctl("status", PROGRAM, check=False).split()
    return words[1] if len(words) > 1 else "UNKNOWN"


def _older_than_program() -> bool:
    pid = ctl("pid", PROGRAM, check=False).strip()
    stamp = install.VENV / "program.sha256"
    try:
        return Path(f"/proc/{pid}").stat().st_mtime < stamp.stat().st_mtime
    except OSError:
        return False


def _why() -> str:
    """The end of the logs that tell why the agent did not start."""
    lines: list[str] = []
    for path in (AGENT_LOG, STDERR, LOG):
        if path.exists():
            text = [line for line in path.read_text(errors="replace").splitlines()[-300:] if _USUAL not in line]
            grave = [line for line in text if " CRIT " in line or "cannot start" in line][-3:]
            shown = [f"    {line[:300]}" for line in grave or text[-3:]]
            lines += [line for line in shown if line not in lines]  # the agent writes to two of them
            lines.append(f"  log: {path}")
    return "\n".join(lines)


def why_down() -> str | None:
    """None while the agent runs; else its state and the end of its log."""
    state = _state()
    return None if state in ("RUNNING", "STARTING") else f"supervisord has it {state}\n{_why()}"
