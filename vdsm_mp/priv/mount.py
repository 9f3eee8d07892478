# SPDX-License-Identifier: Apache-2.0
"""Mount and unmount storage domains below `<repository>/mnt`. Root side, standard library only.

The caller names the remote object; the mount point is derived from it as VDSM does ("_" doubled, "/" to "_"). Options
come from an allow-list and `nosuid,nodev` always win. The mount point is opened without following anything and mounted
on by descriptor, so that its owner (the agent) cannot move another folder into its place.
"""

import contextlib
import errno
import os
import re
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from vdsm_mp.priv.beneath import open_beneath, open_root
from vdsm_mp.priv.child import OperationFailed, Refused
from vdsm_mp.priv.context import Context
from vdsm_mp.priv.table import HOST

_MOUNT = "/usr/bin/mount"
_UMOUNT = "/usr/bin/umount"
#: What mount runs for a file system whose client is a program; without it the kernel's answer helps nobody.
_PROGRAMS = {"glusterfs": "/sbin/mount.glusterfs"}
#: There when systemd is the init of this host.
_SYSTEMD = Path("/run/systemd/system")

_FLAGS = frozenset(
    re.findall(
        r"\S+",
        """
    ac acl async atime barrier cto defaults delalloc discard fg fsc hard inode64 intr lazytime lock
    migration noac noacl noatime nobarrier nocto nodelalloc nodev nodiratime nodiscard noexec nofail
    nofsc nointr nolock nordirplus noresvport nosharecache nosuid nouser_xattr nowsync rdirplus rdma
    relatime resvport ro rw sharecache soft softerr softreval strictatime sync tcp udp user_xattr wsync
    _netdev
        """,
    )
)
_NUMBERS = frozenset(
    re.findall(
        r"\S+",
        """
    acdirmax acdirmin acregmax acregmin actimeo commit max_connect minorversion mountport mountvers
    namlen nconnect port retrans retry rsize timeo wsize
        """,
    )
)
_VALUES: Mapping[str, str] = {
    "backup-volfile-servers": r"[A-Za-z0-9.:-]+",
    "backupvolfile-server": r"[A-Za-z0-9.-]+",
    "clientaddr": r"[0-9A-Fa-f:.]+",
    "data": "journal|ordered|writeback",
    "errors": "remount-ro|continue",
    "fs": r"[A-Za-z0-9_.-]+",
    "local_lock": "all|flock|none|posix",
    "lookupcache": "all|none|pos|positive",
    "mds_namespace": r"[A-Za-z0-9_.-]+",
    "mountproto": "tcp|udp|tcp6|udp6",
    "name": r"[A-Za-z0-9_.-]+",
    "nfsvers": r"3|4|4\.[012]",
    "proto": "tcp|udp|tcp6|udp6|rdma|rdma6",
    "secretfile": r"/etc/ceph/[A-Za-z0-9_-][A-Za-z0-9_.-]*",
    "sec": "sys|krb5|krb5i|krb5p|none",
    "vers": r"3|4|4\.[012]",
}

#: Run as a program of its own, so that an unmount that hangs in the kernel can be written off.
_UMOUNT_SCRIPT = """
import ctypes, os, sys
os.fchdir(int(sys.argv[1]))
os.close(int(sys.argv[1]))
libc = ctypes.CDLL(None, use_errno=True)
if libc.umount2(sys.argv[2].encode(), int(sys.argv[3])):
    sys.exit(os.strerror(ctypes.get_errno()))
"""
_MNT_FORCE, _MNT_DETACH, _UMOUNT_NOFOLLOW = 1, 2, 8


