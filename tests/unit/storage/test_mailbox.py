# SPDX-License-Identifier: Apache-2.0
"""What an SPM answers to hosts of VDSM's, byte for byte, and what it makes of everything else."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.children import LocalChildren
from tests.support.domains import WrittenByVdsm, unpack
from tests.support.eventually import eventually
from tests.support.neighbour import Neighbour
from vdsm_mp.storage import mailbox_format as fmt
from vdsm_mp.storage.domain_file import FileDomain
from vdsm_mp.storage.domain_io import DomainIO
from vdsm_mp.storage.mailbox import Mailbox

DOMAIN, VOLUME = "8adbc85e-e554-4ae0-b318-8a5465fe5fe1", "d772f1c6-3ebb-43c3-a42e-73fcd8255a5f"
REQUEST = fmt.Extend(DOMAIN, VOLUME, 2560)
#: The same request as VDSM writes it.
BYTES = bytes.fromhex(
    "3178746e64e15ffe65548a18b3e04a54e55ec8db8a5f5a25d8fc732ea4c343bb"
    "3ec6f172d7303030303030303030303030306130303030303030303030303030"
)
HOSTS = 250


class Post:
    """A domain's inbox and outbox, and the SPM that reads them when it is told to."""

    def __init__(self, root: Path, children: LocalChildren) -> None:
        self.dom_md = root / "dom_md"
        self.asked: list[tuple[str, str]] = []
        self.there = True
        self.io = DomainIO(children, "master", str(root), deadline_s=10)
        self.mailbox = Mailbox(lambda: FileDomain("master", self.io), self._exists, HOSTS)

    def _exists(self, sd_id: str, volume_id: str) -> bool:
        self.asked.append((sd_id, volume_id))
        return self.there

    def look(self, neighbour: Neighbour) -> None:
        """A round in which the event has changed."""
        neighbour.send()
        self.mailbox.look()

    def outbox(self) -> bytes:
        return (self.dom_md / "outbox").read_bytes()[: HOSTS * fmt.MAILBOX]


@pytest.fixture
def post(children: LocalChildren, tmp_path: Path) -> Iterator[Post]:
    (tmp_path / "dom_md").mkdir()
    for name in ("inbox", "outbox"):
        with (tmp_path / "dom_md" / name).open("wb") as f:
            f.truncate(16 * 2**20)
    made = Post(tmp_path, children)
    yield made
    assert made.mailbox.stop()
    made.io.close()


def test_a_request_has_the_bytes_that_vdsm_writes() -> None:
    assert REQUEST.encode() == BYTES
    assert fmt.decode_extend(BYTES) == REQUEST
    sealed = fmt.seal(BYTES)
    assert (len(sealed), sealed[-4:].hex()) == (4096, "60190000")
    assert fmt.is_sealed(sealed)
    assert fmt.seal(b"") == fmt.NO_MAIL


@pytest.mark.parametrize("size", [-1, 2**32])
def test_a_size_without_a_place_is_refused(size: int) -> None:
    with pytest.raises(ValueError, match="MiB"):
        fmt.Extend(DOMAIN, VOLUME, size).encode()


def test_requests_that_vdsm_wrote_are_answered_as_its_spm_answered(children: LocalChildren, tmp_path: Path) -> None:
    shared: WrittenByVdsm = unpack(tmp_path)["shared"]
    post = Post(shared.root, children)
    try:
        before = post.outbox()
        post.mailbox.look()
        at = 2 * fmt.MAILBOX
        # VDSM's SPM had answered the first when it was stopped; now both are.
        assert post.outbox()[at : at + 64] == before[at : at + 64]
        replies = [fmt.decode_extend(post.outbox()[at + n * 64 : at + n * 64 + 64]) for n in (0, 1)]
        wanted = shared.facts["mailbox"]["messages"]
        assert [(r.sd_id, r.volume_id, r.size_mib) for r in replies] == [
            (m["domain"], m["volume"], m["size_mib"]) for m in wanted
        ]
        assert post.asked == [(m["domain"], m["volume"]) for m in wanted]
    finally:
        post.io.close()


