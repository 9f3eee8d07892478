# SPDX-License-Identifier: Apache-2.0
"""The master: check, bind the door, fork the table, keep it alive, empty it. It knows processes and nothing else.

Run by supervisord as the agent's user. Single-threaded; makes no zmq, asyncio, TLS or libvirt object while it forks, it
only loads the modules that its workers share (`workers/table.py`, PRELOAD). Exit codes:
0 asked to stop · 1 something of ours broke · 3 cannot start (nothing that trying again would mend).
"""

import argparse
import fcntl
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
from functools import partial
from pathlib import Path
from types import ModuleType

import setproctitle

import vdsm_mp
from vdsm_mp import environment, privileges
from vdsm_mp.common import config, kernel, log, program
from vdsm_mp.common.options import Config
from vdsm_mp.house import house as houses
from vdsm_mp.house import lifehooks, listener, spawn
from vdsm_mp.house.desk import Desk
from vdsm_mp.house.members import Process
from vdsm_mp.ipc import control
from vdsm_mp.workers import table
from vdsm_mp.workers.table import WorkerSpec

logger = log.named("master")

#: How often deadlines are looked at while anything is under way, and while only heartbeats could be missed.
TICK_S, REST_S = 0.2, 1.5
CANNOT_START = 3
#: supervisord tries a start again that ends within its startsecs (1), whatever exitcodes say; so we stay for longer.
OUTSTAY_SUPERVISOR_S = 1.5


class CannotStart(Exception):
    """Said once, to stderr and syslog; supervisord is told not to try again."""


def main(argv: list[str] | None = None) -> int:
    """The life of the agent; returns the exit code."""
    began = time.monotonic()
    code = _live(argv)
    if code == CANNOT_START and "SUPERVISOR_ENABLED" in os.environ:
        time.sleep(max(0.0, began + OUTSTAY_SUPERVISOR_S - time.monotonic()))
    return code


def _live(argv: list[str] | None) -> int:
    parser = argparse.ArgumentParser(prog="vdsm-mp master", description="Run the agent in the foreground.")
    parser.add_argument("--config", type=Path, help="instead of /etc/vdsm/vdsm.conf and its drop-ins")
    parser.add_argument("--table", default=table.__name__, help="module with another process table, for tests")
    asked = parser.parse_args(argv)
    build = program.build_id()  # before anything more is loaded: what lies there later may be an upgrade
    try:
        loaded = config.load(asked.config)
        lock = _check(loaded.config)
        public = listener.bind(loaded.config)
    except (CannotStart, config.ConfigError, log.LoggerConfigError, environment.BadAffinity, OSError) as error:
        for line in str(error).splitlines():
            print(f"vdsm-mp: cannot start: {line}", file=sys.stderr)
            syslog.syslog(syslog.LOG_ERR, f"cannot start: {line}")
        return CANNOT_START
    for line in loaded.notes:
        logger.warning("%s", line)
    code = _serve(
        loaded.config, asked.config or config.main_file(), public, importlib.import_module(asked.table), build
    )
    public.close()
    os.close(lock)  # held for life: the kernel lets it go with the process in any case
    return code


def _check(cfg: Config) -> int:
    """Everything that can be wrong, before anything is begun; the lock. Raises what `main` lists."""
    log.to_stderr()
    lock, faults = -1, privileges.missing(cfg)
    try:
        lock = _only_one(Path(cfg.vdsm_mp.run_dir))
    except CannotStart as error:
        faults.append(str(error))
    if faults:
        raise CannotStart("\n".join(dict.fromkeys(faults)))
    environment.apply(cfg)
    logger_conf = Path(cfg.vdsm_mp.logger_conf)
    log.configure(logger_conf, {"log_dir": cfg.vdsm_mp.log_dir})
    return lock


def _only_one(run_dir: Path) -> int:
    """Take the single-instance lock for life. Raises CannotStart, naming who has it."""
    if not run_dir.is_dir():
        raise CannotStart(f"the directory {run_dir} does not exist")
    try:
        lock = os.open(run_dir / "vdsm-mp.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
    except OSError as error:
        raise CannotStart(f"{run_dir}/vdsm-mp.lock: {error.strerror}") from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.pread(lock, 20, 0).decode(errors="replace").strip()
        raise CannotStart(f"already running pid {holder or 'unknown'}") from None
    os.ftruncate(lock, 0)
    os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)
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
    if program.build_id() != build:
        return spawn.OTHER_PROGRAM
    runner = importlib.import_module("vdsm_mp.workers.runner")
    inherited = {"public": public} if "public" in spec.inherits else {}
    place = runner.Place(config=cfg, bus_dir=bus_dir, token=token, workers=workers, inherited=inherited)
    code: int = runner.run(place, spec, epoch, pipe, stacks_fd)
    return code