def checked_options(text: str | None) -> str:
    """The options that will be used. Raises: Refused, naming the first that is not on the list."""
    wanted = [option for option in (text or "").split(",") if option]
    for option in wanted:
        key, equals, value = option.partition("=")
        fine = (
            key in _FLAGS
            if not equals
            else (key in _NUMBERS and re.fullmatch(r"[0-9]{1,9}", value))
            or (key in _VALUES and re.fullmatch(_VALUES[key], value))
        )
        if not fine:
            raise Refused(f"mount option {option[:60]!r} is not allowed")
    return ",".join([*wanted, "nosuid", "nodev"])


def normalised(spec: str) -> str:
    """`spec` with duplicate slashes collapsed and no slash at its end, as VDSM names its mount points after it."""
    host, colon, path = spec.rpartition(":/") if not spec.startswith("/") else ("", "", spec)
    path = re.sub("/+", "/", "/" + path if colon else path)
    path = path if path == "/" else path.rstrip("/")
    return f"{host}:{path}" if colon else path


def escaped(spec: str) -> str:
    """The name of the mount point of a remote path."""
    return normalised(spec).replace("_", "__").replace("/", "_")


def mount_nfs(context: Context, params: Mapping[str, Any]) -> dict[str, Any]:
    """-> {"path", "already"}"""
    return _mount(context, "nfs", params["remote"], params["remote"], params.get("options"), "mnt")


def mount_posix(context: Context, params: Mapping[str, Any]) -> dict[str, Any]:
    """-> {"path", "already"}"""
    spec, vfs_type = params["remote"], params["vfs_type"]
    source = _block_device(spec) if spec.startswith("/") else _remote(spec, vfs_type)
    return _mount(context, vfs_type, source, spec, params.get("options"), _below(vfs_type == "glusterfs"))


def umount(context: Context, params: Mapping[str, Any]) -> dict[str, Any]:
    """-> {"path", "already"}. `already`: nothing was mounted there. Raises: OperationFailed (busy: what it says)."""
    return _umount(context, params, _UMOUNT_NOFOLLOW)


def umount_detach(context: Context, params: Mapping[str, Any]) -> dict[str, Any]:
    """As umount, but never waits for a server: what still uses the mount keeps it until the kernel lets go."""
    with contextlib.suppress(OperationFailed):
        # Frees those who wait for a dead NFS server; only some file systems know it.
        _umount(context, params, _UMOUNT_NOFOLLOW | _MNT_FORCE)
    return _umount(context, params, _UMOUNT_NOFOLLOW | _MNT_DETACH)


def _umount(context: Context, params: Mapping[str, Any], flags: int) -> dict[str, Any]:
    below, name = _below(bool(params.get("gluster"))), _name(params["remote"])
    path = f"{context.config['repository']}/{below}/{name}"
    parent = _folder(context, below)
    try:
        mounted = _mounted(path)
        if mounted:
            argv = [sys.executable, "-I", "-S", "-c", _UMOUNT_SCRIPT, str(parent), name, str(flags)]
            context.children.run(argv, context.deadline_mono, pass_fds=[parent])
        with contextlib.suppress(OSError):  # absent, or something else is in it
            os.rmdir(name, dir_fd=parent)
    finally:
        os.close(parent)
    return {"path": path, "already": not mounted}


def _mount(context: Context, vfs_type: str, source: str, spec: str, options: str | None, below: str) -> dict[str, Any]:
    checked, name = checked_options(options), _name(spec)
    path = f"{context.config['repository']}/{below}/{name}"
    if _mounted(path):
        return {"path": path, "already": True}
    parent = _folder(context, below)
    try:
        target = _target(context, parent, name)
        try:
            here = f"/proc/self/fd/{target}"
            if vfs_type in _PROGRAMS:
                argv = [*apart(), *mount_argv(vfs_type, checked, source)]
                with _aside(context, argv, _PROGRAMS[vfs_type]) as aside:
                    argv = [_MOUNT, "-c", "--bind", "--", aside, here]
                    context.children.run(argv, context.deadline_mono, pass_fds=[target])
            else:
                argv = [*mount_argv(vfs_type, checked, source), here]
                context.children.run(argv, context.deadline_mono, pass_fds=[target])
        finally:
            os.close(target)
        if not _mounted(path):
            raise OperationFailed(f"the mount of {source} did not appear at {path}")
    except Exception:
        with contextlib.suppress(OSError):
            os.rmdir(name, dir_fd=parent)
        raise
    finally:
        os.close(parent)
    return {"path": path, "already": False}


