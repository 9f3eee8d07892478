# SPDX-License-Identifier: Apache-2.0
"""The virt worker of a house under test: at a step that a test names, it stands still until it is let go, or killed.

A step is a call that leaves the worker: one that changes something in libvirt, or a request to storage. The test writes
`{"moment": "before", "step": "blockCommit", "number": 1, "id": …}` into `step` below the run directory; the worker says
`there` and waits for `go`. moment: "before" and "after" the call, or "in" it: then the worker does not wait. number:
of the calls of this name since the test wrote; id: any new one. The names that went by are written into `steps`.
"""

import functools
import json
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import libvirt
from msgspec.structs import replace

from vdsm_mp.api.ports import Caller, Ports
from vdsm_mp.api.verb import Message
from vdsm_mp.common.options import Config
from vdsm_mp.workers import virt
from vdsm_mp.workers.base import Room

WAIT_S = 30.0
_TICK_S = 0.005
_DOMAIN = (
    "createWithFlags", "destroyFlags", "undefineFlags", "setMetadata", "snapshotCreateXML", "blockCommit", "blockCopy",
    "blockJobAbort", "backupBegin", "abortJob", "migrateToURI3", "attachDeviceFlags", "saveFlags",
)  # fmt: skip
_CONNECTION = ("defineXML", "restoreFlags")


class Gate:
    """Where the worker may have to wait."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock = threading.Lock()
        self._text = ""
        self._seen: Counter[str] = Counter()

    def around(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(call)
        def stepped(*args: Any, **kwargs: Any) -> Any:
            number = self._count(name)
            self._pass("before", name, number)
            self._pass("in", name, number)
            try:
                return call(*args, **kwargs)
            finally:
                self._pass("after", name, number)

        return stepped

    def _armed(self) -> str:
        try:
            return (self._folder / "step").read_text()
        except FileNotFoundError:
            return ""

    def _count(self, name: str) -> int:
        text = self._armed()
        if not text:
            return 0
        with self._lock:
            if text != self._text:
                self._text = text
                self._seen.clear()
            self._seen[name] += 1
            with (self._folder / "steps").open("a") as file:
                file.write(f"{name} {self._seen[name]}\n")
            return self._seen[name]

    def _pass(self, moment: str, name: str, number: int) -> None:
        text = self._armed() if number else ""
        if not text:
            return
        wanted = json.loads(text)
        if (moment, name, number) != (wanted["moment"], wanted["step"], wanted["number"]):
            return
        (self._folder / "step").unlink(missing_ok=True)
        (self._folder / "there").touch()
        until = time.monotonic() + WAIT_S
        while moment != "in" and not (self._folder / "go").exists() and time.monotonic() < until:
            time.sleep(_TICK_S)


class SteppedCaller:
    """The caller port of the worker, with steps named after the messages."""

    def __init__(self, caller: Caller, gate: Gate) -> None:
        self._caller = caller
        self._gate = gate

    def ask(self, message: Message, *, deadline_s: float | None = None) -> Any:
        ask = self._gate.around(type(message).__name__, self._caller.ask)
        return ask(message, deadline_s=deadline_s)


def build(config: Config, ports: Ports) -> Room:
    gate = Gate(Path(config.vdsm_mp.vdsm_run_dir))
    for kind, names in ((libvirt.virDomain, _DOMAIN), (libvirt.virConnect, _CONNECTION)):
        for name in names:
            setattr(kind, name, gate.around(name, getattr(kind, name)))
    return virt.build(config, replace(ports, call=SteppedCaller(ports.call, gate)))
