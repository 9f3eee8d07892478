# SPDX-License-Identifier: Apache-2.0
"""Ask the master through its control socket. Who reads the answers checks them: `controlanswers`."""

import json
import socket
from pathlib import Path
from typing import Any

from vdsm_mp.common import kernel

CONNECT_S = 3.0
#: Beside the socket; held by the master for life.
LOCK = "vdsm-mp.lock"
MOST_ANSWER_BYTES = 4 << 20
#: What cannot be read.
OTHER_VERSION = "the agent's answer is not understood: it is of another version than this program, restart it"


class NotRunning(Exception):
    """Nobody listens on the control socket."""


class Refused(Exception):
    """The master said no; its sentence. Or what it said is not understood."""


def ask(run_dir: str, do: str, *, timeout_s: float = 10.0, **more: Any) -> Any:
    """The `result` of one request (see `house/desk.py`). Raises NotRunning, Refused."""
    path = str(Path(run_dir) / "control.sock")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.settimeout(CONNECT_S)
        try:
            sock.connect(path)
        except (FileNotFoundError, ConnectionRefusedError) as error:
            if pid := kernel.who_has_open(str(Path(run_dir) / LOCK)):
                raise Refused(
                    f"the agent runs as pid {pid}, but {path}: {error.strerror}; it is starting or leaving, or makes "
                    f"the socket again within seconds unless {run_dir} is missing: systemd-tmpfiles --create makes that"
                ) from error
            raise NotRunning(f"the agent is not running ({path}: {error.strerror})") from error
        except PermissionError as error:
            raise Refused(f"{path}: only root and the agent's user may ask") from error
        except OSError as error:
            raise Refused(f"{path}: {error.strerror or error}") from error
        sock.settimeout(timeout_s)
        answer = b""
        try:
            sock.sendall(json.dumps({"do": do, **more}).encode() + b"\n")
            while not answer.endswith(b"\n") and len(answer) < MOST_ANSWER_BYTES:
                data = sock.recv(1 << 16)
                if not data:
                    break
                answer += data
        except TimeoutError as error:
            raise Refused(f"the agent does not answer within {timeout_s:g} s") from error
        except ConnectionError:
            answer = b""  # as if it had closed before it read what we ask
    if not answer:
        raise Refused("the agent closed the control connection: not allowed for this user, or it is leaving")
    try:
        said = json.loads(answer)
        if said["ok"]:
            return said["result"]
        reason = str(said["error"])
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise Refused(OTHER_VERSION) from error
    raise Refused(reason)
