# SPDX-License-Identifier: Apache-2.0
"""The shape of a log line, the TRACE level and the flow id of the call being served.

    2026-11-23 04:05:06.789 INFO  virt.lifecycle flow=1f3a VM.pause vm=1111 paused took=52ms

Where lines go is the operator's business: `/etc/vdsm/logger.conf`, read once by the master before the first fork.
Use `logger = log.named(__name__)`: the first word of the logger is the room (`storage.monitor`), so an operator can
set the level of one room in logger.conf or with Host.setLogLevel.
"""

import contextlib
import contextvars
import json
import logging
import logging.config
import logging.handlers
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType

from vdsm_mp.common import logroad

TRACE = 5

#: The correlation id of the call in progress; set by the lane that runs it, "" outside of calls.
flow: contextvars.ContextVar[str] = contextvars.ContextVar("flow", default="")

#: What `ps` and the log call this process: "master" or the name of a worker. Set once, by whoever starts it.
process_name = "master"

#: Where lines go instead of to the handlers themselves, while a house lives.
_road: logroad.Road | None = None
_configured: tuple[logging.Handler, ...] = ()

_LEVELS = {
    logging.CRITICAL: "CRIT",
    logging.ERROR: "ERROR",
    logging.WARNING: "WARN",
    logging.INFO: "INFO",
    logging.DEBUG: "DEBUG",
    TRACE: "TRACE",
}


#: Characters of a message, or of a traceback, in a JSON line.
_MOST_IN_JSON = 10_000


class LoggerConfigError(Exception):
    """logger.conf cannot be used; the sentence names the file and what is wrong."""


def named(module: str) -> logging.Logger:
    """The logger of a module: `vdsm_mp.storage.monitor` logs as `storage.monitor`."""
    for prefix in ("vdsm_mp.workers.", "vdsm_mp."):
        if module.startswith(prefix):
            return logging.getLogger(module.removeprefix(prefix))
    return logging.getLogger(module)


def know_levels() -> None:
    """Teach `logging` our level names: TRACE (5), WARN and CRIT. VDSM's logger.conf files use them."""
    for level, name in _LEVELS.items():
        logging.addLevelName(level, name)
    # fileConfig looks a level up by name; the long names stay valid.
    logging._nameToLevel.update({"WARNING": logging.WARNING, "CRITICAL": logging.CRITICAL})


def call_in(name: str) -> None:
    """Say which process this is, for the first word of each line."""
    global process_name
    process_name = name


class Formatter(logging.Formatter):
    """One line per record, as in the module docstring; a traceback follows on lines of its own."""

    def __init__(self, fmt: str | None = None, datefmt: str | None = None, style: str = "%") -> None:
        # fileConfig hands over all three; the shape is ours, so they are only accepted.
        super().__init__("%(message)s", datefmt, "%")

    def formatMessage(self, record: logging.LogRecord) -> str:
        stamp = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(record.created))
        level = _LEVELS.get(record.levelno, record.levelname)
        flow_id = flow.get()
        # A line is a line: a client's bytes must not be able to write another one.
        message = record.message.replace("\n", "\\n").replace("\r", "\\r")
        return (
            f"{stamp}.{int(record.msecs):03d} {level:<5} {_place(record.name)} "
            f"{f'flow={flow_id} ' if flow_id else ''}{message}"
        )


class JsonFormatter(logging.Formatter):
    """One JSON object a line, for collectors: time (UTC), level, logger, pid, flow (in calls), message, exception.

    Chosen in logger.conf by `formatter=json`.
    """

    def __init__(self, fmt: str | None = None, datefmt: str | None = None, style: str = "%") -> None:
        super().__init__("%(message)s", datefmt, "%")  # see Formatter

    def format(self, record: logging.LogRecord) -> str:
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        line = {
            "time": f"{stamp}.{int(record.msecs):03d}Z",
            "level": _LEVELS.get(record.levelno, record.levelname),
            "logger": _place(record.name),
            "pid": record.process,
        }
        if flow_id := flow.get():
            line["flow"] = flow_id
        # The writer cuts what is very long, and half an object is none.
        line["message"] = record.getMessage()[:_MOST_IN_JSON]
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)[-_MOST_IN_JSON:]
        return json.dumps(line)


def _place(logger: str) -> str:
    name = logger.removeprefix("vdsm_mp.").removeprefix("workers.")
    if name == "root":
        return process_name
    return name if name.partition(".")[0] == process_name else f"{process_name}.{name}"


def to_stderr(level: int = logging.INFO) -> None:
    """Log to stderr only: before logger.conf is read, in tools, and in tests."""
    know_levels()
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(Formatter())
    logging.basicConfig(level=level, handlers=[handler], force=True)


