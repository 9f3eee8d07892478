# SPDX-License-Identifier: Apache-2.0
"""File operations through a real I/O child."""

import errno
import fcntl
import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.children import LocalChildren
from tests.support.eventually import eventually
from vdsm_mp.api.errors_storage import (
    IoChildDied,
    StorageAccessFailed,
    StorageFileExists,
    StorageFileMissing,
    StorageLockHeld,
    UnsafePath,
)
from vdsm_mp.storage.domain_io import DomainIO
from vdsm_mp.storage.file_facts import Entry


def test_what_is_created_is_read_back_with_exact_mode_and_size(io: DomainIO) -> None:
    io.mkdir("dom_md", mode=0o775)
    io.create("dom_md/inbox", b"head", mode=0o660, size=16 * 2**20)
    found = io.stat("dom_md/inbox")
    assert (found.kind, found.size_bytes, found.mode) == ("file", 16 * 2**20, 0o660)
    assert found.allocated_bytes < 2**20
    assert io.stat("dom_md").mode == 0o775
    assert io.read("dom_md/inbox", offset=2, length=5) == b"ad\0\0\0"
    assert io.read("dom_md/inbox", offset=4096 + 3, length=600, direct=False) == bytes(600)


@pytest.mark.parametrize("size", [0, 1, 511, 512, 4096, 65_536, 65_537, 300_001])
def test_data_of_any_length_survives_replace_and_create(io: DomainIO, size: int) -> None:
    data = os.urandom(size)
    io.replace("a", data)
    io.create("b", data)
    for name in ("a", "b"):
        assert io.read(name) == data
        assert io.read(name, direct=False) == data
    io.replace("a", b"short")
    assert io.read("a") == b"short"
    assert sorted(e.name for e in io.readdir()) == ["a", "b"]


def test_create_refuses_an_existing_file_and_leaves_it_alone(io: DomainIO) -> None:
    io.create("a", b"first")
    with pytest.raises(StorageFileExists):
        io.create("a", b"second")
    assert io.read("a") == b"first"


def test_a_file_longer_than_the_limit_is_refused(io: DomainIO) -> None:
    io.create("big", size=10 * 2**20)
    with pytest.raises(StorageAccessFailed) as e:
        io.read("big")
    assert e.value.errno == errno.EFBIG


def test_a_direct_write_goes_in_place_and_never_creates(io: DomainIO) -> None:
    io.create("xleases", size=8192)
    io.write("xleases", b"x" * 512, offset=4096, direct=True)
    assert io.read("xleases", offset=4095, length=3) == b"\0xx"
    assert io.stat("xleases").size_bytes == 8192
    with pytest.raises(StorageFileMissing):
        io.write("nothing", b"x")


def test_directories_links_and_removal(io: DomainIO) -> None:
    io.mkdir("images/i1", parents=True)
    io.mkdir("images/i1", exist_ok=True)
    with pytest.raises(StorageFileExists):
        io.mkdir("images/i1")
    io.create("images/i1/v", b"1")
    io.mkdir("images/i2")
    io.link("images/i1/v", "images/i2/v")
    with pytest.raises(StorageFileExists):
        io.link("images/i1/v", "images/i2/v")
    io.link("images/i1/v", "images/i2/v", overwrite=True)
    assert io.stat("images/i2/v").links == 2
    assert io.readdir("images/i2") == [Entry("v", "file")]
    with pytest.raises(StorageFileExists):
        io.rmdir("images/i2")
    io.rename("images/i1", "images/_remove_me_i1")
    assert io.exists("images/_remove_me_i1/v")
    io.remove_tree("images")
    io.remove_tree("images")
    assert not io.exists("images")
    io.unlink("gone", missing_ok=True)
    with pytest.raises(StorageFileMissing):
        io.unlink("gone")


def test_scan_returns_names_stats_and_contents_in_one_go(io: DomainIO) -> None:
    for image in ("i1", "i2"):
        io.mkdir(f"images/{image}", parents=True)
        io.create(f"images/{image}/v.meta", f"IMAGE={image}\xff\n".encode("latin-1"))
        io.create(f"images/{image}/v", b"data")
    found = io.scan("images", ".meta", data_limit=512)
    assert [(f.path, f.data) for f in found] == [
        ("images/i1/v.meta", b"IMAGE=i1\xff\n"),
        ("images/i2/v.meta", b"IMAGE=i2\xff\n"),
    ]
    assert [f.path for f in io.scan("images")] == ["images/i1/v", "images/i1/v.meta", "images/i2/v", "images/i2/v.meta"]


def test_a_listing_longer_than_a_packet_arrives_whole(io: DomainIO) -> None:
    names = {f"{'n' * 200}-{i}" for i in range(2000)}
    for name in names:
        Path(io.path_of(name)).touch()
    assert {e.name for e in io.readdir()} == names


Touch = Callable[[DomainIO, str], object]
TOUCHES: dict[str, Touch] = {
    "read": lambda io, p: io.read(p),
    "write": lambda io, p: io.write(p, b"x"),
    "truncate": lambda io, p: io.truncate(p, 0),
    "chmod": lambda io, p: io.chmod(p, 0o777),
    "lock": lambda io, p: io.open_locked(p),
    "fsync": lambda io, p: io.fsync(p),
    "link": lambda io, p: io.link(p, "new"),
}


