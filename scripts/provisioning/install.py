# SPDX-License-Identifier: Apache-2.0
"""Puts the agent on this host: program, directories, configuration, root's helpers and rules. Needs root.

Files an administrator has changed are kept: what was installed is remembered by its digest, as packages do it.
"""

import hashlib
import json
import shutil
import tempfile
from pathlib import Path

from provisioning import host, libvirt, packages, section, services
from provisioning.foreign import Ledger
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

#: (in the source tree, on the host): configuration, which administrators may change.
FILES = (
    ("etc/vdsm.conf", "/etc/vdsm/vdsm.conf"),
    ("etc/logger.conf", "/etc/vdsm/logger.conf"),
    ("etc/vdsm.conf.d/README", "/etc/vdsm/vdsm.conf.d/README"),
    ("etc/logrotate", "/etc/logrotate.d/vdsm-mp"),
)
SUDOERS = Path("/etc/sudoers.d/50_vdsm")
COMPLETION = Path("/usr/share/bash-completion/completions/vdsm-mp")
LIBEXEC = Path("/usr/libexec/vdsm-mp")
TMPFILES = Path("/etc/tmpfiles.d/vdsm-mp.conf")
UNITS = Path("/etc/systemd/system")


def install(log: Path) -> list[str]:
    """Everything but the services and certificates. Safe to repeat. Returns notes for the administrator."""
    packages.environment(VENV, (packages.SCRIPTS / "requirements.txt",), log, keyed=False)
    _install_program(log)
    notes: list[str] = []
    host.directories()
    put(TMPFILES, host.tmpfiles().encode(), notes)
    for source, target in (*FILES, ("supervisor/vdsm.conf", str(SUPERVISOR_CONF))):
        put(Path(target), (ROOT / source).read_bytes(), notes)
    notes += section.mend(SUPERVISOR_CONF)
    completion = run([COMMAND, "completion"], why="asking for the completion of bash")
    put(COMPLETION, completion.encode(), notes)
    host.identity()
    helpers(VENV, log)
    sudoers(SUDOERS)
    if services.systemd():
        libvirt.drop_ins(UNITS)
    libvirt.let_in(notes, Ledger())
    _supervisor(notes)
    return notes


def ours() -> bool:
    """Whether supervisord on this host is the one of our environment, with our configuration."""
    return SUPERVISORD_CONF.exists() and str(SUPERVISORD_CONF) in remembered()


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
    put(SUPERVISORD_CONF, (ROOT / "supervisor/supervisord.conf").read_bytes(), notes)
    if not SUPERVISORCTL.exists():
        SUPERVISORCTL.unlink(missing_ok=True)
        SUPERVISORCTL.symlink_to(VENV / "bin/supervisorctl")
    if services.systemd():
        put(UNIT, (ROOT / "supervisor/vdsm-mp.service").read_bytes(), notes)
        run(["systemctl", "daemon-reload"], why="telling systemd about the agent")
        run(["systemctl", "enable", UNIT.name], why="having the agent started with the host")


def _install_program(log: Path) -> None:
    if program(VENV, log):
        COMMAND.unlink(missing_ok=True)
        COMMAND.symlink_to(VENV / "bin/vdsm-mp")


def program(venv: Path, log: Path) -> bool:
    """Copy the package into the environment: the checkout may be where user vdsm cannot read. False: it is there."""
    sources = sorted(p for p in (ROOT / "vdsm_mp").rglob("*.py"))
    digest = hashlib.sha256(b"".join(str(p.relative_to(ROOT)).encode() + p.read_bytes() for p in sources)).hexdigest()
    stamp = venv / "program.sha256"
    if stamp.exists() and stamp.read_text() == digest:
        return False
    say(f"installing the agent into {venv}")
    with tempfile.TemporaryDirectory(prefix="vdsm-mp-install-") as folder:
        tree = Path(folder)
        for name in ("pyproject.toml", "README.md", "LICENSE"):
            shutil.copy(ROOT / name, tree)
        shutil.copytree(ROOT / "vdsm_mp", tree / "vdsm_mp", ignore=shutil.ignore_patterns("__pycache__"))
        pip = [venv / "bin/python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-index"]
        run(
            # pip would keep a wheel of each program for ever: for it, the folder's name has a version in it.
            [*pip, "--no-cache-dir", "--no-deps", "--no-build-isolation", "--force-reinstall", tree],
            why="installing the agent", log=log, env={"PIP_ROOT_USER_ACTION": "ignore"},
        )  # fmt: skip
    run(["chmod", "-R", "go+rX,go-w", venv], why="making the agent readable", log=log)
    stamp.write_text(digest)
    return True


def remembered() -> dict[str, str]:
    """{path: digest} of the files that `put` wrote."""
    return json.loads(REMEMBERED.read_text()) if REMEMBERED.exists() else {}


def put(path: Path, content: bytes, notes: list[str], mode: int = 0o644) -> None:
    """Write a configuration file, unless the one that is there was changed by somebody else."""
    digest = hashlib.sha256(content).hexdigest()
    if path.exists():
        there = hashlib.sha256(path.read_bytes()).hexdigest()
        if there not in (digest, remembered().get(str(path))):
            notes.append(f"{path} was changed on this host and is kept; ours is in the source tree")
            return
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(f".{path.name}.new")
    new.write_bytes(content)
    new.chmod(mode)
    new.replace(path)
    REMEMBERED.parent.mkdir(parents=True, exist_ok=True)
    REMEMBERED.write_text(json.dumps({**remembered(), str(path): digest}, indent=2, sort_keys=True))


def helpers(venv: Path, log: Path, libexec: Path = LIBEXEC) -> None:
    """The programs that sudo may run, owned by root all the way down."""
    argv = [venv / "bin/python", "-m", "vdsm_mp.priv.install", "--libexec", libexec]
    run(argv, why="installing root's helpers", log=log, cwd=Path("/"))


def sudoers(target: Path) -> None:
    """Install the rules only when visudo finds no fault: a broken file there locks everybody out of sudo."""
    source = ROOT / "sudoers/50_vdsm"
    new = target.with_name(".50_vdsm.new")  # a name with a dot is not read by sudo
    version = run(["sudo", "--version"], why="asking which sudo this is", check=False)
    new.write_text(rules_for(version, source.read_text()))
    new.chmod(0o440)
    try:
        run(["visudo", "-q", "-c", "-f", new], why=f"checking {source}")
    except Failure:
        new.unlink()
        raise
    new.replace(target)


def rules_for(version: str, rules: str) -> str:
    """The rules as this sudo reads them. sudo-rs has none of our settings, and its visudo refuses them.

    version: what `sudo --version` says.
    """
    if not version.startswith("sudo-rs"):
        return rules
    return "".join(line for line in rules.splitlines(keepends=True) if not line.startswith("Defaults"))
