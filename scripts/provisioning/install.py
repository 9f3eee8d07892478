# SPDX-License-Identifier: Apache-2.0
"""Puts the agent on this host: program, directories, configuration, root's helpers and rules. Needs root.

Files an administrator has changed are kept: what was installed is remembered by its digest, as packages do it.
"""

import hashlib
import json
import shutil
import subprocess
import tempfile
import uuid
from dataclasses import dataclass
from pathlib import Path

from provisioning import packages
from provisioning.say import Failure, run, say

ROOT = packages.SCRIPTS.parent
PREFIX = Path("/opt/vdsm-mp")
VENV = PREFIX / "venv"
COMMAND = Path("/usr/bin/vdsm-mp")
REMEMBERED = Path("/var/lib/vdsm-mp/installed.json")

SUPERVISOR_CONF = Path("/etc/supervisor/conf.d/vdsm.conf")
SUPERVISORD_CONF = Path("/etc/supervisor/supervisord.conf")
SUPERVISORCTL = Path("/usr/bin/supervisorctl")
UNIT = Path("/etc/systemd/system/vdsm-mp.service")
#: What provisioning wrote there before it remembered the file.
OLD_SUPERVISORD = "; Written by the demo because this machine has no supervisord of its own."

LIBVIRTD_CONF = Path("/etc/libvirt/libvirtd.conf")
LIBVIRTD_SECTION = """\
# The agent runs as user vdsm, a member of group libvirt, and must not need an agent of polkit to be let in.
auth_unix_ro = "none"
auth_unix_rw = "none"
unix_sock_group = "libvirt"
unix_sock_ro_perms = "0770"
unix_sock_rw_perms = "0770"
"""
QEMU_CONF = Path("/etc/libvirt/qemu.conf")
QEMU_SECTION = """\
# No udev here: a container or a change of root. There libvirt's private /dev of each guest may lack its terminals.
namespaces = []
"""
#: Where systemd makes the sockets, it is systemd that must know who may use them.
SOCKET_DROP_IN = "[Socket]\nSocketMode=0660\nSocketGroup=libvirt\n"


@dataclass(frozen=True)
class Directory:
    path: str
    mode: int
    owner: str = "vdsm"
    group: str = "kvm"


DIRECTORIES = (
    Directory("/etc/vdsm", 0o755, "root", "root"),
    Directory("/etc/vdsm/vdsm.conf.d", 0o755, "root", "root"),
    Directory("/rhev", 0o755, "root", "root"),
    Directory("/rhev/data-center", 0o755),
    Directory("/rhev/data-center/mnt", 0o755),
    Directory("/var/log/vdsm", 0o755),
    Directory("/var/lib/vdsm", 0o755),
    Directory("/var/lib/vdsm/transient", 0o750),
    Directory("/run/vdsm", 0o755),
    Directory("/run/vdsm/storage", 0o755),
    Directory("/run/vdsm-mp", 0o755),
    Directory("/usr/libexec/vdsm/hooks", 0o755, "root", "root"),
)


def install(log: Path) -> list[str]:
    """Everything but the services and certificates. Safe to repeat. Returns notes for the administrator."""
    packages.environment(VENV, (packages.SCRIPTS / "requirements.txt",), log, keyed=False)
    _program(log)
    notes: list[str] = []
    for directory in DIRECTORIES:
        Path(directory.path).mkdir(parents=True, exist_ok=True)
        Path(directory.path).chmod(directory.mode)
        shutil.chown(directory.path, directory.owner, directory.group)
    run_dirs = [d for d in DIRECTORIES if d.path.startswith("/run/")]
    text = "".join(f"d {d.path} {d.mode:04o} {d.owner} {d.group} -\n" for d in run_dirs)
    _put(Path("/etc/tmpfiles.d/vdsm-mp.conf"), text.encode(), notes)
    for source, target in (
        ("etc/vdsm.conf", "/etc/vdsm/vdsm.conf"),
        ("etc/logger.conf", "/etc/vdsm/logger.conf"),
        ("etc/vdsm.conf.d/README", "/etc/vdsm/vdsm.conf.d/README"),
        ("etc/logrotate", "/etc/logrotate.d/vdsm-mp"),
        ("supervisor/vdsm.conf", str(SUPERVISOR_CONF)),
    ):
        _put(Path(target), (ROOT / source).read_bytes(), notes)
    completion = run([COMMAND, "completion"], why="asking for the completion of bash")
    _put(Path("/usr/share/bash-completion/completions/vdsm-mp"), completion.encode(), notes)
    _vdsm_id()
    _helpers(log)
    _sudoers()
    _libvirt(notes)
    _supervisor(notes)
    return notes


def ours() -> bool:
    """Whether supervisord on this host is the one of our environment, with our configuration."""
    remembered = json.loads(REMEMBERED.read_text()) if REMEMBERED.exists() else {}
    return SUPERVISORD_CONF.exists() and str(SUPERVISORD_CONF) in remembered


def _supervisor(notes: list[str]) -> None:
    """supervisord where the host has none: its configuration, `supervisorctl`, and a unit where systemd is the init."""
    if SUPERVISORD_CONF.exists() and SUPERVISORD_CONF.read_text().startswith(OLD_SUPERVISORD):
        SUPERVISORD_CONF.unlink()
    if SUPERVISORD_CONF.exists() and not ours():
        notes.append(
            f"{SUPERVISORD_CONF} is not ours: the host's own supervisord runs the agent; `supervisorctl vdsm status` "
            f"and `vdsm restart` are not there, `vdsm-mp status` and `vdsm-mp restart` are"
        )
        return
    _put(SUPERVISORD_CONF, (ROOT / "supervisor/supervisord.conf").read_bytes(), notes)
    if not SUPERVISORCTL.exists():
        SUPERVISORCTL.unlink(missing_ok=True)
        SUPERVISORCTL.symlink_to(VENV / "bin/supervisorctl")
    if Path("/run/systemd/system").is_dir():
        _put(UNIT, (ROOT / "supervisor/vdsm-mp.service").read_bytes(), notes)
        run(["systemctl", "daemon-reload"], why="telling systemd about the agent")
        run(["systemctl", "enable", UNIT.name], why="having the agent started with the host")


