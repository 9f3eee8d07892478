# SPDX-License-Identifier: Apache-2.0
"""The small machine of libguestfs, for tests of programs that look into disks, where no kernel is installed.

Built once per machine, beside the demo's guest and from its kernel: half a minute, and ten seconds for each boot after
that. A machine that has a kernel in /boot needs none of this.
"""

import contextlib
import fcntl
import hashlib
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from demonstration import guest as demo
from tests.support.needs import lacks

_PARTS = Path("/usr/lib/x86_64-linux-gnu/guestfs/supermin.d")
#: supermin wants it there although the modules come from elsewhere.
_MODULES = Path("/lib/modules")
#: What its udev has to look at. All else takes it four seconds at each boot, on an emulated processor.
_ALL, _NEEDED = "\nudevadm trigger\n", "\nudevadm trigger --subsystem-match=block --subsystem-match=virtio-ports\n"


def prepare(monkeypatch: pytest.MonkeyPatch, program: str, by: ModuleType) -> None:
    """Let the module `by` run `program` without KVM and with a kernel; skips where that cannot be had."""
    if shutil.which(program) is None:
        lacks(program)
    monkeypatch.setenv("LIBGUESTFS_BACKEND_SETTINGS", "force_tcg")
    # Other tests would starve what gives way to them.
    monkeypatch.setattr(by, "NICE" if hasattr(by, "NICE") else "_NICE", ())
    if any(Path("/boot").glob("vmlinuz-*")):
        return
    kernels = sorted(demo.CACHE.glob("linux-image-*-cloud-amd64/boot/vmlinuz-*"))
    if not kernels or shutil.which("supermin") is None or not _PARTS.is_dir():
        lacks(f"a kernel for the machine of {program}")
    monkeypatch.setenv("LIBGUESTFS_PATH", str(_built(kernels[-1])))


def _built(kernel: Path) -> Path:
    stamps = "".join(f"{part.name} {part.stat().st_mtime_ns}\n" for part in sorted(_PARTS.iterdir()))
    digest = hashlib.sha256(f"{kernel}\n{stamps}{_NEEDED}".encode()).hexdigest()[:12]
    made = demo.CACHE / f"appliance-{digest}"
    with open(demo.CACHE / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (made / "README.fixed").exists():
            for old in demo.CACHE.glob("appliance-*"):
                shutil.rmtree(old)
            with _place_of_modules():
                _build(kernel, made)
            _look_at_little(made / "root", made / "init")
            (made / "README.fixed").write_text("Its presence tells libguestfs that this is all it needs.\n")
    return made


def _build(kernel: Path, made: Path) -> None:
    version = kernel.name.removeprefix("vmlinuz-")
    modules = kernel.parent.parent / "lib/modules" / version
    words = ["supermin", "--build", "--copy-kernel", "-f", "ext2", "--host-cpu", "x86_64", str(_PARTS), "-o", str(made)]
    subprocess.run(
        words,
        check=True,
        timeout=120,
        capture_output=True,
        env={
            "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
            "SUPERMIN_KERNEL": str(kernel),
            "SUPERMIN_KERNEL_VERSION": version,
            "SUPERMIN_MODULES": str(modules),
        },
    )


def _look_at_little(root: Path, init: Path) -> None:
    """Change the first program that the machine runs; `init` is where it lies meanwhile."""
    debugfs = ["/usr/sbin/debugfs", "-w"]
    text = subprocess.run([*debugfs, "-R", "cat /init", root], check=True, capture_output=True, text=True).stdout
    assert _ALL in text, "libguestfs has another machine than we know"
    init.write_text(text.replace(_ALL, _NEEDED))
    for command in ("rm /init", f"write {init} /init", "set_inode_field /init mode 0100755"):
        subprocess.run([*debugfs, "-R", command, root], check=True, capture_output=True)
    init.unlink()


@contextlib.contextmanager
def _place_of_modules() -> Iterator[None]:
    there = _MODULES.exists()
    _MODULES.mkdir(exist_ok=True)
    yield
    if not there:
        _MODULES.rmdir()
