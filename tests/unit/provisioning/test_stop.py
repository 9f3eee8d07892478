# SPDX-License-Identifier: Apache-2.0
"""The end of an agent whose supervisor does not hear it: processes with its titles, in a namespace of their own.

Nothing of this host's can be met there: `stop` looks for processes in /proc.
"""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.needs import needs_program, needs_root

pytestmark = [needs_root(), needs_program("unshare", "setpriv", "mount")]

_SCRIPTS = Path(__file__).parents[3] / "scripts"
#: A supervisor of one master: it starts another whenever one was killed, as autorestart=unexpected has it. The first
#: masters hear no SIGTERM.
_SUPERVISOR = """
import signal, subprocess, sys, time
deaf, forever = int(sys.argv[1]), sys.argv[2] == "forever"
hears = "signal.signal(signal.SIGTERM, lambda *_: exit(0)); signal.pthread_sigmask(signal.SIG_UNBLOCK, [15]); "
number = 0
while True:
    number += 1
    code = f"import signal, time; {hears if number > deaf else ''}time.sleep(600)"
    master = ["setpriv", "--reuid", "vdsm", "--clear-groups", "bash", "-c", 'exec -a "vdsm-mp: master" "$@"', "-"]
    # Blocked until it listens: nothing is to depend on how soon that is.
    block = lambda: signal.pthread_sigmask(signal.SIG_BLOCK, [15])
    if subprocess.run([*master, sys.executable, "-c", code], preexec_fn=block).returncode == 0 and not forever:
        break
    time.sleep(0.3)  # supervisord takes a while to look, too
"""
_STOP = """
import subprocess, sys, time
sys.path.insert(0, sys.argv[1])
from provisioning import stop
from provisioning.say import Failure
stop._LEAVES_S, stop._KILLED_S, stop._AGAIN_S, stop._STARTED_S = 4.0, 2.0, 3.0, 0.0
supervisor = subprocess.Popen([sys.executable, "-c", sys.argv[2], *sys.argv[3:]])
until = time.monotonic() + 30
while not stop.processes(stop._MASTER) and time.monotonic() < until:
    time.sleep(0.05)
try:
    stop.ensure_stopped(lambda: None)
except Failure as failure:
    print("FAILED", failure)
print("left", len(stop.processes()))
supervisor.kill()
"""


def _stop(deaf: int, how: str) -> str:
    pid = ["unshare", "--pid", "--fork", "--mount", "--mount-proc", "--kill-child"]
    argv = [*pid, sys.executable, "-c", _STOP, str(_SCRIPTS), _SUPERVISOR, str(deaf), how]
    return subprocess.run(argv, check=True, capture_output=True, text=True, timeout=50).stdout


@pytest.mark.parametrize("deaf", [0, 1])
def test_the_one_that_is_started_after_a_kill_is_told_to_leave(deaf: int) -> None:
    said = _stop(deaf, "once")
    assert said.splitlines()[-1] == "left 0" and "FAILED" not in said
    assert said.count("SIGTERM to its master") == deaf + 1 and said.count("SIGKILL to its master") == deaf


def test_one_that_is_started_again_and_again_is_told_of() -> None:
    said = _stop(0, "forever")
    assert "starts it again and again: stop it there" in said and "kernel" not in said
