# SPDX-License-Identifier: Apache-2.0
"""Lays the files of the Debian package out below a folder, as dpkg will unpack them. The steps are those of `install`.

A Python environment knows where it lies: it is made elsewhere, and the names of that place are replaced by its own.
"""

import compileall
import py_compile
import re
import shutil
import sys
from pathlib import Path

from provisioning import host, install, libvirt, package, packages
from provisioning.say import Failure, run

#: What only builds need. setuptools stays: supervisor's own programs ask it for their version.
_NOT_SHIPPED = ("pip", "wheel")
_SHARE = Path("/usr/share/vdsm-mp")
_SYSTEMD = Path("/lib/systemd/system")
#: Debian's supervisord is the one that runs the agent: of its unit only what an agent needs more is said here.
_SUPERVISOR_DROP_IN = """\
[Unit]
Wants=libvirtd.socket sanlock.service
After=libvirtd.socket libvirtd.service sanlock.service

[Service]
TasksMax=infinity
"""
#: /usr/share/vdsm-mp holds what the maintainer scripts run.
_MAINTAIN = (
    "accounts", "dhcp", "foreign", "host", "hostname", "libvirt", "package", "pki", "say", "section", "services",
    "stop", "__init__",
)  # fmt: skip


def depends() -> list[str]:
    """What a host needs, by provisioning's own list; the interpreter is the one the environment was made with."""
    minor = sys.version_info.minor
    python = [f"python3 (>= 3.{minor})", f"python3 (<< 3.{minor + 1})"]
    return [*python, "supervisor", "passwd", *packages.HOST_PACKAGES]


def program_version(tree: Path) -> str:
    found = re.search(r'^__version__ = "(.+)"$', (tree / "vdsm_mp/__init__.py").read_text(), re.MULTILINE)
    if found is None:
        raise Failure(f"{tree}/vdsm_mp/__init__.py tells no version")
    return found[1]


def give_version(tree: Path, version: str) -> None:
    """Have the program of a copied tree tell the version of the package."""
    path = tree / "vdsm_mp/__init__.py"
    path.write_text(path.read_text().replace(f'"{program_version(tree)}"', f'"{version}"', 1))


def stage(below: Path, log: Path) -> None:
    """Everything, with root's or the builder's ownership: dpkg-deb makes it root's. Raises Failure."""
    requirements = packages.SCRIPTS / "requirements.txt"
    cached = packages.environment(packages.cache() / "package", (requirements,), log, keyed=True)
    venv = _at(below, install.VENV)
    shutil.copytree(cached, venv, symlinks=True)
    install.program(venv, log)
    libexec = _at(below, install.LIBEXEC)
    install.helpers(venv, log, libexec)
    completion = run([venv / "bin/python", "-m", "vdsm_mp.cli.main", "completion"], why="asking for the completion")
    pip = [venv / "bin/python", "-m", "pip", "uninstall", "--quiet", "--yes", *_NOT_SHIPPED]
    run(pip, why="leaving out what only builds need", log=log)
    _clean(venv)
    for folder in (venv, libexec):
        _relocate(folder, {str(cached): str(install.VENV), str(venv): str(install.VENV), str(below): ""})
    _compile(venv)
    _link(_at(below, install.COMMAND), str(install.VENV / "bin/vdsm-mp"))
    _configuration(below)
    _text(below, install.COMPLETION, completion)
    _text(below, Path("/usr/lib/tmpfiles.d/vdsm-mp.conf"), host.tmpfiles())
    libvirt.drop_ins(_at(below, _SYSTEMD))
    _text(below, _SYSTEMD / "supervisor.service.d/vdsm-mp.conf", _SUPERVISOR_DROP_IN)
    _at(below, Path("/usr/libexec/vdsm/hooks")).mkdir(parents=True)
    for name in _MAINTAIN:
        _text(below, _SHARE / f"provisioning/{name}.py", (Path(__file__).parent / f"{name}.py").read_text())
    _text(below, _SHARE / "__main__.py", (install.ROOT / "debian/maintain.py").read_text())
    for source in (install.ROOT / "README.md", install.ROOT / "CHANGELOG.md", *(install.ROOT / "docs").glob("*.md")):
        _text(below, Path("/usr/share/doc/vdsm-mp") / source.relative_to(install.ROOT), source.read_text())


def _configuration(below: Path) -> None:
    """Files below /etc are conffiles: dpkg keeps what was changed on the host, and a removal leaves them."""
    for source, target in install.FILES:
        _text(below, Path(target), (install.ROOT / source).read_text())
    # A link into the folder that supervisord reads: it goes with a removal, the section that it names stays.
    _text(below, package.SECTION, (install.ROOT / "supervisor/vdsm.conf").read_text())
    _link(_at(below, install.SUPERVISOR_CONF), "../../vdsm/supervisor.conf")
    rules = _at(below, install.SUDOERS)
    rules.parent.mkdir(parents=True)
    install.sudoers(rules)


def _at(below: Path, path: Path) -> Path:
    return below / path.relative_to("/")


def _text(below: Path, path: Path, text: str) -> None:
    target = _at(below, path)
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(text)
    target.chmod(0o644)


def _link(path: Path, target: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to(target)


def _clean(venv: Path) -> None:
    for pattern in ("lib/*/site-packages/*.dist-info/direct_url.json", "bin/pip*", "bin/wheel", "*.sha256"):
        for path in venv.glob(pattern):
            path.unlink()
    for folder in sorted(venv.rglob("__pycache__")):
        shutil.rmtree(folder)


def _relocate(folder: Path, names: dict[str, str]) -> None:
    """Replace names of places in every text file, longest first."""
    for path in folder.rglob("*"):
        if path.is_symlink() or not path.is_file():
            continue
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        fresh = text
        for old in sorted(names, key=len, reverse=True):
            fresh = fresh.replace(old, names[old])
        if fresh != text:
            path.write_text(fresh, encoding="utf-8")


def _compile(venv: Path) -> None:
    """The agent's user may not write there. Unchecked: packing clamps the times that a check would compare."""
    mode = py_compile.PycInvalidationMode.UNCHECKED_HASH
    for site in venv.glob("lib/python3*/site-packages"):
        target = str(install.VENV / site.relative_to(venv))
        if not compileall.compile_dir(site, quiet=1, ddir=target, invalidation_mode=mode, force=True):
            raise Failure(f"compiling {site}: a file is no Python")
