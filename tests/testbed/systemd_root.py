# SPDX-License-Identifier: Apache-2.0
"""Builds the root of a throw-away host that is a plain Debian 12 with systemd as its init and nothing of ours in it.

Debian's packages are those that `scripts/provision` would install, so that it can run without a network; the Python
packages lie in /wheels for the same reason. Cached beside the other roots, by the hash of what it is made of.
"""

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

from tests.testbed import build

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = ROOT / "scripts"
#: Besides what provisioning installs: an init and what a testbed host needs to be talked to.
BASE = ("systemd", "systemd-sysv", "dbus", "udev", "git", "make", "python3", "ca-certificates", "strace")
#: Units that only cost time in a host that lives for a minute.
MASKED = (
    "getty.target", "serial-getty@.service", "apt-daily.timer", "apt-daily-upgrade.timer", "dpkg-db-backup.timer",
    "e2scrub_all.timer", "fstrim.timer", "logrotate.timer", "man-db.timer", "systemd-random-seed.service",
    "systemd-hwdb-update.service", "systemd-firstboot.service", "ldconfig.service",
)  # fmt: skip
PIP = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": "/wheels"}


def provisioned(*lists: str) -> tuple[str, ...]:
    """The Debian packages of provisioning, by its own word: `HOST_PACKAGES`, `BUILD_PACKAGES`…"""
    code = f"from provisioning import packages as p; print(*{'+'.join(f'p.{name}' for name in lists)})"
    argv = [sys.executable, "-c", code]
    return tuple(
        subprocess.run(argv, cwd=SCRIPTS, capture_output=True, text=True, check=True, timeout=60).stdout.split()
    )


def built(debian: tuple[str, ...] | None = None) -> Path:
    """The folder with `root.img` and `linux.uml`. Takes minutes the first time.

    debian: these packages are there besides systemd, and nothing for a build from source. None: all that provisioning
    would install.
    """
    recipe = _recipe(provisioned("HOST_PACKAGES", "BUILD_PACKAGES", "GUEST_PACKAGES") if debian is None else debian)
    requirements = (SCRIPTS / "requirements.txt").read_bytes()
    digest = hashlib.sha256(repr(sorted(recipe.items())).encode() + requirements + Path(__file__).read_bytes())
    cache = build.cache_root() / "systemd"
    target = cache / digest.hexdigest()[:16]
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not target.exists():
            _build(build.base_tree(recipe, cache), cache / f"{target.name}.part", target, wheels=debian is None)
    return target


def packages(debian: tuple[str, ...]) -> Path:
    """The same packages, unpacked and configured, as a tar file: for a root without a kernel of its own."""
    cache = build.cache_root() / "systemd"
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        return build.base_tree(_recipe(debian), cache)


def _recipe(debian: tuple[str, ...]) -> dict[str, object]:
    # The place of the full kernel is left to a package that is there anyway: only the user-mode kernel boots this root.
    return {
        "suite": "bookworm",
        "uml_package": "user-mode-linux",
        "kernel_package": "kmod",
        "packages": [*BASE, *debian],
    }


def _build(packages: Path, part: Path, target: Path, *, wheels: bool) -> None:
    shutil.rmtree(part, ignore_errors=True)
    tree = part / "tree"
    tree.mkdir(parents=True)
    build.call("tar", "-C", tree, "--xattrs", "--xattrs-include=*", "-xf", packages)
    for name in ("usr/lib/testbed/agent", "etc/systemd/system/testbed-agent.service"):
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(build.HERE / "guest/root" / name, tree / name)
    (tree / "etc/hostname").write_text("testbed\n")
    (tree / "etc/hosts").write_text("127.0.0.1 localhost\n")
    (tree / "etc/fstab").write_text("")
    (tree / "usr/sbin/policy-rc.d").unlink(missing_ok=True)
    for name in ("project", "testbed", "wheels"):
        (tree / name).mkdir(exist_ok=True)
    build.call("chroot", tree, "systemctl", "--root=/", "enable", "testbed-agent.service")
    build.call("chroot", tree, "systemctl", "--root=/", "mask", *MASKED)
    if wheels:
        _wheels(tree / "wheels", tree)
    shutil.move(tree / "boot/linux.uml", part / "linux.uml")
    options = ("-q", "-t", "ext4", "-O", "^has_journal", "-E", "root_owner=0:0,lazy_itable_init=1", "-m", "0")
    build.call("mke2fs", *options, "-L", "testbed", "-d", tree, part / "root.img", "6G")
    shutil.rmtree(tree)
    part.rename(target)


def _wheels(folder: Path, tree: Path) -> None:
    """What pip would fetch, in the versions that provisioning asks for; libvirt-python in the version of the root."""
    argv = ["chroot", tree, "pkg-config", "--modversion", "libvirt"]
    libvirt = subprocess.run(argv, capture_output=True, text=True, check=True, timeout=60).stdout.strip()
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--wheel-dir", folder]
    build.call(*pip, "wheel", "-r", SCRIPTS / "requirements.txt", env={**os.environ})
    build.call(*pip, "--no-build-isolation", f"libvirt-python=={libvirt}", env={**os.environ})


if __name__ == "__main__":
    print(built())
