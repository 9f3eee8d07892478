# SPDX-License-Identifier: Apache-2.0
"""Directories of domains that are moved away, restored beside, mounted over or unmounted while they are in use.

Guests open disks by name; so whoever keeps metadata must not stay with a directory that has lost the name.
"""

import errno
import os
import shutil
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.children import LocalChildren
from tests.support.eventually import eventually
from tests.support.needs import needs_root
from tests.support.storage_room import StorageRoom
from vdsm_mp.api.errors_storage import DomainNotFound, StaleHandle, StorageFileMissing, UnsafePath
from vdsm_mp.storage.connect_local import LocalConnector
from vdsm_mp.storage.connections import Connections, Server
from vdsm_mp.storage.domain_format import DomainType
from vdsm_mp.storage.domain_io import DomainIO
from vdsm_mp.storage.ioproc_paths import Root
from vdsm_mp.storage.registry import Domains

pytestmark = [pytest.mark.timeout(60)]


@pytest.fixture
def domain(tmp_path: Path) -> Path:
    path = tmp_path / "server" / "domain"
    path.mkdir(parents=True)
    (path / "mine").write_text("the old one")
    return path


def open_domain(children: LocalChildren, domain: Path) -> DomainIO:
    return DomainIO(children, "d", str(domain.parent), domain.name, deadline_s=10)


def test_a_copy_that_takes_the_name_is_gone_over_to_by_the_same_child(children: LocalChildren, domain: Path) -> None:
    io = open_domain(children, domain)
    assert io.read("mine") == b"the old one"
    domain.rename(domain.with_name("before"))
    shutil.copytree(domain.with_name("before"), domain)
    (domain / "mine").write_text("the restored one")
    eventually(lambda: io.read("mine") == b"the restored one", within_s=10)
    io.create("fresh", b"")
    assert (domain / "fresh").exists()
    assert children.opened == 1
    io.close()


def test_what_has_no_name_any_more_is_not_there_until_it_is_back_but_nothing_is_taken_for_removed(
    children: LocalChildren, domain: Path
) -> None:
    io = open_domain(children, domain)
    io.stat(".")
    domain.parent.rename(domain.parent.with_name("away"))

    def gone() -> bool:
        try:
            assert io.exists("mine")
        except StaleHandle:
            return True
        return False

    eventually(gone, within_s=10)
    assert all(gone() for _ in range(5)), "not only once a second"
    domain.parent.with_name("away").rename(domain.parent)
    assert io.read("mine") == b"the old one"
    io.close()


@pytest.mark.parametrize("look_again", [Root.follow, Root.reopen])
def test_a_root_without_its_name_is_stale_and_not_a_file_that_is_removed(
    domain: Path, look_again: Callable[[Root], None], request: pytest.FixtureRequest
) -> None:
    root = Root(str(domain.parent), domain.name)
    request.addfinalizer(lambda: os.close(root._fd))  # a child has it until it ends
    domain.rename(domain.with_name("away"))
    with pytest.raises(OSError, match="not there any more") as stale:
        look_again(root)
    assert stale.value.errno == errno.ESTALE
    domain.with_name("away").rename(domain)
    look_again(root)
    assert root.stat("mine").st_size == len("the old one")


def test_a_link_that_takes_the_name_leads_nowhere(children: LocalChildren, domain: Path) -> None:
    io = open_domain(children, domain)
    io.stat(".")
    domain.rename(domain.with_name("before"))
    domain.symlink_to("before")

    def refused() -> bool:
        try:
            io.read("mine")
        except UnsafePath:
            return True
        return False

    eventually(refused, within_s=10)
    io.close()


@needs_root()
def test_a_mount_that_comes_late_is_seen_and_so_is_its_end(children: LocalChildren, domain: Path) -> None:
    io = open_domain(children, domain)
    io.stat(".")
    subprocess.run(["mount", "-t", "tmpfs", "none", domain.parent], check=True)
    try:
        domain.mkdir()
        (domain / "mine").write_text("on the disk")
        eventually(lambda: io.read("mine") == b"on the disk", within_s=10)
    finally:
        subprocess.run(["umount", "-l", domain.parent], check=True)
    eventually(lambda: io.read("mine") == b"the old one", within_s=10)
    io.close()


def test_who_is_looking_things_up_meanwhile_finds_the_one_or_the_other(children: LocalChildren, domain: Path) -> None:
    io = open_domain(children, domain)
    other = domain.with_name("other")
    shutil.copytree(domain, other)
    seen: list[object] = []
    over = threading.Event()

    def look() -> None:
        while not over.is_set():
            try:
                seen.append(io.read("mine"))
            except (StaleHandle, StorageFileMissing):
                pass
            except BaseException as error:
                seen.append(error)

    lookers = [threading.Thread(target=look) for _ in range(4)]
    for looker in lookers:
        looker.start()

    def is_there_now() -> bool:
        try:
            return io.stat(".").inode == domain.stat().st_ino
        except StaleHandle:
            return False

    for _ in range(3):
        domain.rename(domain.with_name("aside"))
        other.rename(domain)
        domain.with_name("aside").rename(other)
        eventually(is_there_now, within_s=10)
    over.set()
    for looker in lookers:
        looker.join()
    assert set(seen) == {b"the old one"}
    assert children.opened == 1
    io.close()


def test_what_is_nowhere_is_looked_for_once_by_each_check(
    children: LocalChildren, domain: Path, tmp_path: Path
) -> None:
    mnt = str(tmp_path / "mnt")
    connections = Connections(mnt, {DomainType.LOCALFS: LocalConnector(mnt, children)})
    connections.connect(DomainType.LOCALFS, Server(id="1", connection=str(domain.parent)))
    domains = Domains(connections, children)
    for _ in range(2):
        before = children.opened
        with pytest.raises(DomainNotFound):
            domains.find("5d000000-0000-4000-8000-000000000000")
        domains.look_elsewhere("5d000000-0000-4000-8000-000000000000")
        assert children.opened == before + 1, "of the one root, to list it"


def test_an_spm_goes_on_with_its_tasks_when_its_master_domain_is_back(tmp_path: Path) -> None:
    room = StorageRoom(tmp_path, sd_health_check_delay=1).make()
    try:
        [sd_id] = room.call("internal.domain_vitals")

        def code() -> int:
            return int(room.call("internal.domain_vitals")[sd_id]["code"])

        eventually(lambda: code() == 0, within_s=20)
        room.create()
        domain = room.domain
        for harm in ("moved away", "its metadata moved away"):
            part = domain if harm == "moved away" else domain / "dom_md" / "metadata"
            part.rename(tmp_path / "aside")
            eventually(lambda: code() != 0, within_s=20)
            (tmp_path / "aside").rename(part)
            eventually(lambda: code() == 0, within_s=20)
            room.create()
    finally:
        room.stop()