def _program(log: Path) -> None:
    """Copy the package into the environment: the checkout may be where user vdsm cannot read."""
    sources = sorted(p for p in (ROOT / "vdsm_mp").rglob("*.py"))
    digest = hashlib.sha256(b"".join(str(p.relative_to(ROOT)).encode() + p.read_bytes() for p in sources)).hexdigest()
    stamp = VENV / "program.sha256"
    if stamp.exists() and stamp.read_text() == digest:
        return
    say(f"installing the agent into {VENV}")
    with tempfile.TemporaryDirectory(prefix="vdsm-mp-install-") as folder:
        tree = Path(folder)
        for name in ("pyproject.toml", "README.md", "LICENSE"):
            shutil.copy(ROOT / name, tree)
        shutil.copytree(ROOT / "vdsm_mp", tree / "vdsm_mp", ignore=shutil.ignore_patterns("__pycache__"))
        pip = [VENV / "bin/python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-index"]
        run(
            [*pip, "--no-deps", "--no-build-isolation", "--force-reinstall", tree],
            why="installing the agent", log=log, env={"PIP_ROOT_USER_ACTION": "ignore"},
        )  # fmt: skip
    run(["chmod", "-R", "go+rX,go-w", VENV], why="making the agent readable", log=log)
    COMMAND.unlink(missing_ok=True)
    COMMAND.symlink_to(VENV / "bin/vdsm-mp")
    stamp.write_text(digest)


def _put(path: Path, content: bytes, notes: list[str], mode: int = 0o644) -> None:
    """Write a configuration file, unless the one that is there was changed by somebody else."""
    remembered = json.loads(REMEMBERED.read_text()) if REMEMBERED.exists() else {}
    digest = hashlib.sha256(content).hexdigest()
    if path.exists():
        there = hashlib.sha256(path.read_bytes()).hexdigest()
        if there not in (digest, remembered.get(str(path))):
            notes.append(f"{path} was changed on this host and is kept; ours is in the source tree")
            return
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(f".{path.name}.new")
    new.write_bytes(content)
    new.chmod(mode)
    new.replace(path)
    REMEMBERED.parent.mkdir(parents=True, exist_ok=True)
    REMEMBERED.write_text(json.dumps({**remembered, str(path): digest}, indent=2, sort_keys=True))


def _vdsm_id() -> None:
    """The host's identity for the engine: the machine's UUID where it has one, else a random one, for ever."""
    path = Path("/etc/vdsm/vdsm.id")
    if path.exists() and path.read_text().strip():
        return
    asked = subprocess.run(["dmidecode", "-s", "system-uuid"], capture_output=True, text=True, check=False)
    lines = [line for line in asked.stdout.splitlines() if line and not line.startswith("#")]
    try:
        identity = uuid.UUID(lines[-1].strip())
    except (IndexError, ValueError):
        identity = uuid.uuid4()
    if identity.int in (0, 2**128 - 1):
        identity = uuid.uuid4()
    path.write_text(f"{identity}\n")
    path.chmod(0o644)


def _helpers(log: Path) -> None:
    """The programs that sudo may run, owned by root all the way down."""
    run([VENV / "bin/python", "-m", "vdsm_mp.priv.install"], why="installing root's helpers", log=log, cwd=Path("/"))


def _sudoers() -> None:
    """Install the rules only when visudo finds no fault: a broken file there locks everybody out of sudo."""
    target, source = Path("/etc/sudoers.d/50_vdsm"), ROOT / "sudoers/50_vdsm"
    new = target.with_name(".50_vdsm.new")  # a name with a dot is not read by sudo
    new.write_bytes(source.read_bytes())
    new.chmod(0o440)
    try:
        run(["visudo", "-q", "-c", "-f", new], why=f"checking {source}")
    except Failure:
        new.unlink()
        raise
    new.replace(target)


def _libvirt(notes: list[str]) -> None:
    """Let group libvirt in without polkit; let QEMU run where there is no udev."""
    _section(LIBVIRTD_CONF, LIBVIRTD_SECTION, notes)
    if not Path("/run/udev/control").exists():
        _section(QEMU_CONF, QEMU_SECTION, notes)
    if Path("/run/systemd/system").is_dir():
        for unit in ("libvirtd.socket", "libvirtd-ro.socket"):
            drop_in = Path(f"/etc/systemd/system/{unit}.d/vdsm-mp.conf")
            if not drop_in.exists():
                drop_in.parent.mkdir(parents=True, exist_ok=True)
                drop_in.write_text(SOCKET_DROP_IN)
        run(["systemctl", "daemon-reload"], why="telling systemd about the sockets")


def _section(path: Path, section: str, notes: list[str]) -> None:
    """Write our marked section into a file that is otherwise the administrator's."""
    begin, end = "# begin of vdsm-mp\n", "# end of vdsm-mp\n"
    text = path.read_text() if path.exists() else ""
    before, found, rest = text.partition(begin)
    after = rest.partition(end)[2] if found else ""
    wanted = before.rstrip("\n") + ("\n" if before else "") + begin + section + end + after
    if wanted != text:
        path.write_text(wanted)
        if Path("/run/libvirt/libvirt-sock").exists():
            notes.append(f"{path} has changed: a libvirtd that runs already takes it at its next start")
