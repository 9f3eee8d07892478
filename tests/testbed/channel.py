# SPDX-License-Identifier: Apache-2.0
"""The line to the agent in a host, and what comes back by it."""

import base64
import dataclasses
import json
import socket
import threading
import time


class TestbedError(Exception):
    """A host could not be made, started or reached."""

    __test__ = False


@dataclasses.dataclass
class Result:
    status: int
    output: str
    seconds: float


class Channel:
    """The agent's line: one JSON object a line, answers handed to whoever waits."""

    def __init__(self, sock: socket.socket):
        self.sock = sock
        self.ready = threading.Event()
        self.closed = threading.Event()
        self.next_id = 0
        self.waiting = {}
        self.lock = threading.Lock()
        threading.Thread(target=self.read, daemon=True).start()

    def read(self):
        buffer = b""
        while True:
            try:
                data = self.sock.recv(65536)
            except OSError:
                data = b""
            if not data:
                self.sock.close()
                break
            buffer += data
            *lines, buffer = buffer.split(b"\n")
            for line in lines:
                try:
                    message = json.loads(line)
                except ValueError:
                    continue  # what the kernel printed before the agent had the line
                if "ready" in message or "hello" in message:
                    self.ready.set()
                elif (waiter := self.waiting.get(message.get("id"))) is not None:
                    waiter(message)
        self.closed.set()
        for waiter in list(self.waiting.values()):
            waiter({"gone": True})

    def send(self, message: dict):
        with self.lock:
            self.sock.sendall((json.dumps(message) + "\n").encode())

    def run(self, argv, timeout=None, env=None, cwd=None, on_output=None) -> Result:
        return self.request({"argv": argv, "timeout": timeout, "env": env or {}, "cwd": cwd}, timeout, on_output)

    def request(self, message, timeout=None, on_output=None) -> Result:
        with self.lock:
            self.next_id += 1
            ident = self.next_id
        done = threading.Event()
        output, status = [], []

        def answer(message):
            if "out" in message:
                data = base64.b64decode(message["out"])
                output.append(data)
                if on_output:
                    on_output(data)
            else:
                status.append(message.get("exit"))
                done.set()

        self.waiting[ident] = answer
        start = time.monotonic()
        self.send({"id": ident, **message})
        # The agent ends the command; should the host itself hang, this does.
        if not done.wait(None if timeout is None else timeout + 15):
            status.append(124)
        self.waiting.pop(ident, None)
        if status[0] is None:
            raise TestbedError("the host went away")
        return Result(status[0], b"".join(output).decode(errors="replace"), time.monotonic() - start)
