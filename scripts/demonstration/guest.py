# SPDX-License-Identifier: Apache-2.0
"""Builds the demo's guest on the spot: Debian's cloud kernel and an initramfs of busybox and a few modules.

Nothing is installed: the kernel's package is downloaded and unpacked below the cache. Rebuilt when the init script or
the kernel changes.
"""

import fcntl
import gzip
import hashlib
import lzma
import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from provisioning.say import Failure, run, say

INIT = Path(__file__).with_name("guest-init.sh")
CACHE = Path("/var/cache/vdsm-mp/guest")
#: Disk, and the ACPI power button with the device it is read from. Dependencies are added.
MODULES = ("virtio_pci", "virtio_blk", "button", "evdev")


@dataclass(frozen=True)
class Guest:
    """Files of a bootable guest, and the kernel's command line."""

    kernel: Path
    initrd: Path
    cmdline: str = "console=ttyS0 quiet mitigations=off tsc=unstable no_timer_check random.trust_cpu=on"


def build(log: Path) -> Guest:
    """Make what is missing. Safe to repeat and to call from several processes."""
    CACHE.mkdir(parents=True, exist_ok=True)
    for folder in (CACHE.parent, CACHE):
        folder.chmod(0o755)  # QEMU's user reads the files
    with open(CACHE / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        package = kernel_package(log)
        digest = hashlib.sha256(INIT.read_bytes() + package.encode() + " ".join(MODULES).encode()).hexdigest()[:12]
        kernel, initrd = CACHE / f"vmlinuz-{digest}", CACHE / f"initrd-{digest}"
        if not (kernel.exists() and initrd.exists()):
            say(f"building the demo's guest from {package} and busybox")
            _make(package, kernel, initrd, log)
        for path in (kernel, initrd):
            path.chmod(0o644)
    return Guest(kernel, initrd)


def kernel_package(log: Path) -> str:
    """Name of the newest cloud kernel that apt knows, or of one that an earlier run unpacked."""
    depends = subprocess.run(
        ["apt-cache", "depends", "linux-image-cloud-amd64"], capture_output=True, text=True, check=False
    ).stdout
    found = re.search(r"Depends: (linux-image-\S+-cloud-amd64)", depends)
    if found:
        return found[1]
    unpacked = sorted(CACHE.glob("linux-image-*-cloud-amd64"))
    if unpacked:
        return unpacked[-1].name
    run(["apt-get", "-q", "update"], why="reading Debian's package lists", log=log)
    depends = run(["apt-cache", "depends", "linux-image-cloud-amd64"], why="looking for Debian's cloud kernel")
    found = re.search(r"Depends: (linux-image-\S+-cloud-amd64)", depends)
    if not found:
        raise Failure("building the guest: apt knows no package linux-image-cloud-amd64")
    return found[1]


def _make(package: str, kernel: Path, initrd: Path, log: Path) -> None:
    image, modules = kernel_files(package, log)
    root = CACHE / ".root"
    shutil.rmtree(root, ignore_errors=True)
    for folder in ("bin", "modules", "dev", "proc", "sys", "tmp"):
        (root / folder).mkdir(parents=True)
    busybox = shutil.which("busybox", path="/bin:/usr/bin")
    if busybox is None:
        raise Failure("building the guest: busybox is not installed (Debian package busybox-static)")
    shutil.copy(busybox, root / "bin/busybox")
    shutil.copy(INIT, root / "init")
    (root / "init").chmod(0o755)
    add_modules(root, modules, MODULES)
    pack(root, initrd)
    _put(kernel, image.read_bytes())
    shutil.rmtree(root)


def kernel_files(package: str, log: Path) -> tuple[Path, Path]:
    """(the kernel's image, the folder of its modules), downloaded when they are not there."""
    tree = CACHE / package
    if not list(tree.glob("boot/vmlinuz-*")):
        _unpack(package, tree, log)
    image = next(tree.glob("boot/vmlinuz-*"))
    version = image.name.removeprefix("vmlinuz-")
    if not (tree / "lib").exists():
        (tree / "lib").symlink_to("usr/lib")  # kernels of Debian 13 lie there, and are looked for here
    run(["depmod", "-b", tree, version], why="reading the guest kernel's modules", log=log)
    return image, tree / "lib/modules" / version


def add_modules(root: Path, folder: Path, wanted: Sequence[str]) -> None:
    """Into `root`/modules, with what they depend on; their names in the order of loading into `root`/modules.order."""
    names = []
    for module in _modules(folder, wanted):
        content, name = (folder / module).read_bytes(), Path(module).name
        if name.endswith(".xz"):  # as Debian 13 has them; busybox takes them plain
            content, name = lzma.decompress(content), name.removesuffix(".xz")
        (root / "modules" / name).write_bytes(content)
        names.append(f"{name}\n")
    (root / "modules.order").write_text("".join(names))


def pack(root: Path, initrd: Path) -> None:
    """A tree of files -> an initramfs."""
    names = "\n".join(str(p.relative_to(root)) for p in sorted(root.rglob("*"))) + "\n"
    packed = subprocess.run(
        ["cpio", "-o", "-H", "newc", "--quiet", "-R", "0:0"], input=names.encode(), capture_output=True, cwd=root,
        check=False,
    )  # fmt: skip
    if packed.returncode:
        raise Failure(f"building the guest: cpio: {packed.stderr.decode().strip()}")
    _put(initrd, gzip.compress(packed.stdout, 6, mtime=0))


def _unpack(package: str, tree: Path, log: Path) -> None:
    folder = CACHE / ".download"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    folder.chmod(0o777)  # apt downloads as its own user
    apt = ["apt-get", "-q", "-o", "Acquire::Retries=3"]
    try:
        run([*apt, "download", package], why="downloading the guest's kernel", log=log, cwd=folder)
    except Failure:
        run([*apt, "update"], why="reading Debian's package lists", log=log)
        run([*apt, "download", package], why="downloading the guest's kernel", log=log, cwd=folder)
    shutil.rmtree(tree, ignore_errors=True)
    run(["dpkg-deb", "-x", next(folder.glob("*.deb")), tree], why="unpacking the guest's kernel", log=log)
    shutil.rmtree(folder)


def _modules(folder: Path, modules: Sequence[str]) -> list[str]:
    """Paths of the modules in the order of loading. Those that are built in are not listed by depmod."""
    depends: dict[str, list[str]] = {}
    for line in (folder / "modules.dep").read_text().splitlines():
        name, _, needs = line.partition(":")
        depends[name] = needs.split()
    by_name = {Path(path).name.split(".")[0].replace("-", "_"): path for path in depends}
    built_in = (folder / "modules.builtin").read_text()
    order: list[str] = []
    for wanted in modules:
        path = by_name.get(wanted)
        if path is None and f"/{wanted}.ko" not in built_in:
            raise Failure(f"building the guest: the kernel has no module {wanted}")
        for module in [*reversed(depends.get(path or "", [])), *([path] if path else [])]:
            if module not in order:
                order.append(module)
    return order


def _put(path: Path, content: bytes) -> None:
    temporary = path.with_suffix(".new")
    temporary.write_bytes(content)
    os.replace(temporary, path)
