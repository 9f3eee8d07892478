# SPDX-License-Identifier: Apache-2.0
"""Build what testbed hosts boot: a root image, a user-mode kernel and a full kernel.

usage: build.py [--print-dir] [--force] [--keep-tree]

Everything comes from Debian packages listed in recipe.toml. The result lies in
$TESTBED_CACHE (default ${XDG_CACHE_HOME:-~/.cache}/testbed) under a folder named
by the hash of the recipe, so a second build of the same recipe costs nothing.

  root.img     ext4, made by `mke2fs -d`: no loop mounts
  linux.uml    user-mode Linux kernel (modules are in root.img)
  vmlinuz, initrd.testbed   full kernel and a small initramfs for QEMU
  hello/       kernel + initramfs of a tiny nested guest (64 MiB)
  manifest     package versions

Needs root, mmdebstrap, e2fsprogs, cpio, zstd (all Debian packages).
"""

import argparse
import contextlib
import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
import time
import tomllib
from pathlib import Path

HERE = Path(__file__).resolve().parent


def cache_root() -> Path:
    if own := os.environ.get("TESTBED_CACHE"):
        return Path(own)
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "testbed"


def recipe_inputs() -> list[Path]:
    return [HERE / "recipe.toml", HERE / "build.py", *sorted(p for p in (HERE / "guest").rglob("*") if p.is_file())]


