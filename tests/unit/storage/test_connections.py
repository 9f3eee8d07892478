# SPDX-License-Identifier: Apache-2.0
"""Connections to storage servers: what root is asked to mount, whose mount it is, and who waits for whom."""

import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.children import LocalChildren
from tests.support.eventually import eventually
from tests.support.needs import needs_root
from tests.support.room import Called
from vdsm_mp.api.errors import Busy, PeerRestarted, PrivilegedFailed, RootHelperGone
from vdsm_mp.api.errors_storage import MountFailed, ServerConnectionFailed, ServerParametersInvalid
from vdsm_mp.api.types import BLANK
from vdsm_mp.common.options import Config, House, Irs
from vdsm_mp.storage.access import may_read, qemu_user
from vdsm_mp.storage.connect_mounted import Mounter
from vdsm_mp.storage.connect_nfs import NfsConnector, nfs_options, remote_of
from vdsm_mp.storage.connections import Connections, Server, status_of
from vdsm_mp.storage.domain_format import DomainType
from vdsm_mp.storage.file_facts import FileStat
from vdsm_mp.storage.mount import mounts_below

NFS, LOCAL, POSIX, GLUSTER = 1, 4, 6, 7


class Refusing:
    """A root that mounts nothing, remembers what it was asked, and hangs for what is in `hanging`."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.hanging: dict[str, threading.Event] = {}
        self.looked: list[str] = []
        #: What gluster's program says of a volume; None: it is not installed.
        self.volumes: list[str] | None = None

    def do(self, operation: str, /, *, deadline_s: float = 30.0, **params: Any) -> Any:
        if operation == "gluster-volume":
            self.looked.append(params["remote"])
            return {"installed": self.volumes is not None, "answers": self.volumes or []}
        self.asked.append((operation, params))
        if (until := self.hanging.get(params["remote"])) is not None:
            until.wait(deadline_s)
        raise PrivilegedFailed(operation, "nothing is mounted here")

    def remotes(self) -> list[str]:
        return [params["remote"] for _, params in self.asked]


class Asking:
    """A storage room over such a root."""

    def __init__(self, place: Path, children: LocalChildren) -> None:
        (place / "run").mkdir()
        self.mnt = place / "dc/mnt"
        self.root = Refusing()
        config = Config(irs=Irs(repository=f"{place}/dc"), vdsm_mp=House(run_dir=f"{place}/run"))
        self.room = Called("vdsm_mp.workers.storage", config, root=self.root, children=children)

    def ask(self, kind: int, *rows: dict[str, Any], verb: str = "connectStorageServer") -> list[int]:
        params = {"storagepoolID": BLANK, "domainType": kind, "connectionParams": list(rows)}
        found = self.room.call(f"StoragePool.{verb}", **params)
        assert [row["id"] for row in found] == [str(row["id"]) for row in rows]
        return [row["status"] for row in found]


@pytest.fixture
def asking(tmp_path: Path, children: LocalChildren) -> Iterator[Asking]:
    made = Asking(tmp_path, children)
    yield made
    for until in made.root.hanging.values():
        until.set()
    made.room.stop()


def test_a_volume_of_gluster_is_asked_for_with_its_backup_servers(asking: Asking) -> None:
    row = {"id": "g", "connection": "one.example:/data//sub/", "vfs_type": "glusterfs"}
    row["mnt_options"] = "backup-volfile-servers=two.example:three.example,log-level=x"
    assert asking.ask(GLUSTER, row) == [477]
    wanted = {"remote": "one.example:/data/sub", "vfs_type": "glusterfs", "options": row["mnt_options"]}
    assert asking.root.asked == [("mount-posix", wanted)]
    # The engine may leave the type out; through the type POSIX it is the same mount.
    assert asking.ask(GLUSTER, row | {"vfs_type": ""}) == asking.ask(POSIX, row) == [477]
    assert asking.root.asked == [("mount-posix", wanted)] * 3
    assert list((asking.mnt / "glusterSD").iterdir()) == []


def gluster_says(
    name: str = "data", *, kind: str = "Replicate", replicas: int = 3, hosts: str = "one two three"
) -> str:
    """The XML of gluster 10."""
    bricks = "".join(
        f'<brick uuid="u">{host}:/srv/brick<name>{host}:/srv/brick</name><hostUuid>u</hostUuid></brick>'
        for host in hosts.split()
    )
    return (
        f'<?xml version="1.0" encoding="UTF-8" standalone="yes"?><cliOutput><opRet>0</opRet><volInfo><volumes><volume>'
        f"<name>{name}</name><typeStr>{kind}</typeStr><replicaCount>{replicas}</replicaCount><bricks>{bricks}</bricks>"
        f"</volume><count>1</count></volumes></volInfo></cliOutput>"
    )


def test_the_other_servers_of_a_volume_are_asked_when_the_named_one_is_away(asking: Asking) -> None:
    row = {"id": "g", "connection": "one:/data/sub", "mnt_options": "ro"}
    asking.root.volumes = [gluster_says("other"), gluster_says(hosts="two one two bad,name three")]
    assert asking.ask(GLUSTER, row) == [477]
    assert asking.root.asked[-1][1]["options"] == "ro,backup-volfile-servers=two:three"
    named = "backup-volfile-servers=four"
    assert asking.ask(GLUSTER, row | {"mnt_options": named}) == [477]
    assert asking.root.asked[-1][1]["options"] == named
    asking.root.volumes = [gluster_says(hosts="one", replicas=1)]
    assert asking.ask(GLUSTER, row) == [477]
    assert asking.root.asked[-1][1]["options"] == "ro"
    assert asking.root.looked == ["one:/data/sub"] * 3


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (gluster_says(replicas=2), 480),
        (gluster_says(replicas=4, kind="Distributed-Replicate"), 480),
        (gluster_says(replicas=1, kind="Distribute"), 477),
        (gluster_says(replicas=2, kind="Disperse"), 477),
        (gluster_says("other", replicas=2), 477),
        ("<cliOutput>", 477),
        (gluster_says().replace("<replicaCount>3", "<replicaCount>many"), 477),
    ],
)
def test_a_volume_is_refused_for_its_replicas_only(asking: Asking, answer: str, code: int) -> None:
    asking.root.volumes = [answer]
    assert asking.ask(GLUSTER, {"id": "g", "connection": "one:/data"}) == [code]
    assert len(asking.root.asked) == (code == 477)


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"vfs_type": "xfs"}, 470),
        ({"connection": "server"}, 453),
        ({"connection": "server:/"}, 453),
        ({"connection": "/dev/sda"}, 453),
        ({"connection": "a b:/data"}, 453),
        ({"connection": "server:/../etc"}, 453),
        ({"mnt_options": "backup-volfile-servers=$(x)"}, 453),
    ],
)
def test_what_is_no_volume_of_gluster_never_reaches_root(asking: Asking, changes: dict[str, str], code: int) -> None:
    row = {"id": "g", "connection": "server:/data", "vfs_type": "glusterfs"}
    assert asking.ask(GLUSTER, row | changes) == [code]
    assert asking.root.asked == []


@pytest.mark.parametrize(
    ("given", "remote"),
    [
        ("server:/export", "server:/export"),
        ("server:/export///", "server:/export"),
        ("server://export//a_b/", "server:/export/a_b"),
        ("server:/", "server:/"),
        ("[2001:db8::1]:/export/", "[2001:db8::1]:/export"),
        ("[fe80::1%eth0]:/export", "[fe80::1%eth0]:/export"),
        ("10.0.0.1:/a:/b", "10.0.0.1:/a:/b"),
    ],
)
def test_an_export_has_one_spelling(given: str, remote: str) -> None:
    assert remote_of(Server(id="n", connection=given)) == remote


@pytest.mark.parametrize(
    "given", ["", "server", "server:export", "2001:db8::1:/export", "server:2049:/export", "-o:/x", "server:/a/../b"]
)
def test_what_is_no_export_is_refused(given: str) -> None:
    with pytest.raises(ServerParametersInvalid):
        remote_of(Server(id="n", connection=given))


@pytest.mark.parametrize(
    ("version", "extra", "options"),
    [
        ("", "", "soft,nosharecache,timeo=100,retrans=3,nolock"),
        ("3", "lock", "soft,nosharecache,timeo=100,retrans=3,nfsvers=3,lock"),
        ("4.2", "", "soft,nosharecache,timeo=100,retrans=3,nfsvers=4,minorversion=2"),
        ("auto", "vers=4.1", "soft,nosharecache,timeo=100,retrans=3,nolock,vers=4.1"),
    ],
)
def test_nfs_is_mounted_softly_with_the_version_asked_for(version: str, extra: str, options: str) -> None:
    server = Server(id="n", connection="server:/export", protocol_version=version, mnt_options=extra)
    assert ",".join(nfs_options(server)) == options


@pytest.mark.parametrize(
    "changes",
    [
        {"protocol_version": "5"},
        {"protocol_version": "4.2", "mnt_options": "vers=3"},
        {"protocol_version": "3", "mnt_options": "minorversion=1"},
        {"mnt_options": "soft;reboot"},
        {"timeout": "ten"},
        {"retrans": "-1"},
    ],
)
def test_options_of_nfs_that_contradict_each_other_or_make_no_sense_are_refused(changes: dict[str, str]) -> None:
    with pytest.raises(ServerParametersInvalid):
        nfs_options(Server.of({"id": "n", "connection": "server:/export"} | changes))


def test_a_server_that_hangs_holds_up_nobody(asking: Asking) -> None:
    until = asking.root.hanging["dead:/x"] = threading.Event()
    rows = [{"id": str(n), "connection": f"{'dead' if n == 0 else f'server{n}'}:/x"} for n in range(6)]
    found: list[list[int]] = []
    caller = threading.Thread(target=lambda: found.append(asking.ask(NFS, *rows)))
    caller.start()
    eventually(lambda: len(asking.root.asked) == 6, within_s=10)
    assert asking.ask(NFS, {"id": "n", "connection": "another:/x"}) == [477]
    assert found == []
    until.set()
    caller.join(10)
    assert found == [[477] * 6]


def test_two_who_want_one_export_at_the_same_time_take_turns(asking: Asking) -> None:
    until = asking.root.hanging["server:/x"] = threading.Event()
    rows = [{"id": "a", "connection": "server:/x"}, {"id": "b", "connection": "server:/x/"}]
    caller = threading.Thread(target=lambda: asking.ask(NFS, *rows))
    caller.start()
    eventually(lambda: len(asking.root.asked) == 1, within_s=10)
    until.wait(0.2)
    assert len(asking.root.asked) == 1
    until.set()
    caller.join(10)
    assert asking.root.remotes() == ["server:/x"] * 2


def test_a_call_that_has_the_root_for_too_long_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vdsm_mp.storage.connections.TURN_S", 0.05)
    connections = Connections(str(tmp_path), {})
    with connections.turn("/root"):
        with connections.turn("/other"):
            pass
        with pytest.raises(ServerConnectionFailed, match="has not ended"), connections.turn("/root"):
            pass
    with connections.turn("/root"):
        pass


class Counting:
    """A connector of nothing: which roots are connected."""

    def __init__(self, before: Callable[[], None] = lambda: None) -> None:
        self.connected: set[str] = set()
        self._before = before

    def root_of(self, server: Server) -> str:
        return f"/mnt/{server.connection}"

    def connect(self, server: Server, root: str) -> None:
        self.connected.add(root)

    def disconnect(self, server: Server, root: str) -> None:
        self._before()
        self.connected.discard(root)


def test_a_mount_goes_with_the_last_who_uses_it() -> None:
    connector = Counting()
    connections = Connections("/mnt", {DomainType.NFS: connector})
    one, two = (Server(id=name, connection="x") for name in ("1", "2"))
    for server in (one, one, two):
        connections.connect(DomainType.NFS, server)
    connections.disconnect(DomainType.NFS, one)
    connections.disconnect(DomainType.NFS, one)
    connections.disconnect(DomainType.NFS, Server(id="never seen", connection="x"))
    assert connector.connected == {"/mnt/x"}
    connections.disconnect(DomainType.NFS, two)
    assert connector.connected == set()


def test_a_mount_that_cannot_be_undone_is_still_held() -> None:
    def fail() -> None:
        raise ServerConnectionFailed("x", "busy")

    connector = Counting(fail)
    connections = Connections("/mnt", {DomainType.NFS: connector})
    server = Server(id="1", connection="x")
    connections.connect(DomainType.NFS, server)
    with pytest.raises(ServerConnectionFailed):
        connections.disconnect(DomainType.NFS, server)
    assert "/mnt/x" in connections.roots()


class Dying:
    """A root whose answer to a mount is lost; it mounts really, a directory."""

    def __init__(self, source: Path, mnt: Path) -> None:
        self._source, self._mnt = source, mnt

    def do(self, operation: str, /, *, deadline_s: float = 30.0, **params: Any) -> Any:
        target = self._mnt / "server:_x"
        if operation == "umount":
            subprocess.run(["umount", target], check=True)
            return
        subprocess.run(["mount", "--bind", self._source, target], check=True)
        raise RootHelperGone("storage", operation)


@needs_root()
def test_a_mount_whose_answer_is_lost_is_undone(tmp_path: Path, children: LocalChildren) -> None:
    """The engine is told that it is not connected, and would never disconnect it."""
    (tmp_path / "export").mkdir()
    mnt = tmp_path / "mnt"
    connector = NfsConnector(str(mnt), Mounter(str(mnt), children, Dying(tmp_path / "export", mnt)))
    server = Server(id="1", connection="server:/x")
    with pytest.raises(MountFailed):
        connector.connect(server, connector.root_of(server))
    assert mounts_below(str(mnt)) == {}
    assert list(mnt.iterdir()) == []


def test_a_status_is_never_a_code_of_the_protocol() -> None:
    """As when the house is about to stop, and there is no child to look at the storage."""
    server = Server(id="1", connection="/dev/loop9")
    errors = (MountFailed("/dev/loop9", ""), PeerRestarted("storage", ""), Busy("storage"))
    assert [status_of(error, server) for error in errors] == [477, 100, 100]


def test_disconnecting_what_nobody_connected_is_fine(asking: Asking) -> None:
    rows = [{"id": "1", "connection": "server:/x"}, {"id": "2", "connection": "[::1]:/y"}]
    assert asking.ask(NFS, *rows, verb="disconnectStorageServer") == [0, 0]
    assert asking.ask(LOCAL, {"id": "3", "connection": "/nowhere"}, verb="disconnectStorageServer") == [0]
    assert asking.ask(GLUSTER, {"id": "4", "connection": "s:/v"}, verb="disconnectStorageServer") == [0]
    assert asking.root.asked == []


def test_a_directory_that_guests_cannot_read_is_refused(asking: Asking, tmp_path: Path) -> None:
    if qemu_user() is None:
        pytest.skip("nobody runs guests here")
    for mode, status in ((0o700, 469), (0o755, 0)):
        place = tmp_path / f"export-{mode:o}"
        place.mkdir()
        place.chmod(mode)
        assert asking.ask(LOCAL, {"id": "a", "connection": str(place)}) == [status]


@pytest.mark.parametrize(
    ("uid", "gid", "mode", "may"),
    [
        (7, 1, 0o500, True),
        (7, 8, 0o077, False),
        (1, 8, 0o750, True),
        (1, 8, 0o707, False),
        (1, 1, 0o705, True),
        (1, 1, 0o774, False),
    ],
)
def test_the_bits_that_count_are_those_of_the_first_that_fits(uid: int, gid: int, mode: int, may: bool) -> None:
    found = FileStat("dir", 0, 0, mode, uid, gid, 1, 1, 0.0, 0.0)
    assert may_read(found, 7, {8, 9}) is may
