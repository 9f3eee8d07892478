# SPDX-License-Identifier: Apache-2.0
"""A fork that fails half-way leaves neither a child that nobody looks after nor descriptors."""

import json
import subprocess
import sys

#: Room for the pipe and for the stacks, and for nothing more: the child is there when the descriptor of it is refused.
_CODE = """
import json, os, resource, time
from vdsm_mp.house import spawn
def open_now():
    return sorted(map(int, os.listdir("/proc/self/fd")))
before = open_now()
resource.setrlimit(resource.RLIMIT_NOFILE, (len(before) - 1 + 3, 64))
errors, endings = [], []
for _ in range(3):
    try:
        spawn.fork("sleeper", lambda pipe, stacks: time.sleep(300), ())
    except OSError as error:
        errors.append(error.strerror)
    endings.append(os.waitpid(-1, 0)[0] > 0)
print(json.dumps([errors, endings, before == open_now()]))
"""


def test_a_child_that_cannot_be_looked_after_is_ended_and_nothing_is_left_open() -> None:
    done = subprocess.run([sys.executable, "-c", _CODE], capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == [["Too many open files"] * 3, [True] * 3, True]
