# SPDX-License-Identifier: Apache-2.0
"""The connection to libvirt: opened, kept alive, made again when it is lost. libvirt's errors become ours here.

One keeper thread opens connections, one at a time, and after each success registers the callbacks again and takes
stock of the domains (`on_connect`), because what happened in the gap is told by nobody. Calls fail at once while
there is no connection. libvirt's own event loop runs in a second thread and is registered before anything connects;
callbacks arrive there and must not call libvirt.

A frozen libvirtd is found by a pulse of our own, a call that libvirtd answers from memory. libvirt's keep-alive does
not do: when several calls wait, it closes without its callback, frees one of them and leaves the others for ever
(seen with 9.0). So the socket is shut down instead, which every waiting call notices. For the same reason a
connection is never closed under running calls: the last reference closes it.
"""

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import libvirt

from vdsm_mp.api.errors_virt import LibvirtUnavailable, NoSuchVm, VmNotResponding, VmOperationFailed
from vdsm_mp.common import clock, kernel, log
from vdsm_mp.common.errors import Error
from vdsm_mp.virt import eventloop
from vdsm_mp.virt.calling import Calling, under_way
from vdsm_mp.virt.opening import Attempt
from vdsm_mp.virt.pulse import SILENT_S, Pulse

logger = log.named(__name__)

#: Where the socket cannot be found (other transports), libvirt's keep-alive must do.
_KEEPALIVE = (2, 3)
_OPEN_DEADLINE_S = 10.0
_BACKOFF_S = (0.1, 0.2, 0.5, 1.0, 2.0)
#: How often it is looked whether a connection is still there, besides being told that it is not.
_LOOK_S = 2.0
#: open() against a frozen daemon never returns; so many threads may hang in it before we only wait for them.
_MAX_HANGING_OPENS = 3

_LOST = {
    libvirt.VIR_ERR_SYSTEM_ERROR,
    libvirt.VIR_ERR_INTERNAL_ERROR,
    libvirt.VIR_ERR_NO_CONNECT,
    libvirt.VIR_ERR_INVALID_CONN,
    libvirt.VIR_ERR_RPC,
}
_TRANSPORT = {libvirt.VIR_FROM_REMOTE, libvirt.VIR_FROM_RPC}

OnConnect = Callable[[Any], None]


