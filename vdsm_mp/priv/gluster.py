# SPDX-License-Identifier: Apache-2.0
"""What gluster's own program says of a volume. Root side, standard library only; reads, changes nothing.

The program needs root for its log and for the port it asks from.
"""

import contextlib
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vdsm_mp.priv.child import OperationFailed
from vdsm_mp.priv.context import Context

_GLUSTER = Path("/usr/sbin/gluster")
#: The program has a patience of its own, longer than a server that is away is worth.
_ONE_S = 8


def volume_info(context: Context, params: Mapping[str, Any]) -> dict[str, Any]:
    """-> {"installed", "answers": XML of `volume info` by the named server, and by one on this host}

    Raises: OutOfTime. A server that does not answer is left out.
    """
    if not _GLUSTER.exists():
        return {"installed": False, "answers": []}
    server, _, volume = params["remote"].rpartition(":/")
    answers = []
    for where in ([f"--remote-host={server.strip('[]')}"], []):
        with contextlib.suppress(OperationFailed):
            deadline_mono = min(context.deadline_mono, time.monotonic() + _ONE_S + 2)
            answers.append(context.children.run(argv(where, volume.partition("/")[0]), deadline_mono))
        if answers:
            break
    return {"installed": True, "answers": answers}


def argv(where: list[str], volume: str) -> list[str]:
    return [str(_GLUSTER), "--mode=script", f"--timeout={_ONE_S}", "--xml", *where, "volume", "info", volume]
