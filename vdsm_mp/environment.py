# SPDX-License-Identifier: Apache-2.0
"""What the master sets for all that it forks: umask, limits, process group, CPUs, libvirt's log, warnings, coverage."""

import os
import resource
import signal
import sys
import warnings
from pathlib import Path

from vdsm_mp.common import command, kernel, log, streams
from vdsm_mp.common.options import Config

logger = log.named("master")


#: With fewer, libzmq ends its process by abort() sooner or later, and nobody could tell why.
LEAST_DESCRIPTORS = 256
#: What every usual host gives. A master with a child for each of two hundred domains needs more than half of that.
USUAL_DESCRIPTORS = 1024


class BadAffinity(Exception):
    """`[vars] cpu_affinity` names CPUs this host does not have, or is no list of numbers."""


def shed_inheritance() -> None:
    """Nothing of whoever started us may matter: blocked signals, and standard streams that are closed.

    With SIGCHLD blocked no death would be seen and with SIGTERM no stop. Before anything is opened.
    """
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    streams.fill()


def descriptors() -> int:
    """How many files each process of the house may have open; fewer than usual are raised as far as we may."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return USUAL_DESCRIPTORS
    if soft < USUAL_DESCRIPTORS:
        soft = USUAL_DESCRIPTORS if hard == resource.RLIM_INFINITY else min(USUAL_DESCRIPTORS, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return soft


def apply(config: Config) -> None:
    """Raises BadAffinity; everything else that fails is only said."""
    # Whatever umask we were started with: nobody else may write to what we make.
    os.umask(0o022)
    if config.vars.core_dump_enable:
        _keep_cores(cores_dir(config))
    else:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        kernel.never_dump()
    # A panic kills the whole group: nobody else's process may be in it. A session leader leads its group already.
    if os.getpgrp() != os.getpid() and os.getsid(0) != os.getpid():
        os.setpgid(0, 0)
    for name, value in (
        ("LIBVIRT_DEBUG", config.vars.libvirt_env_variable_debug),
        ("LIBVIRT_LOG_FILTERS", config.vars.libvirt_env_variable_log_filters),
        ("LIBVIRT_LOG_OUTPUTS", config.vars.libvirt_env_variable_log_outputs),
    ):
        if value:
            os.environ[name] = value
    if config.devel.python_warnings_enable:
        warnings.simplefilter("default")
    _pin(config.vars.cpu_affinity)


def cores_dir(config: Config) -> Path:
    """Where the kernel leaves cores unless its pattern names another place; nobody else may look into it."""
    return Path(config.vdsm_mp.state_dir) / "cores"


def _keep_cores(folder: Path) -> None:
    """A relative pattern means the working directory: ours is of nobody's interest otherwise."""
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        folder.chmod(0o700)
        os.chdir(folder)
    except OSError as error:
        os.chdir("/")
        logger.warning("no core files can be kept: %s: %s", error.filename or folder, error.strerror)


def start_coverage() -> None:
    """The coverage hook: in the master, and again in each forked process, which writes a file of its own."""
    if not os.environ.get("COVERAGE_PROCESS_START"):
        return
    try:
        import coverage
    except ImportError:
        logger.warning("COVERAGE_PROCESS_START is set but there is no coverage package")
        return
    inherited = coverage.Coverage.current()
    if inherited is not None:
        inherited.stop()
    measured = coverage.Coverage(config_file=os.environ["COVERAGE_PROCESS_START"], data_suffix=True)
    measured.start()


def save_coverage() -> None:
    """Write what was measured; the process is about to leave without the interpreter's own ending."""
    coverage = sys.modules.get("coverage")
    current = coverage.Coverage.current() if coverage is not None else None
    if current is not None:
        current.stop()
        current.save()


def cpus_for(wanted: str, online: list[int]) -> set[int] | None:
    """The CPUs of `cpu_affinity`: None = all. `auto` is the second one; with one CPU nothing is done.

    Raises BadAffinity.
    """
    if not wanted.strip() or len(online) < 2:
        return None
    if wanted.strip() == "auto":
        return {online[1]}
    try:
        cpus = {int(word) for word in wanted.split(",")}
    except ValueError:
        raise BadAffinity(f"cpu_affinity = {wanted!r} is no list of CPU numbers") from None
    if not cpus <= set(online):
        raise BadAffinity(f"cpu_affinity = {wanted!r}: online are {online}")
    return cpus


def _pin(wanted: str) -> None:
    online = os.sched_getaffinity(0)
    cpus = cpus_for(wanted, sorted(online))
    if cpus is not None:
        command.free_cpus = frozenset(online)  # programs are not bound: a copy must not take the agent's own CPU
        os.sched_setaffinity(0, cpus)