def mount_argv(vfs_type: str, options: str, source: str) -> list[str]:
    """All but the mount point, which comes last."""
    return [_MOUNT, "-c", "-t", vfs_type, "-o", options, "--", source]


def apart() -> list[str]:
    """In front of a program that stays and serves the mount: systemd, where it runs, keeps it out of the agent's unit.

    Otherwise it would end with the agent, and guests would lose their disks.
    """
    if not _SYSTEMD.is_dir():
        return []
    return ["/usr/bin/systemd-run", "--quiet", "--scope", "--slice=vdsm-glusterfs", "--"]


@contextlib.contextmanager
def _aside(context: Context, argv: list[str], program: str) -> Iterator[str]:
    """Mounted in a folder of root's own while the block lasts, to be bound to its place.

    The client's program opens its mount point again by name, so it cannot be given a descriptor, and a name in a folder
    of the agent's could be swapped meanwhile.
    """
    if not Path(program).exists():
        raise OperationFailed(f"{program} is not installed")
    aside = tempfile.mkdtemp(prefix="vdsm-mount-", dir="/run")
    try:
        context.children.run([*argv, aside], context.deadline_mono)
        yield aside
    finally:
        if _mounted(aside):
            # Lazily: the block's mount, if there is one, has the file system now.
            context.children.run([_UMOUNT, "-c", "-l", "--", aside], context.deadline_mono)
        Path(aside).rmdir()


def _below(gluster: bool) -> str:
    return "mnt/glusterSD" if gluster else "mnt"


def _name(spec: str) -> str:
    name = escaped(spec)
    if name in ("", ".", "..") or len(name.encode()) > 255:
        raise Refused("the remote path makes no usable mount point")
    return name


def _folder(context: Context, below: str) -> int:
    """The folder that holds mount points, made when it is missing. The caller closes it."""
    folder = open_root(context.config["repository"])
    for part in below.split("/"):
        try:
            deeper = _target(context, folder, part)
        finally:
            os.close(folder)
        folder = deeper
    return folder


def _target(context: Context, parent: int, name: str) -> int:
    with contextlib.suppress(FileExistsError):
        os.mkdir(name, 0o755, dir_fd=parent)
        fresh = open_beneath(parent, name, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fchown(fresh, context.uid, context.gid)
        finally:
            os.close(fresh)
    try:
        return open_beneath(parent, name, os.O_PATH | os.O_DIRECTORY)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENOTDIR, errno.EXDEV):
            raise Refused(f"{name} is not a plain folder of the repository") from None
        raise


def _block_device(spec: str) -> str:
    device = Path(spec).resolve()
    if not device.is_relative_to("/dev") or not device.is_block_device():
        raise Refused(f"{spec} is not a block device below /dev")
    return str(device)


def _remote(spec: str, vfs_type: str) -> str:
    hosts, colon, _ = spec.rpartition(":/")
    if vfs_type == "lustre" and colon:
        hosts = re.sub(r"@[a-z0-9]+", "", hosts)
    many = rf"({HOST})(:[0-9]{{1,5}})?([,:]({HOST})(:[0-9]{{1,5}})?)*"
    if not colon or not re.fullmatch(many, hosts, re.ASCII):
        raise Refused(f"{spec} is neither a block device nor host:/path")
    return spec


def _mounted(path: str) -> bool:
    """Is `path` a mount point? Reads the table only: asking the file system could hang."""
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as table:
        return any(_unescaped(line.split(" ", 5)[4]) == path for line in table)


def _unescaped(text: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), text)