def test_a_conversation_goes_through_all_its_steps(post: Post) -> None:
    """Run by its own thread, as while the role lasts."""
    neighbour = Neighbour(post.dom_md, 2)
    post.mailbox.start()
    assert neighbour.ask(0, REQUEST) == BYTES
    assert neighbour.ask(0, REQUEST) == BYTES  # the same again is answered again
    post.there = False
    assert neighbour.ask(62, REQUEST) == fmt.failed(BYTES)
    eventually(lambda: post.outbox() == fmt.NO_MAIL * HOSTS, within_s=10)
    assert len(post.asked) == 3


def test_each_request_is_looked_at_once(post: Post) -> None:
    neighbour = Neighbour(post.dom_md, HOSTS - 1)
    neighbour.put(5, BYTES)
    for _ in range(3):
        post.look(neighbour)
    assert post.asked == [(DOMAIN, VOLUME)]
    assert neighbour.heard(5) == BYTES


def test_an_outbox_is_empty_when_a_role_begins(post: Post) -> None:
    (post.dom_md / "outbox").write_bytes(b"\x55" * (16 * 2**20))
    post.mailbox.look()
    assert post.outbox() == fmt.NO_MAIL * HOSTS


def test_a_half_written_mailbox_waits_until_it_is_whole(post: Post) -> None:
    neighbour = Neighbour(post.dom_md, 2)
    post.look(neighbour)
    whole = fmt.seal(BYTES)
    neighbour.send(mailbox=whole[:-4] + b"\xff\xff\xff\xff")
    post.mailbox.look()
    assert post.asked == []
    neighbour.send(mailbox=whole)
    post.mailbox.look()
    assert neighbour.heard(0) == BYTES


@pytest.mark.parametrize("garbage", [b"1evil" + b"\xff" * 59, b"\xff" * 64, b"1xtn\x00" + bytes(59)])
def test_garbage_is_not_answered_and_stops_nothing(post: Post, garbage: bytes) -> None:
    neighbour, other = Neighbour(post.dom_md, 2), Neighbour(post.dom_md, 3)
    neighbour.put(0, garbage)
    neighbour.put(1, BYTES)
    other.send(mailbox=os.urandom(4096))
    post.mailbox.look()
    assert neighbour.heard(0) == fmt.EMPTY
    assert neighbour.heard(1) == BYTES


@pytest.mark.parametrize("size", [b"zzzzzzzzzzzzzzzz", b"            0x10", b"_______________1"])
def test_a_size_that_is_none_is_told_as_failed(post: Post, size: bytes) -> None:
    neighbour = Neighbour(post.dom_md, 2)
    neighbour.put(0, BYTES[:37] + size + BYTES[53:])
    post.mailbox.look()
    assert neighbour.heard(0) == fmt.failed(BYTES)
    assert post.asked == []


def test_a_short_inbox_is_read_as_far_as_it_goes(post: Post) -> None:
    neighbour = Neighbour(post.dom_md, 2)
    neighbour.put(0, BYTES)
    os.truncate(post.dom_md / "inbox", 3 * fmt.MAILBOX)
    post.mailbox.look()
    assert neighbour.heard(0) == BYTES


def test_the_mailbox_moves_with_the_master(post: Post, children: LocalChildren, tmp_path: Path) -> None:
    other = tmp_path / "other/dom_md"
    other.mkdir(parents=True)
    for name in ("inbox", "outbox"):
        (other / name).write_bytes(b"\0" * (HOSTS * fmt.MAILBOX))
    io = DomainIO(children, "other", str(other.parent), deadline_s=10)
    masters = [FileDomain("master", post.io), FileDomain("other", io)]
    mailbox = Mailbox(lambda: masters[0], lambda sd_id, volume_id: True, HOSTS)
    Neighbour(post.dom_md, 2).put(0, BYTES)
    mailbox.look()
    neighbour = Neighbour(other, 2)
    neighbour.put(0, BYTES)
    del masters[0]
    mailbox.look()
    assert neighbour.heard(0) == BYTES
    assert mailbox.stop()
    io.close()


def test_nothing_is_written_after_the_role(post: Post) -> None:
    neighbour = Neighbour(post.dom_md, 2)
    post.look(neighbour)
    assert post.mailbox.stop()
    neighbour.put(0, BYTES)
    post.mailbox.look()
    assert neighbour.heard(0) == fmt.EMPTY
