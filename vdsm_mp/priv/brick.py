# SPDX-License-Identifier: Apache-2.0
"""A program of its own: one request to os-brick. `brick.py connector_info|attach|detach`, JSON on stdin and stdout.

attach reads {driver_volume_type, data, scan_attempts?} and writes the attachment; detach reads {connection_info,
attachment}. Writes `null` when os-brick is not installed. Started by root's side, which has looked at the values;
imports nothing of this project, and os-brick only here, so that no helper ever holds it.
"""

import importlib
import importlib.util
import json
import os
import sys
from pathlib import Path
from typing import Any

_LOCKS = Path("/run/vdsm-mp-brick")


def main(verb: str) -> int:
    """Exit status 1: the one line on stderr tells why."""
    # os-brick's libraries write what they like, tracebacks with values in them too; what we say is ours alone.
    answer, complaint = os.dup(1), os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)
    result: Any = None
    try:
        if importlib.util.find_spec("os_brick") is not None:
            result = _run(verb)
    except Exception as error:
        os.write(complaint, f"{type(error).__name__}: {error}"[:600].encode())
        return 1
    with os.fdopen(answer, "w", encoding="utf-8") as out:
        json.dump(result, out)
    return 0


def _run(verb: str) -> Any:
    _set_up()
    if verb == "connector_info":
        return _host()
    asked = json.load(sys.stdin)
    if verb == "attach":
        return _connector(asked).connect_volume(asked["data"])
    info = asked["connection_info"]
    _connector(info).disconnect_volume(info["data"], asked["attachment"], force=False, ignore_errors=False)
    return {}


def _set_up() -> None:
    """We are root already: no daemon of oslo's that would become it. Locks between programs like this one."""
    privileged = importlib.import_module("os_brick.privileged")
    for name in ("default", "brick_privsep_hide_output"):
        if hasattr(privileged, name):
            getattr(privileged, name).set_client_mode(False)
    os_brick = importlib.import_module("os_brick")
    if hasattr(os_brick, "setup"):
        importlib.import_module("oslo_concurrency.lockutils")  # brings the options that setup reads
        conf = importlib.import_module("oslo_config.cfg").CONF
        _LOCKS.mkdir(mode=0o700, exist_ok=True)
        conf([], project="os-brick", default_config_files=[], default_config_dirs=[])
        os_brick.setup(conf)
        conf.set_override("lock_path", str(_LOCKS), "os_brick")


def _host() -> dict[str, Any]:
    connector = importlib.import_module("os_brick.initiator.connector")
    found: dict[str, Any] = connector.get_connector_properties(None, None, True, True)
    return found


def _connector(info: dict[str, Any]) -> Any:
    connector = importlib.import_module("os_brick.initiator.connector")
    host, driver = _host(), info["driver_volume_type"]
    # Without this rbd is a handle in this process and no device.
    more = {"do_local_attach": True} if driver == "rbd" else {}
    return connector.InitiatorConnector.factory(
        driver,
        None,
        use_multipath=host["multipath"],
        device_scan_attempts=info.get("scan_attempts") or 3,
        conn=host,
        **more,
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
