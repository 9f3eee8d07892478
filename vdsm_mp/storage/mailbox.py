# SPDX-License-Identifier: Apache-2.0
"""The SPM's side of the mailbox: reads what hosts of the pool write to the master's inbox, and answers in its outbox.

Hosts of VDSM's ask for larger volumes that way. Volumes of file domains grow by themselves: whoever asks for one that
exists is told "done", for anything else "failed" (size 0); nothing is changed. Garbage is logged, once, and never
ends the reading; a mailbox that is half written is looked at again.

A host's side of it is not here: what hosts ask for are larger volumes on block storage, which this agent does not have.
Nothing of it is needed to share a pool with hosts of VDSM's: a mailbox that nobody writes is empty to their SPM.

One thread while the role lasts, on a master that several hosts see. It reads the event block twice a second and all of
the inbox every two seconds or when the event changed. Storage that hangs costs it nothing but time. The bytes are
`mailbox_format.py`.
"""

import logging
import threading
from collections.abc import Callable

from vdsm_mp.api.errors_storage import PoolNotConnected, StoragePathBlocked
from vdsm_mp.common.clock import mono_s
from vdsm_mp.common.errors import Error
from vdsm_mp.storage import mailbox_format as fmt
from vdsm_mp.storage.domain_file import INBOX, OUTBOX, FileDomain
from vdsm_mp.storage.pool import Pools
from vdsm_mp.storage.pool_state import ACTIVE
from vdsm_mp.storage.registry import Domains
from vdsm_mp.storage.volume_file import IMAGES, META

_log = logging.getLogger("storage.mailbox")

EVENT_S = 0.5
FULL_S = 2.0
_IO_DEADLINE_S = 10.0
#: After a read that failed.
_PAUSE_S = 10.0
#: A write under way when the role is given up ends by then, or fails.
_STOP_S = 15.0


class Mailboxes:
    """Makes the mailbox of each SPM role. `hosts` beyond what a file has room for are not looked at."""

    def __init__(self, pools: Pools, domains: Domains) -> None:
        self._pools = pools
        self._domains = domains

    def open(self, hosts: int) -> "Mailbox":
        """hosts: places, that of the event included. It reads from now on."""
        made = Mailbox(self._master, self._exists, max(1, min(hosts, fmt.HOSTS)))
        made.start()
        return made

    def _master(self) -> FileDomain:
        state = self._pools.state
        if state is None:
            raise PoolNotConnected("-", "this host left it")
        return self._pools.master(state)

    def _exists(self, sd_id: str, volume_id: str) -> bool:
        state = self._pools.state
        if state is None or state.domains.get(sd_id) != ACTIVE:
            return False
        io = self._domains.find(sd_id).io
        if io.health()["stuck"]:
            raise StoragePathBlocked(io.root, "an earlier request still hangs")
        return bool(io.scan(IMAGES, f"{volume_id}{META}", deadline_s=_IO_DEADLINE_S))


