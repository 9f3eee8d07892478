# SPDX-License-Identifier: Apache-2.0
"""The master: check, bind the door, fork the table, keep it alive, empty it. It knows processes and nothing else.

Run by supervisord as the agent's user. Single-threaded; makes no zmq, asyncio, TLS or libvirt object while it forks, it
only loads the modules that its workers share (`workers/table.py`, PRELOAD). Exit codes:
0 asked to stop · 1 something of ours broke, or what keeps us from starting may pass · 3 cannot start (nothing that
trying again would mend).
"""

import argparse
import contextlib
import importlib
import os
import platform
import secrets
import selectors
import signal
import socket
import sys
import syslog
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from types import ModuleType

import setproctitle

import vdsm_mp
from vdsm_mp import environment, privileges
from vdsm_mp.common import config, kernel, log, program
from vdsm_mp.common.options import Config
from vdsm_mp.house import claim, lifehooks, listener, spawn
from vdsm_mp.house import house as houses
from vdsm_mp.house.claim import CannotStart
from vdsm_mp.house.desk import Desk
from vdsm_mp.house.logwriter import LogWriter
from vdsm_mp.house.loop import Loop
from vdsm_mp.house.premises import Premises
from vdsm_mp.priv.systemlog import SystemLog
from vdsm_mp.workers import table
from vdsm_mp.workers.table import WorkerSpec

logger = log.named("master")

TRY_AGAIN, CANNOT_START = 1, 3
#: supervisord tries a start again that ends within its startsecs (1), whatever exitcodes say; so we stay for longer.
OUTSTAY_SUPERVISOR_S = 1.5
#: What may pass is tried again for ever, this often.
PAUSE_S = 10.0
SUPERVISED = "SUPERVISOR_ENABLED" in os.environ


class ToldToStop(BaseException):
    """SIGTERM or SIGINT before the house lives: whatever was begun is put down on the way out."""


def main(argv: list[str] | None = None) -> int:
    """The life of the agent; returns the exit code."""
    began = time.monotonic()
    environment.shed_inheritance()
    _listen_to_signals()
    try:
        with contextlib.ExitStack() as held:
            try:
                serve = _begin(argv, held)
            except (CannotStart, config.ConfigError, log.LoggerConfigError, environment.BadAffinity, OSError) as error:
                again = SUPERVISED and _may_pass(error)
                _say(str(error), again)
            else:
                return serve()
        if SUPERVISED:
            time.sleep(max(0.0, began + (PAUSE_S if again else OUTSTAY_SUPERVISOR_S) - time.monotonic()))
    except ToldToStop:
        return 0
    return TRY_AGAIN if again else CANNOT_START


def _listen_to_signals() -> None:
    """Until the loop takes them over: no log file to open again and no role to give up, so those are nothing yet."""

    def leave(*_: object) -> None:
        raise ToldToStop

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, leave)
    for number in spawn.MEANT_FOR_THE_MASTER:
        signal.signal(number, lambda *_: None)


def _say(faults: str, again: bool) -> None:
    """To stderr, which supervisord keeps, and to syslog."""
    log = SystemLog("vdsm-mp")
    for fault in faults.splitlines():
        line = f"cannot start: {fault}" + (f"; tried again in {PAUSE_S:g} s" if again else "")
        print(f"vdsm-mp: {line}", file=sys.stderr, flush=True)
        log.say(syslog.LOG_ERR, line)
    log.close()


def _may_pass(error: Exception) -> bool:
    cause = error if isinstance(error, OSError) else error.__cause__
    passes: bool = getattr(error, "may_pass", False)
    return passes or (isinstance(cause, OSError) and cause.errno in claim.MAY_PASS)


def _begin(argv: list[str] | None, held: contextlib.ExitStack) -> Callable[[], int]:
    """Everything that can keep the agent from starting, which it raises; returns the rest of its life.

    held: what has to be let go afterwards, however that ends.
    """
    parser = argparse.ArgumentParser(prog="vdsm-mp master", description="Run the agent in the foreground.")
    parser.add_argument("--config", type=Path, help="instead of /etc/vdsm/vdsm.conf and its drop-ins")
    parser.add_argument("--table", default=table.__name__, help="module with another process table, for tests")
    asked = parser.parse_args(argv)
    build = program.build_id()  # before anything more is loaded: what lies there later may be an upgrade
    loaded = config.load(asked.config)
    rows = importlib.import_module(asked.table)
    lock = _check(loaded.config, rows.PRELOAD)
    held.callback(os.close, lock)
    public = held.enter_context(listener.bind(loaded.config))
    for line in loaded.notes:
        logger.warning("%s", line)
    origin = {"file": str(asked.config or config.main_file()), "digest": config.digest(loaded.config)}
    return _furnish(loaded.config, origin, public, rows, build, lock, held)


