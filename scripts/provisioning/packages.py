# SPDX-License-Identifier: Apache-2.0
"""Debian packages and the virtual environments. Installs only what is missing; a second run asks nobody."""

import fcntl
import hashlib
import os
import shutil
import subprocess
from functools import partial
from pathlib import Path

from provisioning.say import Failure, run, say

SCRIPTS = Path(__file__).resolve().parent.parent
PYTHON = Path("/usr/bin/python3")

#: Names the folder of `cache` to programs that we start through others: debhelper gives them another home.
CACHE = "VDSM_MP_CACHE"
#: What the agent needs on a host.
HOST_PACKAGES = (
    "libvirt-daemon-system", "libvirt-daemon-driver-qemu", "libvirt-clients", "qemu-system-x86", "qemu-utils",
    "sanlock", "python3-sanlock", "sudo", "openssl", "logrotate", "iproute2", "procps", "util-linux", "mount", "kmod",
    "e2fsprogs", "dmidecode", "nfs-common", "isc-dhcp-client", "genisoimage", "mtools", "ovmf", "swtpm", "swtpm-tools",
)  # fmt: skip
#: What building the environment needs: libvirt-python has no wheels.
BUILD_PACKAGES = ("python3-venv", "python3-dev", "libvirt-dev", "pkg-config", "gcc", "libc6-dev")
#: What the demo's guest is made of, and what unpacks the tests' recorded domains.
GUEST_PACKAGES = ("busybox-static", "cpio", "xz-utils")
#: What the tests use besides: the same, an agent for their Linux guest, and sfdisk.
CHECK_PACKAGES = (*GUEST_PACKAGES, "qemu-guest-agent", "fdisk")
#: What throw-away hosts are built with, and the package that is tried in them.
TESTBED_PACKAGES = ("mmdebstrap", "debhelper", "dpkg-dev")

#: What apt asks for, and does nothing before, when dpkg was ended half-way (Ctrl-C, a lost connection).
_FINISH = "dpkg --configure -a"


def for_checks(*, testbed: bool) -> tuple[str, ...]:
    """What `scripts/check` needs."""
    return (*HOST_PACKAGES, *BUILD_PACKAGES, *CHECK_PACKAGES, *(TESTBED_PACKAGES if testbed else ()))


def missing(names: tuple[str, ...]) -> list[str]:
    """The Debian packages of `names` that are not installed."""
    asked = subprocess.run(
        ["dpkg-query", "-W", "-f", "${Package} ${db:Status-Abbrev}\n", *names],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    there = {line.split()[0] for line in asked.stdout.splitlines() if line.split()[1:2] == ["ii"]}
    return [name for name in names if name not in there]


def install_debian(names: tuple[str, ...], log: Path) -> None:
    """Install what is missing. Without systemd that starts no service but rpcbind; whoever needs one starts it."""
    if shutil.which("dpkg-query") is None:
        raise Failure("this host is not a Debian: 'Other distributions' in docs/operations.md names its packages")
    wanted = missing(names)
    if not wanted:
        return
    if os.geteuid() != 0:
        raise Failure(f"these Debian packages are missing, and only root can install them: {' '.join(wanted)}")
    say(f"installing {len(wanted)} Debian packages: {' '.join(wanted)}")
    apt = ["apt-get", "-q", "-y", "-o", "DPkg::Lock::Timeout=600", "-o", "Acquire::Retries=3"]
    env = {"DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1", "LC_ALL": "C.UTF-8"}
    run([*apt, "update"], why="reading Debian's package lists", log=log, env=env, timeout_s=600)
    install = partial(
        run, [*apt, "install", "--no-install-recommends", *wanted],
        why="installing Debian packages", log=log, env=env, timeout_s=1800,
    )  # fmt: skip
    try:
        install()
    except Failure as failure:
        if _FINISH not in str(failure):
            raise
        # Asked for only now: before, somebody else might have been installing something.
        say(f"an installation was interrupted on this host: {_FINISH} finishes it")
        run(_FINISH.split(), why="finishing what was interrupted", log=log, env=env, timeout_s=1800)
        install()


def libvirt_version() -> str:
    """Version of the installed libvirt: libvirt-python must be of the same."""
    return run(["pkg-config", "--modversion", "libvirt"], why="asking for the version of libvirt").strip()


def environment(where: Path, requirement_files: tuple[Path, ...], log: Path, *, keyed: bool) -> Path:
    """A virtual environment with the requirements, the libvirt binding and Debian's sanlock binding.

    keyed: `where` is a directory of environments, one per set of requirements; else it is the environment, and is
    brought up to date. Safe to call from several processes. Returns the environment's directory.
    """
    libvirt = libvirt_version()
    wanted = "".join(path.read_text() for path in requirement_files) + f"libvirt-python=={libvirt}\n"
    digest = hashlib.sha256(wanted.encode()).hexdigest()[:12]
    venv = where / digest if keyed else where
    venv.parent.mkdir(parents=True, exist_ok=True)
    with open(venv.parent / f".{venv.name}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        stamp = venv / "requirements.sha256"
        if not stamp.exists() or stamp.read_text() != digest or not (venv / "bin/python").exists():
            say(f"building the Python environment {venv}")
            _build(venv, requirement_files, libvirt, log)
            stamp.write_text(digest)
        _link_sanlock(venv)
    return venv


def _build(venv: Path, requirement_files: tuple[Path, ...], libvirt: str, log: Path) -> None:
    shutil.rmtree(venv, ignore_errors=True)
    old = os.umask(0o022)  # user vdsm must be able to read it, whatever the caller's habit
    try:
        run([PYTHON, "-m", "venv", venv], why="making a virtual environment", log=log)
        pip = [venv / "bin/python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--retries", "5"]
        files = [word for path in requirement_files for word in ("-r", path)]
        run([*pip, *files], why="installing Python packages", log=log)
        # Without build isolation it uses the setuptools that is here, and asks the index for nothing else.
        binding = [*pip, "--no-build-isolation", f"libvirt-python=={libvirt}"]
        run([venv / "bin/python", "-m", "pip", "install", "--quiet", "wheel"], why="installing wheel", log=log)
        run(binding, why="building libvirt-python", log=log)
    finally:
        os.umask(old)


def _link_sanlock(venv: Path) -> None:
    """PyPI has no sanlock binding: Debian's is linked alone, so that nothing else of the system's leaks in."""
    built = sorted(Path("/usr/lib/python3/dist-packages").glob("sanlock*.so"))
    if not built:
        raise Failure("Debian's python3-sanlock is installed, but its module is not in /usr/lib/python3/dist-packages")
    for site in venv.glob("lib/python3*/site-packages"):
        link = site / built[0].name
        if not link.is_symlink() or link.readlink() != built[0]:
            link.unlink(missing_ok=True)
            link.symlink_to(built[0])


def cache() -> Path:
    """Where environments are kept between runs, and what builds say. Nobody else may write there."""
    if told := os.environ.get(CACHE):
        return Path(told)
    return Path("/var/cache/vdsm-mp") if os.geteuid() == 0 else Path.home() / ".cache/vdsm-mp"


def check_environment(log: Path) -> Path:
    """The environment of `scripts/check`."""
    files = (SCRIPTS / "requirements.txt", SCRIPTS / "requirements-check.txt")
    return environment(cache() / "check", files, log, keyed=True)