class Mailbox:
    """The life of one SPM role. `stop` before the role is given up: nothing is written after it has returned."""

    def __init__(self, master: Callable[[], FileDomain], exists: Callable[[str, str], bool], hosts: int) -> None:
        """master: where the mailbox is; it may move. exists: is there such a volume (sd_id, volume_id) in the pool?

        hosts: mailboxes that are looked at, the event's place included.
        """
        self._master = master
        self._exists = exists
        self._hosts = hosts
        self._stopping = threading.Event()
        self._writing = threading.Lock()
        self._sd_id = ""
        self._event = b""
        self._read_at = 0.0
        self._complained = ""
        self._seen: dict[int, bytes] = {}
        self._replies: dict[int, bytearray] = {}

    def start(self) -> None:
        threading.Thread(target=self._run, daemon=True, name="mailbox").start()

    def stop(self) -> bool:
        """False: a write still hangs, and nobody can tell when it will reach the storage."""
        self._stopping.set()
        if not self._writing.acquire(timeout=_STOP_S):
            return False
        self._writing.release()
        return True

    def _run(self) -> None:
        while not self._stopping.is_set():
            pause_s = EVENT_S
            try:
                self.look()
                self._complained = ""
            except Error as e:
                pause_s = _PAUSE_S
                if not self._complained:
                    _log.warning("the mailbox is not read: %s", e)
                self._complained = str(e)
            except Exception:
                pause_s = _PAUSE_S
                _log.exception("the mailbox was not read for a reason nobody foresaw")
            self._stopping.wait(pause_s)

    def look(self) -> None:
        """One round. Raises: storage errors; what was not answered is answered by a later round."""
        master = self._master()
        if master.io.health()["stuck"]:
            raise StoragePathBlocked(master.path, "an earlier request still hangs")
        if master.sd_id != self._sd_id:
            self._begin(master)
        event = fmt.event_of(master.io.read(INBOX, length=fmt.MAILBOX, deadline_s=_IO_DEADLINE_S))
        if event == self._event and mono_s() - self._read_at < FULL_S:
            return
        length = fmt.MAILBOX * self._hosts
        mail = master.io.read(INBOX, length=length, deadline_s=_IO_DEADLINE_S)
        self._event, self._read_at = event, mono_s()
        for host in range(1, len(mail) // fmt.MAILBOX):
            found = mail[host * fmt.MAILBOX : (host + 1) * fmt.MAILBOX]
            if found != self._seen.get(host, fmt.NO_MAIL):
                self._take(master, host, found)

    def _begin(self, master: FileDomain) -> None:
        """An empty outbox; what waits in the inbox is served."""
        self._write(master, 0, fmt.NO_MAIL * self._hosts)
        self._sd_id, self._event, self._read_at = master.sd_id, b"", 0.0
        self._seen, self._replies = {}, {}

    def _take(self, master: FileDomain, host: int, found: bytes) -> None:
        if found == fmt.NO_MAIL:  # it has begun anew, or has nothing to ask any more
            replies = bytearray(fmt.MAILBOX)
        elif not fmt.is_sealed(found):
            # Half written, most likely: seen again with the next round.
            _log.debug("the mailbox of host %d has a wrong checksum", host)
            return
        else:
            replies = bytearray(self._replies.get(host, fmt.NO_MAIL))
            before = fmt.messages(self._seen.get(host, fmt.NO_MAIL))
            for slot, (old, new) in enumerate(zip(before, fmt.messages(found), strict=True)):
                if new != old and (reply := self._reply(host, slot, new)) is not None:
                    replies[slot * fmt.MESSAGE : (slot + 1) * fmt.MESSAGE] = reply
        if replies != self._replies.get(host, fmt.NO_MAIL):
            self._write(master, host * fmt.MAILBOX, bytes(replies))
        self._seen[host], self._replies[host] = found, replies

    def _reply(self, host: int, slot: int, message: bytes) -> bytes | None:
        """None: there is nothing to say."""
        if message[0] == 0:
            return None
        if message == fmt.CLEAN:
            return fmt.CLEAN
        if not fmt.is_extend(message):
            _log.warning("host %d, slot %d: a message that nobody knows: %r", host, slot, message[:8])
            return None
        try:
            asked = fmt.decode_extend(message)
            done = self._exists(asked.sd_id, asked.volume_id)
        except (ValueError, Error) as e:
            _log.warning("host %d, slot %d: the volume is not extended: %s", host, slot, e)
            return fmt.failed(message)
        _log.info(
            "host %d asks for %d MiB in volume %s of domain %s: %s",
            host,
            asked.size_mib,
            asked.volume_id,
            asked.sd_id,
            "it grows by itself" if done else "there is none",
        )
        return message if done else fmt.failed(message)

    def _write(self, master: FileDomain, offset: int, data: bytes) -> None:
        with self._writing:
            if not self._stopping.is_set():
                master.io.write(OUTBOX, data, offset=offset, direct=True)