@pytest.mark.parametrize("touch", TOUCHES.values(), ids=TOUCHES.keys())
@pytest.mark.parametrize("kind", ["link", "dangling", "fifo", "beyond", "dir-link"])
def test_nothing_planted_is_followed_or_opened(io: DomainIO, tmp_path: Path, touch: Touch, kind: str) -> None:
    secret = tmp_path / "secret"
    secret.write_text("secret")
    planted = Path(io.root) / "planted"
    path = "planted"
    match kind:
        case "link":
            planted.symlink_to(secret)
        case "dangling":
            planted.symlink_to(tmp_path / "made")
        case "fifo":
            os.mkfifo(planted)
        case "beyond":
            path = "../secret"
        case "dir-link":
            planted.symlink_to(tmp_path)
            path = "planted/secret"
    before = secret.stat()
    with pytest.raises(UnsafePath):
        touch(io, path)
    assert (secret.read_text(), secret.stat().st_mode) == ("secret", before.st_mode)
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize("path", ["..", "a/..", "../x", "/etc/passwd", "a//", "."])
def test_creating_stays_beneath_the_root(io: DomainIO, path: str) -> None:
    io.mkdir("a")
    for make in (io.create, io.mkdir, lambda p: io.replace(p, b"")):
        with pytest.raises(StorageAccessFailed):
            make(path)


def test_a_link_is_removed_not_followed(io: DomainIO, tmp_path: Path) -> None:
    (tmp_path / "keep").mkdir()
    (tmp_path / "keep" / "file").touch()
    io.mkdir("tree")
    (Path(io.root) / "tree" / "link").symlink_to(tmp_path / "keep")
    io.remove_tree("tree")
    assert (tmp_path / "keep" / "file").exists()
    with pytest.raises(StorageAccessFailed):
        io.remove_tree("../keep")
    assert (tmp_path / "keep" / "file").exists()


def test_a_replaced_link_is_replaced_not_followed(io: DomainIO, tmp_path: Path) -> None:
    (tmp_path / "victim").write_text("mine")
    for name in ("f", "f.new"):
        (Path(io.root) / name).symlink_to(tmp_path / "victim")
    io.replace("f", b"ours")
    assert (tmp_path / "victim").read_text() == "mine"
    assert io.read("f") == b"ours"


def test_a_lock_outlives_the_child_and_ends_with_its_descriptor(io: DomainIO, children: LocalChildren) -> None:
    io.create("ids")
    fd = io.open_locked("ids")
    with pytest.raises(StorageLockHeld):
        io.open_locked("ids")
    children.kill("storage-io", "test")
    with pytest.raises(StorageLockHeld):
        io.open_locked("ids")
    os.close(fd)
    fd = io.open_locked("ids")
    with open(io.path_of("ids")) as other, pytest.raises(BlockingIOError):
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.close(fd)


def test_a_dead_child_is_replaced_and_reads_are_repeated(io: DomainIO, children: LocalChildren) -> None:
    io.create("a", b"1")
    children.kill("storage-io", "test")
    assert io.read("a") == b"1"
    assert children.opened == 2


def test_a_change_that_never_reached_a_dead_child_is_sent_to_the_next(io: DomainIO, children: LocalChildren) -> None:
    io.create("a", b"1")
    children.kill("storage-io", "test")
    children.wait("storage-io", "test")
    io.replace("a", b"2")
    assert io.read("a") == b"2"


def test_a_change_under_way_is_not_repeated_when_the_child_dies(io: DomainIO, children: LocalChildren) -> None:
    io.create("a", b"1")
    children.signal("storage-io", "test", signal.SIGSTOP)
    raised: list[Exception] = []

    def change() -> None:
        try:
            io.replace("a", b"2")
        except IoChildDied as e:
            raised.append(e)

    thread = threading.Thread(target=change)
    thread.start()
    eventually(lambda: io.health()["waiting"] == 1)
    children.kill("storage-io", "test")
    thread.join(10)
    assert len(raised) == 1
    assert io.read("a") == b"1"


def test_many_callers_share_one_child(io: DomainIO, children: LocalChildren) -> None:
    failures: list[Exception] = []

    def work(number: int) -> None:
        try:
            for i in range(20):
                data = f"{number}-{i}".encode() * 50
                io.replace(f"f{number}", data)
                assert io.read(f"f{number}") == data
        except Exception as e:
            failures.append(e)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(12)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert failures == []
    assert children.opened == 1


def test_statvfs_access_and_block_size_probe(io: DomainIO) -> None:
    stats = io.statvfs()
    real = os.statvfs(io.root)
    assert stats.total_bytes == real.f_frsize * real.f_blocks
    assert io.access() == {"read": True, "write": True, "search": True}
    assert io.probe_block_size() in (1, 512, 4096)
    assert io.readdir() == []


def test_a_missing_root_is_told_and_costs_no_child(children: LocalChildren, tmp_path: Path) -> None:
    io = DomainIO(children, "none", str(tmp_path), "absent")
    for _ in range(4):
        with pytest.raises(StorageFileMissing):
            io.stat()
    assert children.pids == {}


def test_a_domain_directory_that_is_a_link_is_refused(children: LocalChildren, tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "sd").symlink_to(tmp_path / "real")
    with pytest.raises(UnsafePath):
        DomainIO(children, "sd", str(tmp_path), "sd").stat()


def test_metadata_are_never_written_into_the_file_of_another(io: DomainIO) -> None:
    """What was cut short while it shared a template may have left such a link."""
    io.mkdir("images")
    io.mkdir("images/a")
    io.create("images/a/one.meta", b"of somebody")
    io.link("images/a/one.meta", "images/a/two.meta.new")
    io.begin_volume("images/a", "two", mode=0o660, size=4096)
    io.finish_volume("images/a", "two", "two.meta", "ours")
    assert io.read("images/a/one.meta", direct=False) == b"of somebody"
    assert io.read("images/a/two.meta", direct=False) == b"ours"