def recipe_hash() -> str:
    digest = hashlib.sha256()
    for path in recipe_inputs():
        digest.update(str(path.relative_to(HERE)).encode() + b"\0")
        digest.update(path.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


def built_dir() -> Path:
    return cache_root() / recipe_hash()


def call(*argv, **kwargs):
    print("+", " ".join(map(str, argv)), flush=True)
    subprocess.run([str(a) for a in argv], check=True, **kwargs)


@contextlib.contextmanager
def step(name: str):
    start = time.monotonic()
    yield
    print(f"# {name}: {time.monotonic() - start:.1f} s", flush=True)


def base_tree(recipe: dict, cache: Path) -> Path:
    """The unpacked packages, cached apart: guest/ and build.py change more often."""
    key = hashlib.sha256(repr(sorted(recipe.items())).encode()).hexdigest()[:16]
    tree = cache / f"packages-{key}.tar"
    if tree.exists():
        return tree
    packages = [*recipe["packages"], recipe["kernel_package"]]
    part = tree.with_suffix(f".{os.getpid()}.tar")
    sources = [p for p in ("/etc/apt/sources.list", "/etc/apt/sources.list.d/debian.sources") if Path(p).is_file()]
    with step("mmdebstrap"):
        print("+ mmdebstrap …", flush=True)
        subprocess.run(
            [
                "mmdebstrap",
                "--variant=minbase",
                "--mode=root",
                '--aptopt=APT::Install-Recommends "false"',
                '--aptopt=Acquire::Languages "none"',
                "--dpkgopt=path-exclude=/usr/share/doc/*",
                "--dpkgopt=path-exclude=/usr/share/man/*",
                "--dpkgopt=path-exclude=/usr/share/locale/*",
                "--dpkgopt=path-exclude=/usr/share/info/*",
                "--dpkgopt=force-unsafe-io",
                f"--include={','.join(packages)}",
                # No initrd of Debian's: a small one of our own is made below.
                "--essential-hook=printf '#!/bin/sh\\nexit 101\\n' > \"$1/usr/sbin/policy-rc.d\"; "
                'chmod +x "$1/usr/sbin/policy-rc.d"',
                # the user-mode kernel: only unpacked, its modules go into the tree
                f'--customize-hook=chroot "$1" sh -c \'cd /tmp && apt-get download {recipe["uml_package"]} && '
                f"dpkg-deb -x {recipe['uml_package']}_*.deb /tmp/uml && rm *.deb'",
                '--customize-hook=mkdir -p "$1/boot" && mv "$1/tmp/uml/usr/bin/linux.uml" "$1/boot/" && '
                'cp -a "$1/tmp/uml/usr/lib/uml/modules/." "$1/lib/modules/" && rm -rf "$1/tmp/uml"',
                '--customize-hook=for v in $(ls "$1/lib/modules"); do chroot "$1" depmod $v; done',
                recipe["suite"],
                str(part),
                *sources,
            ],
            check=True,
            env={**os.environ, "INITRD": "No"},  # the kernel package's hook then makes none
        )
    part.rename(tree)
    return tree


def module_files(moddir: Path, wanted: list[str]) -> list[Path]:
    """The modules' files, each after those it needs; ones built into the kernel are left out."""

    def name(path: str) -> str:
        return Path(path).name.split(".ko")[0].replace("-", "_")

    needs = {}
    for line in (moddir / "modules.dep").read_text().splitlines():
        path, _, rest = line.partition(":")
        needs[name(path)] = (path, rest.split())
    order: list[str] = []
    for module in wanted:
        if module in needs:
            path, first = needs[module]
            for p in [*reversed(first), path]:  # modules.dep lists the deepest last
                if p not in order:
                    order.append(p)
    return [moddir / p for p in order]


def make_initrd(tree: Path, version: str, out: Path) -> None:
    """busybox + the few modules needed to find the root: loads in a second under TCG."""
    wanted = ["virtio_pci", "virtio_blk", "virtio_console", "crc32c_generic", "ext4", "virtio_rng"]
    work = out.with_suffix(".d")
    shutil.rmtree(work, ignore_errors=True)
    for d in ("bin", "dev", "proc", "sys", "new", "m"):
        (work / d).mkdir(parents=True)
    shutil.copy2(tree / "bin/busybox", work / "bin/busybox")
    insmods = []
    for path in module_files(tree / "lib/modules" / version, wanted):
        shutil.copy2(path, work / "m" / path.name)
        insmods.append(f"insmod /m/{path.name}")
    init = (HERE / "guest/initrd-init.sh").read_text().replace("@INSMODS@", "\n".join(insmods))
    (work / "init").write_text(init)
    (work / "init").chmod(0o755)
    for applet in ("sh", "mount", "insmod", "switch_root", "sleep", "mknod", "cat"):
        (work / "bin" / applet).symlink_to("busybox")
    pack_initramfs(work, out)


def pack_initramfs(work: Path, out: Path) -> None:
    with (
        out.open("wb") as f,
        subprocess.Popen(["find", ".", "-print0"], cwd=work, stdout=subprocess.PIPE) as find,
    ):
        subprocess.run(
            ["cpio", "--null", "-o", "-H", "newc", "--quiet"], cwd=work, stdin=find.stdout, stdout=f, check=True
        )
    shutil.rmtree(work)


def make_hello(tree: Path, version: str, out: Path) -> None:
    """A guest for tests to run: prints hello on serial, has the guest agent, 64 MiB."""
    out.mkdir()
    shutil.copy2(tree / f"boot/vmlinuz-{version}", out / "vmlinuz")
    work = out / "tree"
    for d in ("bin", "dev", "proc", "sys", "tmp", "run", "m", "etc"):
        (work / d).mkdir(parents=True)
    shutil.copy2(tree / "bin/busybox", work / "bin/busybox")
    for applet in (
        "sh",
        "mount",
        "insmod",
        "sleep",
        "echo",
        "cat",
        "poweroff",
        "reboot",
        "ls",
        "uname",
        "ip",
        "free",
        "true",
        "ln",
    ):
        (work / "bin" / applet).symlink_to("busybox")
    insmods = []
    for path in module_files(
        tree / "lib/modules" / version, ["virtio_pci", "virtio_console", "virtio_blk", "virtio_net", "virtio_balloon"]
    ):
        shutil.copy2(path, work / "m" / path.name)
        insmods.append(f"insmod /m/{path.name}")
    # The guest agent with the libraries it links.
    agent = "usr/sbin/qemu-ga"
    (work / "usr/sbin").mkdir(parents=True)
    shutil.copy2(tree / agent, work / agent)
    ldd = subprocess.run(["chroot", tree, "ldd", f"/{agent}"], text=True, capture_output=True, check=True).stdout
    for lib in re.findall(r"(/\S+\.so\S*)", ldd):
        dest = work / lib.lstrip("/")
        dest.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(tree / lib.lstrip("/"), dest)
    (work / "init").write_text((HERE / "guest/hello-init.sh").read_text().replace("@INSMODS@", "\n".join(insmods)))
    (work / "init").chmod(0o755)
    pack_initramfs(work, out / "initrd")


def build(force: bool = False, keep_tree: bool = False) -> Path:
    target = built_dir()
    cache = cache_root()
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if target.exists() and not force:
            return target
        recipe = tomllib.loads((HERE / "recipe.toml").read_text())
        tar = base_tree(recipe, cache)
        part = cache / f"{target.name}.part"
        shutil.rmtree(part, ignore_errors=True)
        tree = part / "tree"
        tree.mkdir(parents=True)
        with step("unpack"):
            call("tar", "-C", tree, "--xattrs", "--xattrs-include=*", "-xf", tar)
        version = next(p.name[len("vmlinuz-") :] for p in (tree / "boot").glob("vmlinuz-*"))
        shutil.copytree(HERE / "guest/root", tree, dirs_exist_ok=True, symlinks=True)
        call("chroot", tree, "/usr/lib/testbed/customize")
        shutil.move(tree / "boot/linux.uml", part / "linux.uml")
        shutil.copy2(tree / f"boot/vmlinuz-{version}", part / "vmlinuz")
        make_initrd(tree, version, part / "initrd.testbed")
        make_hello(tree, version, part / "hello")
        shutil.copytree(part / "hello", tree / "usr/share/testbed/hello", dirs_exist_ok=True)
        manifest = subprocess.run(
            ["chroot", tree, "dpkg-query", "-W"], text=True, capture_output=True, check=True
        ).stdout
        (part / "manifest").write_text(manifest)
        with step("mke2fs"):
            call(
                "mke2fs",
                "-q",
                "-t",
                "ext4",
                "-O",
                "^has_journal",
                "-E",
                "root_owner=0:0,lazy_itable_init=1",
                "-m",
                "0",
                "-L",
                "testbed",
                "-d",
                tree,
                part / "root.img",
                recipe["image_size"],
            )
        if not keep_tree:
            shutil.rmtree(tree)
        if target.exists():
            shutil.rmtree(target)
        part.rename(target)
    return target


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--print-dir", action="store_true", help="print where the build of this recipe lies or would lie"
    )
    parser.add_argument("--force", action="store_true", help="build even when it is in the cache")
    parser.add_argument("--keep-tree", action="store_true", help="keep the unpacked root beside the image")
    args = parser.parse_args()
    if args.print_dir:
        print(built_dir())
        return 0
    with step("all"):
        target = build(args.force, args.keep_tree)
    print(target)
    return 0


if __name__ == "__main__":
    sys.exit(main())
