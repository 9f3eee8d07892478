# SPDX-License-Identifier: Apache-2.0
"""How many clients a door lets in when its process may have few descriptors."""

import subprocess
import sys

import pytest

PROGRAM = """
import resource, sys
from vdsm_mp.clientif.limits import Limits
resource.setrlimit(resource.RLIMIT_NOFILE, (int(sys.argv[1]), int(sys.argv[2])))
limits = Limits(connections=1000, arrivals=500).of_this_process()
print(limits.connections, limits.arrivals, *resource.getrlimit(resource.RLIMIT_NOFILE))
"""
#: 256 are for everything else.
NEEDED = 1000 + 500 + 256


@pytest.mark.parametrize(
    ("soft", "hard", "connections", "arrivals", "soft_then"),
    [
        (NEEDED, 4096, 1000, 500, NEEDED),
        (4000, 4096, 1000, 500, 4000),
        (256, 4096, 1000, 500, NEEDED),
        (256, 1156, 600, 300, 1156),
        (200, 260, 21, 10, 260),
    ],
)
def test_descriptors_are_asked_for_and_there_are_no_more_clients_than_descriptors(
    soft: int, hard: int, connections: int, arrivals: int, soft_then: int
) -> None:
    command = [sys.executable, "-c", PROGRAM, str(soft), str(hard)]
    told = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout
    assert [int(word) for word in told.split()] == [connections, arrivals, soft_then, hard]
