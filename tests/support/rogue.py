# SPDX-License-Identifier: Apache-2.0
"""A room that misbehaves on demand: it does what `<state_dir>/<worker>.do` says, once, and removes the file.

Only the worker called "rogue" looks; any other one behaves. What the room did is noted in `<state_dir>/<worker>.done`.
"""

import asyncio
import ctypes
import os
import subprocess
import threading
import time
from pathlib import Path

from vdsm_mp.api.ports import Ports
from vdsm_mp.common.options import Config
from vdsm_mp.workers.base import Room


def build(config: Config, ports: Ports) -> Room:
    folder = Path(config.vdsm_mp.state_dir)
    at_build = folder / f"{ports.worker}.build"
    word = at_build.read_text() if at_build.exists() else ""
    _at_build(word, folder)
    rogue = Rogue(folder, ports)
    return Room(
        on_loop=(rogue.obey,) if ports.worker == "rogue" else (),
        before_ready=(lambda: time.sleep(60 if word == "wait" else 0),),
        on_drain=(rogue.leave,),
        on_note={"reload": lambda: rogue.note("reloaded"), "stop-spm": lambda: rogue.note("spm stopped")},
        vitals=lambda: {"obeyed": rogue.obeyed},
    )


def _at_build(word: str, folder: Path) -> None:
    match word:
        case "raise":
            raise OSError("the build fails")
        case "never":
            raise TypeError("this can never work")
        case "never, later":
            (folder / "building").touch()
            while (folder / "building").exists():
                time.sleep(0.01)
            raise TypeError("this can never work")
        case "slow":
            time.sleep(60)


class Rogue:
    def __init__(self, folder: Path, ports: Ports) -> None:
        self._folder = folder
        self._ports = ports
        self.obeyed = 0
        self._drain_s = 0.0
        self._kept: list[object] = []

    def note(self, word: str) -> None:
        with open(self._folder / f"{self._ports.worker}.done", "a") as file:
            file.write(word + "\n")

    def leave(self) -> None:
        self.note("left")
        time.sleep(self._drain_s)

    async def obey(self) -> None:
        order = self._folder / f"{self._ports.worker}.do"
        doomed = self._folder / f"{self._ports.worker}.doomed"
        while True:
            if doomed.exists():
                # Ready is told once the loop runs: dies soon after it, every time.
                await asyncio.sleep(0.1)
                os._exit(1)
            await asyncio.sleep(0.01)
            try:
                word = order.read_text()
            except FileNotFoundError:
                continue
            order.unlink()
            self.obeyed += 1
            self._do(word)

    def _do(self, order: str) -> None:
        word, _, rest = order.partition(" ")
        match word:
            case "exit":
                os._exit(int(rest))
            case "segv":
                ctypes.string_at(0)
            case "busy":
                while True:
                    pass
            case "gil":
                ctypes.PyDLL(None).sleep(60)
            case "lock":
                lock = threading.Lock()
                lock.acquire()
                lock.acquire()
            case "read":
                Path(rest).read_bytes()
            case "task":
                raise RuntimeError("a task of the room fails")
            case "callback":
                asyncio.get_running_loop().call_soon(_fail)
            case "thread":
                threading.Thread(target=_fail, name="doomed").start()
            case "slow-drain":
                self._drain_s = float(rest)
            case "program":
                subprocess.Popen(["sleep", "300"], process_group=0)
                self.note("program started")
            case "child":
                asyncio.get_running_loop().run_in_executor(None, self._child, rest)
            case "hoard":
                self._kept.append(b"x" * (int(rest) << 20))
            case "close":
                self._ports.children.close("toy", rest)

    def _child(self, rest: str) -> None:
        name, _, message = rest.partition(" ")
        try:
            sock = self._ports.children.open("toy", name)
            sock.send(message.encode())
            self.note(f"{name}: {sock.recv(4096).decode()}")
            self._kept.append(sock)
        except Exception as error:
            self.note(f"{name}: {type(error).__name__}: {error}")


def _fail() -> None:
    raise RuntimeError("nobody catches this")