def _check(cfg: Config, modules: tuple[str, ...]) -> int:
    """Everything that can be wrong, before anything is begun; the lock. Raises what `main` lists.

    modules: what workers share; loaded while sudo takes its time.
    """
    log.to_stderr()
    with privileges.asking_root(cfg.vdsm_mp.libexec_dir) as answer:
        lock, faults = -1, privileges.missing(cfg)
        if Path(cfg.vdsm_mp.run_dir).is_dir():  # else that has been said
            try:
                lock = claim.lock(Path(cfg.vdsm_mp.run_dir))
            except CannotStart as error:
                faults.append(privileges.Missing(str(error), error.may_pass))
        if not faults:
            environment.start_coverage()
            for module in modules:
                importlib.import_module(module)
        faults += answer()
    if faults:
        if lock >= 0:
            os.close(lock)  # under supervisord we stay for ten seconds, and nobody else may have to wait for that
        raise CannotStart("\n".join(fault.says for fault in faults), may_pass=all(fault.may_pass for fault in faults))
    environment.apply(cfg)
    log.configure(Path(cfg.vdsm_mp.logger_conf), {"log_dir": cfg.vdsm_mp.log_dir})
    return lock


def worker_main(
    cfg: Config,
    build: str,
    bus_dir: Path,
    token: str,
    public: socket.socket,
    workers: tuple[WorkerSpec, ...],
    spec: WorkerSpec,
    epoch: int,
    pipe: socket.socket,
    stacks_fd: int,
) -> int:
    """The child half of a fork. zmq and asyncio begin to live here, but nothing of another program than ours."""
    if epoch > 1 and program.build_id() != build:  # for the first ones the master has looked
        return spawn.OTHER_PROGRAM
    runner = importlib.import_module("vdsm_mp.workers.runner")
    inherited = {"public": public} if "public" in spec.inherits else {}
    place = runner.Place(config=cfg, bus_dir=bus_dir, token=token, workers=workers, inherited=inherited)
    code: int = runner.run(place, spec, epoch, pipe, stacks_fd)
    return code


def _furnish(
    cfg: Config,
    origin: Mapping[str, str],
    public: socket.socket,
    rows: ModuleType,
    build: str,
    lock: int,
    held: contextlib.ExitStack,
) -> Callable[[], int]:
    """The house with all it needs, but still empty; returns its life. Raises CannotStart."""
    run_dir = Path(cfg.vdsm_mp.run_dir)
    setproctitle.setproctitle("vdsm-mp: master")
    log.call_in("master")
    log.catch_uncaught(logger)
    kernel.adopt_orphans()
    bus_dir = held.enter_context(claim.bus_dir(run_dir))
    held.enter_context(claim.pid_file(run_dir))
    token = secrets.token_hex(32)
    logger.info(
        "vdsm-mp %s pid=%d on %s kernel %s", vdsm_mp.__version__, os.getpid(), platform.node(), platform.release()
    )
    lifehooks.run(cfg, "before_vdsm_start", lifehooks.START_S)
    if program.build_id() != build:
        raise CannotStart("another program is being installed", may_pass=True)
    spawn.collect_freely()
    log_writer = LogWriter()
    held.callback(log_writer.close)
    house = houses.House(
        rows.WORKERS,
        rows.CHILDREN,
        partial(worker_main, cfg, build, bus_dir, token, public, rows.WORKERS),
        build=build,
        config=origin,
        inherited={"public": public},
        log_writer=log_writer,
        broadcast=lambda workers: _broadcast(bus_dir, token, workers),
    )
    house.incarnations.bus_dir = bus_dir
    house.cores = environment.cores_dir(cfg) if cfg.vars.core_dump_enable else None
    house.supervisor_pid = os.getppid() if SUPERVISED else 0
    selector = held.enter_context(selectors.DefaultSelector())
    with claim.needing(run_dir / "control.sock"):
        desk = Desk(run_dir / "control.sock", house, selector, cfg.vdsm_mp.user, cfg.vdsm_mp.group)
    looks = Premises(
        run_dir,
        bus_dir,
        lock,
        house,
        desk,
        lambda: [*privileges.missing_below_run(cfg), *house.ground.program_missing()],
    )
    return partial(_serve, cfg, house, Loop(house, selector, desk, looks))


def _serve(cfg: Config, house: houses.House, loop: Loop) -> int:
    loop.run()
    lifehooks.run(cfg, "after_vdsm_stop", lifehooks.STOP_S)
    logger.info("stopped, exit %d", house.verdict)
    environment.save_coverage()
    return house.verdict


def _broadcast(bus_dir: Path, token: str, workers: list[tuple[str, int]]) -> None:
    """From here on nothing is forked any more, so zmq may be used."""
    try:
        importlib.import_module("vdsm_mp.ipc.shutdown").broadcast(bus_dir, token, workers)
    except Exception:
        # The same note is on every pipe: stopping goes on without the broadcast.
        logger.exception("prepareForShutdown could not be broadcast")
