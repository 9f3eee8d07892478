# SPDX-License-Identifier: Apache-2.0
"""The agent itself under supervisord, as an operator would run it."""

import json
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


def _start_supervisord() -> None:
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
    until = time.monotonic() + within_s
    while not _ready():
        if (state := _state()) in ("BACKOFF", "FATAL", "EXITED") or time.monotonic() > until:
            raise Failure(f"starting the agent: supervisord has it {state}\n{_why()}")
        time.sleep(0.3)


def _ready() -> bool:
    """Whether every worker is ready, by the agent's own word."""
    asked = subprocess.run(
        [install.COMMAND, "status", "--json"], capture_output=True, text=True, check=False, timeout=60
    )
    try:
        house = json.loads(asked.stdout)["house"]
    except (ValueError, KeyError):
        return False
    return house is not None and all(worker["state"] == "ready" for worker in house["workers"].values())


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
    lines = []
    for path in (AGENT_LOG, STDERR, LOG):
        if path.exists():
            text = path.read_text(errors="replace").splitlines()[-300:]
            grave = [line for line in text if " CRIT " in line or "cannot start" in line][-3:]
            lines += [f"    {line[:300]}" for line in grave or text[-3:]]
            lines.append(f"  log: {path}")
    return "\n".join(lines)


def why_down() -> str | None:
    """None while the agent runs; else its state and the end of its log."""
    state = _state()
    return None if state in ("RUNNING", "STARTING") else f"supervisord has it {state}\n{_why()}"
