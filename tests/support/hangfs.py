# SPDX-License-Identifier: Apache-2.0
"""A read-only FUSE mount of a directory that hangs on demand: a stand-in for a dead server, without NFS.

The file system is a process of its own that speaks to /dev/fuse directly. While it hangs it takes requests and does
not answer them, so that who waits cannot be ended by SIGKILL either, as with a dead server; then it answers them
all. Nothing is cached. Needs root.
"""

import contextlib
import ctypes
import errno
import os
import select
import signal
import stat
import struct
import subprocess
import sys
from pathlib import Path

from tests.support.eventually import eventually

_IN = struct.Struct("<IIQQIIIHH")
_OUT = struct.Struct("<IiQ")
_ATTR = struct.Struct("<QQQQQQIIIIIIIIII")
_LOOKUP, _FORGET, _GETATTR, _OPEN, _READ, _STATFS, _RELEASE = 1, 2, 3, 14, 15, 17, 18
_FLUSH, _INIT, _OPENDIR, _READDIR, _RELEASEDIR, _ACCESS, _INTERRUPT, _BATCH_FORGET = 25, 26, 27, 28, 29, 34, 36, 42
_DIRECT_IO = 1


class HangFs:
    """`source` seen at `target`, which is made."""

    def __init__(self, source: Path, target: Path) -> None:
        self.target = target
        target.mkdir()
        argv = [sys.executable, __file__, str(source), str(target)]
        self._process = subprocess.Popen(argv, stdout=subprocess.PIPE)
        eventually(lambda: os.path.ismount(target))

    def hang(self) -> None:
        """Whatever is asked from now on."""
        self._tell(signal.SIGUSR1)

    def go_on(self) -> None:
        """All that was asked meanwhile is answered then."""
        self._tell(signal.SIGUSR2)

    def _tell(self, number: signal.Signals) -> None:
        """Until it says that it knows, or is gone: a request might overtake the signal."""
        assert self._process.stdout is not None
        self._process.send_signal(number)
        assert select.select([self._process.stdout], [], [], 20)[0], "the file system does not take its signals"
        os.read(self._process.stdout.fileno(), 1)

    def stop(self) -> None:
        self._process.kill()
        self._process.communicate(timeout=10)
        subprocess.run(["umount", "-f", "-l", self.target], check=True)


class _Server:
    def __init__(self, source: str, fuse: int) -> None:
        self._fuse = fuse
        self._paths = {1: source}
        self._ids = {source: 1}
        self._hanging = False
        self._held: list[bytes] = []
        signal.signal(signal.SIGUSR1, self._hang)
        signal.signal(signal.SIGUSR2, self._go_on)

    def _hang(self, *_: object) -> None:
        self._hanging = True
        os.write(1, b"h")

    def _go_on(self, *_: object) -> None:
        self._hanging = False
        while self._held:
            self._serve(self._held.pop(0))
        os.write(1, b"g")

    def run(self) -> None:
        while True:
            try:
                request = os.read(self._fuse, 1 << 20)
            except OSError as e:
                if e.errno == errno.ENODEV:  # unmounted
                    return
                continue
            if self._hanging:
                self._held.append(request)
            else:
                self._serve(request)

    def _serve(self, request: bytes) -> None:
        _, opcode, unique, node, *_ = _IN.unpack_from(request)
        if opcode in (_FORGET, _BATCH_FORGET, _INTERRUPT):
            return
        try:
            body, error = self._answer(opcode, self._paths[node] if node else "", request[_IN.size :]), 0
        except OSError as e:
            body, error = b"", -(e.errno or errno.EIO)
        with contextlib.suppress(FileNotFoundError):  # who asked was interrupted
            os.write(self._fuse, _OUT.pack(_OUT.size + len(body), error, unique) + body)

    def _answer(self, opcode: int, path: str, args: bytes) -> bytes:
        match opcode:
            case 26:
                major, minor, readahead, _ = struct.unpack_from("<IIII", args)
                return struct.pack("<IIIIHHIIHHI7I", major, min(minor, 31), readahead, 0, 8, 6, 65536, 1, *[0] * 10)
            case 1:
                child = f"{path}/{os.fsdecode(args.rstrip(bytes(1)))}"
                attr = self._attr(child)
                return struct.pack("<QQQQII", self._id(child), 0, 0, 0, 0, 0) + attr
            case 3:
                return struct.pack("<QII", 0, 0, 0) + self._attr(path)
            case 14 | 27:
                if opcode == _OPEN and struct.unpack_from("<I", args)[0] & os.O_ACCMODE != os.O_RDONLY:
                    raise OSError(errno.EROFS, "read-only")
                return struct.pack("<QII", 0, _DIRECT_IO if opcode == _OPEN else 0, 0)
            case 15:
                _, offset, size = struct.unpack_from("<QQI", args)
                with open(path, "rb") as f:
                    return os.pread(f.fileno(), size, offset)
            case 28:
                _, offset, size = struct.unpack_from("<QQI", args)
                return self._entries(path, offset, size)
            case 17:
                s = os.statvfs(path)
                return struct.pack(
                    "<QQQQQIIII6I",
                    *(s.f_blocks, s.f_bfree, s.f_bavail, s.f_files, s.f_ffree, s.f_bsize, s.f_namemax, s.f_frsize),
                    *[0] * 7,
                )
            case 18 | 25 | 29 | 34:
                return b""
        raise OSError(errno.ENOSYS, "read-only")

    def _id(self, path: str) -> int:
        number = self._ids.setdefault(path, len(self._ids) + 1)
        self._paths[number] = path
        return number

    def _attr(self, path: str) -> bytes:
        s = os.lstat(path)
        times = (int(s.st_atime), int(s.st_mtime), int(s.st_ctime), 0, 0, 0)
        owner = (s.st_mode, s.st_nlink, s.st_uid, s.st_gid, 0, 4096, 0)
        return _ATTR.pack(self._id(path), s.st_size, s.st_blocks, *times, *owner)

    def _entries(self, path: str, offset: int, size: int) -> bytes:
        listing = b""
        names = [".", "..", *sorted(os.listdir(path))]
        for number, name in enumerate(names[offset:], start=offset + 1):
            raw = os.fsencode(name)
            kind = stat.S_IFMT(os.lstat(f"{path}/{name}").st_mode) >> 12
            entry = struct.pack("<QQII", number, number, len(raw), kind) + raw
            entry += bytes(-len(entry) % 8)
            if len(listing) + len(entry) > size:
                break
            listing += entry
        return listing


def _main(source: str, target: str) -> None:
    fuse = os.open("/dev/fuse", os.O_RDWR)
    options = f"fd={fuse},rootmode=40000,user_id=0,group_id=0,allow_other"
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(b"hangfs", os.fsencode(target), b"fuse.hangfs", 0, options.encode()):
        raise OSError(ctypes.get_errno(), "mount")
    _Server(source, fuse).run()


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[2]))
    _main(*sys.argv[1:])