def configure(path: Path, values: Mapping[str, str]) -> None:
    """Read logger.conf. `values` are what it may refer to as %(log_dir)s and the like.

    Raises LoggerConfigError: the file is missing, is not in fileConfig's format, names an unknown class or level,
    or a log file cannot be opened.
    """
    know_levels()
    if not path.is_file():
        raise LoggerConfigError(f"{path}: there is no such file")
    try:
        logging.config.fileConfig(path, defaults=dict(values), disable_existing_loggers=False)
    except Exception as error:
        raise LoggerConfigError(f"{path}: {type(error).__name__}: {error}") from error
    global _configured
    _configured = tuple(handlers())
    for number, handler in enumerate(_configured):
        _outlive_trouble(handler)
        _by_road(handler, number)


def _by_road(handler: logging.Handler, number: int) -> None:
    """While there is a road, a line is made here and written elsewhere."""
    write = handler.emit

    def emit(record: logging.LogRecord) -> None:
        if _road is None:
            write(record)
        else:
            _road.send(number, record, handler.format)

    handler.emit = emit  # type: ignore[method-assign]


def take(road: logroad.Road | None) -> None:
    """From now on this process, and all that it forks, sends its lines down the road; None: it writes them itself."""
    global _road
    _road = road
    if road is not None:
        _close_files()  # a rotated file must not be kept from the disk by processes that do not write


def write_from(road: logroad.Road) -> None:
    """The writer's work, see `Road.write_all`."""
    road.write_all(_configured, reopen)


def descriptors() -> set[int]:
    """What a forked process needs for its lines."""
    # Looking for handlers at every logger would cost each process a copy of the page where that lies.
    used = _configured or handlers()
    streams = [getattr(handler, "stream", None) or getattr(handler, "socket", None) for handler in used]
    found = {stream.fileno() for stream in streams if stream is not None and hasattr(stream, "fileno")}
    return found if _road is None else found | {_road.start.fileno()}


def _outlive_trouble(handler: logging.Handler) -> None:
    """Let nothing end because a line cannot be written (folder gone, without rights, full): lines are lost, counted,
    and their number is the first line that can be written again."""
    emit, tell = handler.emit, handler.handleError
    lost = 0

    def emit_or_count(record: logging.LogRecord) -> None:
        nonlocal lost
        before = lost
        try:
            emit(record)
        except OSError:
            lost += 1
        if before and lost == before:
            lost = 0
            words = "%d lines before this one could not be written"
            emit(logging.LogRecord(record.name, logging.WARNING, __file__, 0, words, (before,), None))

    def count_or_tell(record: logging.LogRecord) -> None:
        nonlocal lost
        if isinstance(sys.exc_info()[1], OSError):
            lost += 1
        else:
            tell(record)

    handler.emit = emit_or_count  # type: ignore[method-assign]
    handler.handleError = count_or_tell  # type: ignore[method-assign]


def set_level(name: str, level: str) -> bool:
    """Change the level of a logger ("" = of all that have none of their own) in this process. False: no such level."""
    number = logging.getLevelName(level.upper())
    if not isinstance(number, int):
        return False
    logging.getLogger(name or None).setLevel(number)
    return True


def reopen() -> None:
    """Open all log files again (SIGHUP), whether or not they were replaced."""
    if _road is None:
        _close_files()
    elif process_name == "master":
        _road.reopen()


def _close_files() -> None:
    """They are opened again for the next line."""
    for handler in handlers():
        if isinstance(handler, logging.FileHandler):
            handler.acquire()
            try:
                with contextlib.suppress(OSError):  # what a full disk has not taken yet is lost, and counted
                    handler.close()
                handler.stream = None
            finally:
                handler.release()


def handlers() -> list[logging.Handler]:
    """Every handler that is in use."""
    found = list(logging.getLogger().handlers)
    for logger in list(logging.getLogger().manager.loggerDict.values()):
        if isinstance(logger, logging.Logger):
            found += [h for h in logger.handlers if h not in found]
    return found


def catch_uncaught(logger: logging.Logger) -> None:
    """Send exceptions that nobody caught, in any thread or destructor, to the log instead of a bare stderr."""
    import threading

    def main_hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        logger.critical("uncaught exception", exc_info=(kind, error, trace))

    def thread_hook(args: "threading.ExceptHookArgs") -> None:
        if args.exc_value is not None:
            trace = (args.exc_type, args.exc_value, args.exc_traceback)
            logger.error("uncaught exception in thread %s", args.thread and args.thread.name, exc_info=trace)

    def unraisable_hook(args: "sys.UnraisableHookArgs") -> None:
        error = args.exc_value
        info = (args.exc_type, error, args.exc_traceback) if error is not None else None
        logger.error("uncaught exception in %r: %s", args.object, args.err_msg or "", exc_info=info)

    sys.excepthook = main_hook
    threading.excepthook = thread_hook
    hook: Callable[[sys.UnraisableHookArgs], object] = unraisable_hook
    sys.unraisablehook = hook