def _serve(cfg: Config, read_from: Path, public: socket.socket, rows: ModuleType, build: str) -> int:
    run_dir = Path(cfg.vdsm_mp.run_dir)
    setproctitle.setproctitle("vdsm-mp: master")
    log.call_in("master")
    log.catch_uncaught(logger)
    kernel.adopt_orphans()
    bus_dir = houses.fresh_run_dir(run_dir)
    token = secrets.token_hex(32)
    (run_dir / "vdsm-mp.pid").write_text(f"{os.getpid()}\n")
    logger.info(
        "vdsm-mp %s pid=%d on %s kernel %s", vdsm_mp.__version__, os.getpid(), platform.node(), platform.release()
    )
    environment.start_coverage()
    lifehooks.run(cfg, "before_vdsm_start", lifehooks.START_S)
    for module in rows.PRELOAD:
        importlib.import_module(module)
    spawn.collect_freely()
    house = houses.House(
        rows.WORKERS,
        rows.CHILDREN,
        partial(worker_main, cfg, build, bus_dir, token, public, rows.WORKERS),
        build=build,
        config={"file": str(read_from), "digest": config.digest(cfg)},
        inherited={"public": public},
        broadcast=lambda workers: _broadcast(bus_dir, token, workers),
    )
    with selectors.DefaultSelector() as selector:
        _Loop(
            house, selector, Desk(run_dir / "control.sock", house, selector, cfg.vdsm_mp.user, cfg.vdsm_mp.group)
        ).run()
    (run_dir / "vdsm-mp.pid").unlink(missing_ok=True)
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


class _Loop:
    """Waits for signals, notes, ends and operators, and hands each to the house. One step at a time."""

    def __init__(self, house: houses.House, selector: selectors.BaseSelector, desk: Desk) -> None:
        self._house, self._selector, self._desk = house, selector, desk
        self._signals, wake = socket.socketpair()
        for end in (self._signals, wake):
            end.setblocking(False)
        self._wake = wake
        selector.register(self._signals, selectors.EVENT_READ, self._take_signals)
        signal.set_wakeup_fd(wake.fileno(), warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGCHLD):
            signal.signal(number, lambda *_: None)  # the byte on the pipe is all that is needed
        house.watch = self._watch
        house.unwatch = self._unwatch

    def run(self) -> None:
        self._house.start()
        looked_mono = time.monotonic()
        while self._house.state is not houses.HouseState.EMPTY:
            rest_s = TICK_S if self._busy else REST_S
            due_mono = min(looked_mono + rest_s, self._house.silence_mono)
            for key, _ in self._selector.select(max(0.0, due_mono - time.monotonic())):
                key.data()
            now = time.monotonic()
            if now >= due_mono or now - looked_mono >= (TICK_S if self._busy else REST_S) / 4:
                looked_mono = now
                self._house.beat(late_s=now - due_mono)
                self._desk.beat()
        self._desk.close()
        self._reap()
        signal.set_wakeup_fd(-1)
        for end in (self._signals, self._wake):
            end.close()

    @property
    def _busy(self) -> bool:
        return self._house.busy or self._desk.busy

    def _take_signals(self) -> None:
        for number in self._signals.recv(4096):
            match number:
                case signal.SIGTERM | signal.SIGINT:
                    self._house.stop()
                case signal.SIGHUP:
                    self._house.reload()
                case signal.SIGUSR1:
                    self._house.stop_spm()
        # Signals of one kind merge: a lost byte must not mean a lost child.
        self._reap()

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            self._house.process_ended(pid, status)

    def _watch(self, process: Process) -> None:
        if process.pipe is not None:
            self._selector.register(process.pipe, selectors.EVENT_READ, partial(self._read, process))

    def _unwatch(self, process: Process) -> None:
        if process.pipe is not None and process.pipe in self._selector.get_map():
            self._selector.unregister(process.pipe)

    def _read(self, process: Process) -> None:
        worker = next((w for w in self._house.workers.values() if w.process is process), None)
        if worker is None or process.pipe is None:
            return
        try:
            while (note := control.receive_in_master(process.pipe)) is not None:
                self._house.take_note(worker, note)
        except control.Gone:
            self._unwatch(process)  # its end comes as SIGCHLD; until then the pipe would only spin
        except Exception:
            logger.exception("%s sent what is not a note", worker.spec.name)
