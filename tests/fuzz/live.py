# SPDX-License-Identifier: Apache-2.0
"""A real door to throw mutants at: raw octets on connections of their own, and requests on one that goes on.

Behind the door each verb's parameters are read by their declaration, as a worker would read them.
"""

import contextlib
import json
import socket
from collections.abc import Awaitable, Callable, Iterator, Sequence

from tests.support.door import Door, open_door
from vdsm_mp.api.catalogue import VERBS
from vdsm_mp.ipc import codec
from vdsm_mp.wire import stomp

_REQUESTS = "jms.topic.vdsm_requests"
#: Not what mutants send to: the door delivers what its clients send each other.
_ANSWERS = "answers of the one who stays"
_FENCE = b'{"jsonrpc":"2.0","method":"Host.ping2","params":{},"id":"the fence"}'
#: Without an answer for so long the door has gone silent.
PATIENCE_S = 20.0


def _reader(name: str) -> Callable[[bytes], Awaitable[bytes]]:
    async def answer(params: bytes) -> bytes:
        codec.decode_params(VERBS[name], params)
        return b"true"

    return answer


class Talker:
    """One client that stays; it reconnects when the door has closed its connection, which the door may."""

    def __init__(self, door: Door) -> None:
        self._door = door
        self._connect()

    def _connect(self) -> None:
        self._sock = socket.create_connection(self._door.address, timeout=PATIENCE_S)
        self._parser = stomp.Parser(max_header=65536, max_frame=64 * 1024 * 1024)
        self._sock.sendall(stomp.encode("CONNECT", (("accept-version", "1.2"), ("host", "h"))))
        self._sock.sendall(stomp.encode("SUBSCRIBE", (("destination", _ANSWERS), ("id", "1"))))

    def close(self) -> None:
        self._sock.close()

    def ask(self, bodies: Sequence[bytes]) -> None:
        """Send them all and a last question, whose answer must come; every answer before it must be a good one.

        Raises: AssertionError, OSError.
        """
        headers = (("destination", _REQUESTS), ("reply-to", _ANSWERS))
        self._sock.sendall(b"".join(stomp.encode("SEND", headers, body) for body in (*bodies, _FENCE)))
        while True:
            frame = self._parser.next()
            if frame is None:
                octets = self._sock.recv(262144)
                assert octets, "the door closed a connection over bodies that it should answer"
                self._parser.feed(octets)
            elif frame.command == "MESSAGE" and self._judge(frame.body):
                self._door.bus.asked.clear()
                return

    @staticmethod
    def _judge(body: bytes) -> bool:
        answers = json.loads(body)
        for answer in answers if isinstance(answers, list) else [answers]:
            assert ("error" in answer) != ("result" in answer), answer
            said = json.dumps(answer.get("error"))
            assert "Traceback" not in said and 'File "' not in said, answer
            if answer.get("id") == "the fence":
                return True
        return False


@contextlib.contextmanager
def door() -> Iterator[Door]:
    with open_door(None, answers={name: _reader(name) for name in VERBS if name != "Host.ping2"}) as found:
        yield found
