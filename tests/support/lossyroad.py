# SPDX-License-Identifier: Apache-2.0
"""A road that loses packets: two network namespaces joined by TUN devices, and a thread that carries packets between.

    with LossyRoad(lose=0.1, delay_s=0.02) as road:
        listener = road.listener()
        sock = road.dial(listener.getsockname()[1])

The kernel's own TCP is on both ends, so that what comes late comes late as on a real road. Namespaces belong to threads
of this process and end with them; nothing is seen from outside. Needs root.
"""

import contextlib
import ctypes
import errno
import fcntl
import heapq
import os
import random
import select
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Any, Self

_CLONE_NEWNET = 0x40000000
_TUNSETIFF, _IFF_TUN, _IFF_NO_PI = 0x400454CA, 0x0001, 0x1000
_NEAR, _FAR = ("192.0.2.1", "2001:db8::1"), ("192.0.2.2", "2001:db8::2")


class _End:
    """One namespace: a thread that lives in it, and its TUN device."""

    def __init__(self, addresses: tuple[str, str]) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="road-end")
        self.tun: int = self.run(self._make, addresses)

    def run(self, function: Callable[..., Any], *args: Any) -> Any:
        return self._thread.submit(function, *args).result(30)

    def _make(self, addresses: tuple[str, str]) -> int:
        if ctypes.CDLL(None, use_errno=True).unshare(_CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), "no network namespace of its own")
        tun = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        fcntl.ioctl(tun, _TUNSETIFF, struct.pack("16sH22x", b"road0", _IFF_TUN | _IFF_NO_PI))
        for words in (
            *(("addr", "add", f"{address}/{length}", "dev", "road0", *more)
              for address, length, more in ((addresses[0], 30, ()), (addresses[1], 64, ("nodad",)))),
            ("link", "set", "road0", "up", "mtu", "1500"),
            ("link", "set", "lo", "up"),
        ):  # fmt: skip
            subprocess.run(("ip", *words), check=True, timeout=10, capture_output=True)
        return tun

    def close(self) -> None:
        os.close(self.tun)
        self._thread.shutdown()


class LossyRoad:
    """lose: chance of a packet to vanish, in each direction. delay_s: on the way; a tenth of it more or less."""

    def __init__(self, *, lose: float, delay_s: float = 0.0, seed: int = 1) -> None:
        self.lose = lose
        self.delay_s = delay_s
        self.carried = self.lost = 0
        self._chance = random.Random(seed)
        self._near, self._far = _End(_NEAR), _End(_FAR)
        self._stop_in, self._stop_out = os.pipe()
        self._carrier = threading.Thread(target=self._carry, name="road", daemon=True)
        self._carrier.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        os.write(self._stop_out, b"x")
        self._carrier.join(10)
        for end in (self._near, self._far):
            end.close()
        os.close(self._stop_in)
        os.close(self._stop_out)

    def listener(self, *, backlog: int = 128) -> socket.socket:
        """At the near end, for IPv4 and IPv6."""

        def listen() -> socket.socket:
            return socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True, backlog=backlog)

        listener: socket.socket = self._near.run(listen)
        return listener

    def dial(self, port: int, *, ipv6: bool = False, timeout_s: float = 30.0) -> socket.socket:
        """From the far end."""
        sock: socket.socket = self._far.run(lambda: socket.create_connection((_NEAR[ipv6], port), timeout=timeout_s))
        return sock

    def _carry(self) -> None:
        ends = {self._near.tun: self._far.tun, self._far.tun: self._near.tun}
        waiting: list[tuple[float, int, int, bytes]] = []
        while True:
            wait_s = max(0.0, waiting[0][0] - time.monotonic()) if waiting else None
            ready, _, _ = select.select([*ends, self._stop_in], [], [], wait_s)
            if self._stop_in in ready:
                return
            for tun in ready:
                for packet in _packets(tun):
                    self.carried += 1
                    if self._chance.random() < self.lose:
                        self.lost += 1
                        continue
                    at = time.monotonic() + self.delay_s * self._chance.uniform(0.9, 1.1)
                    heapq.heappush(waiting, (at, self.carried, ends[tun], packet))
            now = time.monotonic()
            while waiting and waiting[0][0] <= now:
                _, _, tun, packet = heapq.heappop(waiting)
                with contextlib.suppress(BlockingIOError):
                    os.write(tun, packet)


def _packets(tun: int) -> list[bytes]:
    found = []
    try:
        while len(found) < 64:
            found.append(os.read(tun, 2048))
    except OSError as error:
        if error.errno not in (errno.EAGAIN, errno.EBADFD, errno.EIO):
            raise
    return found
