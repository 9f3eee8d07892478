# SPDX-License-Identifier: Apache-2.0
"""A process for one talk with what is foreign: a hypervisor, or an OVA. `v2v_talk` starts it.

    python -m vdsm_mp.virt.v2v_child < one JSON object > lines of JSON

The request, password included, comes by stdin, so that no list of processes shows it. Lines of `at` (progress) and
`skipped` come as things go; the last one has `result`, or `error` (a class of `errors_virt`) and `reason`.
"""

import json
import resource
import signal
import sys
from typing import Any

from vdsm_mp.api.errors_virt import BadConversion, BadOva, ForeignHypervisorFailed
from vdsm_mp.virt.v2v_domain import NotForUs

_MEMORY_BYTES = 1 << 30
#: Of the processor: a listing takes a few, an archive made to burn it is ended.
_TALK_S = 120
_REQUEST_BYTES = 1 << 20
_KEYS_BYTES = 1 << 20


def main() -> int:
    ask = json.loads(sys.stdin.buffer.read(_REQUEST_BYTES))
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_BYTES, _MEMORY_BYTES))
    if ask["do"] != "copy":
        resource.setrlimit(resource.RLIMIT_CPU, (_TALK_S, _TALK_S))
        # ssh may have to write down a host's key; who looks into an OVA writes nothing.
        written = 0 if "path" in ask else _KEYS_BYTES
        resource.setrlimit(resource.RLIMIT_FSIZE, (written, written))
    try:
        _say(result=_DOINGS[ask["do"]](ask))
    except (BadConversion, BadOva, ForeignHypervisorFailed) as error:
        _say(error=type(error).__name__, reason=error.reason.replace(ask.get("password") or "\0", "***"))
    except NotForUs as error:
        _say(error="BadConversion", reason=str(error))
    except OSError as error:
        _say(error="BadConversion" if ask["do"] == "copy" else "BadOva", reason=str(error))
    except MemoryError:
        _say(error="BadOva" if "path" in ask else "BadConversion", reason="it takes too much memory")
    return 0


def _say(**what: Any) -> None:
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()


def _names(ask: dict[str, Any]) -> Any:
    from vdsm_mp.virt import v2v_foreign

    with v2v_foreign.connected(ask["uri"], ask["username"], ask["password"]) as conn:
        return v2v_foreign.names(conn)


def _vms(ask: dict[str, Any]) -> Any:
    from vdsm_mp.virt import v2v_foreign

    with v2v_foreign.connected(ask["uri"], ask["username"], ask["password"]) as conn:
        return v2v_foreign.vms(conn, ask["names"], lambda name, why: _say(skipped=name, reason=why))


def _copy(ask: dict[str, Any]) -> Any:
    from vdsm_mp.virt import v2v_foreign

    told = (0, 0)

    def at(disk: int, of: int, pct: float) -> None:
        nonlocal told
        if (disk, int(pct)) != told:
            told = (disk, int(pct))
            _say(at=[disk, of, pct])

    with v2v_foreign.connected(ask["uri"], ask["username"], ask["password"]) as conn:
        v2v_foreign.copy(conn, ask["name"], ask["targets"], sparse=ask["sparse"], at=at)


def _describe(ask: dict[str, Any]) -> Any:
    from vdsm_mp.virt import v2v_ova

    return v2v_ova.describe(ask["path"])


def _check(ask: dict[str, Any]) -> Any:
    from vdsm_mp.virt import v2v_ova

    v2v_ova.check(ask["path"])


# What each needs is loaded by it alone: a look into an OVA is done before libvirt's library were.
_DOINGS = {"names": _names, "vms": _vms, "copy": _copy, "describe": _describe, "check": _check}

if __name__ == "__main__":
    sys.exit(main())