class Connection:
    """Owns the only connection. `on_connect(conn)` runs in the keeper thread after every (re)connect."""

    def __init__(self, uri: str) -> None:
        self._uri = uri
        self._on_connect: OnConnect = _nothing
        self._conn: Any = None
        self._why_not = "not connected yet"
        self._lost = threading.Event()
        self._ready = threading.Event()
        self._stopping = threading.Event()
        self._hanging = threading.Semaphore(_MAX_HANGING_OPENS)
        self._hanging_others = threading.Semaphore(_MAX_HANGING_OPENS)
        self._keeper = threading.Thread(target=self._keep, name="libvirt-keeper", daemon=True)
        self._listening: list[int] = []
        self.calling = Calling(lambda deadline_s: self._attempt(self._hanging_others, deadline_s))
        self.reconnects = 0
        self._since_mono = 0.0
        self._daemon_pid = 0

    def start(self, on_connect: OnConnect, *, wait_s: float = 2.0) -> bool:
        """Begin to connect; True when stock was taken within `wait_s`. Goes on trying for ever otherwise."""
        eventloop.start()
        self._on_connect = on_connect
        self._keeper.start()
        return self._ready.wait(wait_s)

    def close(self) -> None:
        """Stop connecting and close. Guests go on."""
        self._stopping.set()
        self._lost.set()
        if self._keeper.is_alive():
            self._keeper.join(5)

    @property
    def alive(self) -> bool:
        return self._ready.is_set()

    @property
    def age_s(self) -> float:
        """Seconds since libvirtd was reached (again)."""
        return clock.mono_s() - self._since_mono

    @property
    def daemon_pid(self) -> int:
        """Of who listens at the socket that we are connected to, which may be what starts the daemon; 0 = not known."""
        return self._daemon_pid

    def get(self) -> Any:
        """A virConnect for the next call; another one, soon, when calls on it hang. Raises: LibvirtUnavailable."""
        return self.calling.get(self._main())

    def _main(self) -> Any:
        conn = self._conn
        if conn is None:
            raise LibvirtUnavailable(self._why_not)
        return conn

    def domain(self, vm_id: str) -> Any:
        """The virDomain of a VM, looked up again for every use. Raises: NoSuchVm, LibvirtUnavailable."""
        with translated(vm_id):
            return self.get().lookupByUUIDString(vm_id)

    def another(self) -> Any:
        """One more virConnect, without callbacks, for calls that may hang. The last reference closes it.

        Raises: LibvirtUnavailable, after some seconds when libvirtd does not answer.
        """
        self._main()
        conn, sock, why_not = self._attempt(self._hanging_others)
        if sock is not None:
            sock.close()
        if conn is None:
            raise LibvirtUnavailable(why_not)
        return conn

    def listen(self, conn: Any, event: int, callback: Callable[..., None]) -> None:
        """Register an event callback for all domains, for the life of this connection. From `on_connect` only."""
        with _unsupported_is_fine():
            self._listening.append(conn.domainEventRegisterAny(None, event, callback, None))

    # -- the keeper thread

    def _keep(self) -> None:
        attempt = 0
        while not self._stopping.is_set():
            conn, sock = self._open()
            if conn is not None:
                self._lost.clear()
                self._daemon_pid = kernel.peer_of(sock)[0] if sock is not None else 0
                pulse = Pulse(conn, sock, self.calling.look)
                if self._greet(conn, pulse):
                    attempt = 0
                    self._watch(conn, pulse)
                self._ready.clear()
                self._conn = None
                pulse.stop()
                self.calling.forget()
                self._let_go(conn)
                del conn, pulse
            if not self._stopping.is_set():
                logger.warning("no connection to libvirt (%s); trying again", self._why_not)
                self._stopping.wait(_BACKOFF_S[min(attempt, len(_BACKOFF_S) - 1)])
                attempt += 1

    def _watch(self, conn: Any, pulse: Pulse) -> None:
        """Return when the connection is lost."""
        # Being closed wakes us; silence has its time.
        while not self._lost.wait(min(_LOOK_S, max(0.1, SILENT_S - pulse.silent_s()))):
            if not conn.isAlive():
                self._why_not = "closed without a word"
                return
            if pulse.silent_s() > SILENT_S:
                self._why_not = f"no answer for {SILENT_S:g} s"
                self.calling.sever()
                if pulse.sever():
                    return

    def _let_go(self, conn: Any) -> None:
        """Callbacks hold the connection: they go first. On a dead one that fails or hangs, so it has its own thread."""
        numbers, self._listening = self._listening, []
        farewell = threading.Thread(target=_forget, args=(conn, numbers), name="libvirt-farewell", daemon=True)
        farewell.start()
        farewell.join(1)

    def _open(self) -> tuple[Any, socket.socket | None]:
        conn, sock, why_not = self._attempt(self._hanging)
        if conn is None:
            self._why_not = why_not
        return conn, sock

    def _attempt(
        self, slots: threading.Semaphore, deadline_s: float = _OPEN_DEADLINE_S
    ) -> tuple[Any, socket.socket | None, str]:
        """Open in a thread that can be left behind; the connection is None when that failed or took too long."""
        if not slots.acquire(blocking=False):
            return None, None, "libvirtd accepts connections but does not answer"
        return Attempt(self._uri, slots).wait(deadline_s, self._stopping)

    def _greet(self, conn: Any, pulse: Pulse) -> bool:
        try:
            with _unsupported_is_fine():
                conn.registerCloseCallback(self._closed, None)
            if not pulse.start():
                with _unsupported_is_fine():
                    conn.setKeepAlive(*_KEEPALIVE)
            self._conn, self._since_mono = conn, clock.mono_s()
            self._on_connect(conn)
        except (libvirt.libvirtError, Error) as error:
            self._why_not = f"it went away while we took stock: {error}"
            return False
        self.reconnects += 1
        self._ready.set()
        logger.info("connected to %s", self._uri)
        return True

    def _closed(self, conn: Any, reason: int, opaque: object) -> None:
        """libvirt's close callback, in the event thread."""
        reasons = ("error", "end of file", "no answer to keep-alive", "closed by us")
        self._why_not = f"connection closed: {reasons[reason] if reason < len(reasons) else reason}"
        self._lost.set()


def translate(
    error: libvirt.libvirtError, vm_id: str = "", failed: Callable[[str], Error] = VmOperationFailed
) -> Error:
    """Ours for libvirt's. failed: makes the error for "it was tried and refused" out of libvirt's sentence."""
    code, source = error.get_error_code(), error.get_error_domain()
    sentence = error.get_error_message() or str(error)
    if code == libvirt.VIR_ERR_NO_DOMAIN:
        return NoSuchVm(vm_id)
    if source in _TRANSPORT and code in _LOST:
        return LibvirtUnavailable(sentence)
    if code in (libvirt.VIR_ERR_OPERATION_TIMEOUT, libvirt.VIR_ERR_AGENT_UNRESPONSIVE):
        return VmNotResponding(sentence)
    return failed(sentence)


@contextlib.contextmanager
def translated(vm_id: str = "", failed: Callable[[str], Error] = VmOperationFailed) -> Iterator[None]:
    """Around libvirt calls: what leaves is ours. See `translate`."""
    try:
        with under_way():
            yield
    except libvirt.libvirtError as error:
        raise translate(error, vm_id, failed) from error
    except ValueError as error:
        # Python's own, on the way into libvirt, which has C's strings.
        if "embedded null" not in str(error):
            raise
        raise failed("libvirt knows no name with a NUL in it") from error


@contextlib.contextmanager
def _unsupported_is_fine() -> Iterator[None]:
    """Drivers without a transport (test:///) have no keep-alive and no close callback, and no need of them."""
    try:
        yield
    except libvirt.libvirtError as error:
        if error.get_error_code() not in (libvirt.VIR_ERR_NO_SUPPORT, libvirt.VIR_ERR_OPERATION_UNSUPPORTED):
            raise


def _forget(conn: Any, numbers: list[int]) -> None:
    for number in numbers:
        with contextlib.suppress(libvirt.libvirtError):
            conn.domainEventDeregisterAny(number)
    with contextlib.suppress(libvirt.libvirtError):
        conn.unregisterCloseCallback()
    # What could not be deregistered refers to the connection, which refers to it.
    conn.domainEventCallbackID.clear()


def _nothing(conn: Any) -> None:
    return
