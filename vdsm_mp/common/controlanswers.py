# SPDX-License-Identifier: Apache-2.0
"""The master's answers, checked like any input: the agent that runs may be older or newer than the program that asks.

For the command line and supervisorctl; apart from `controlsocket`, which the master imports. Members that nobody reads
are let through, so that a newer agent may tell more.
"""

from typing import Any, NotRequired, TypedDict, TypeVar, cast

import msgspec

from vdsm_mp.common.controlsocket import OTHER_VERSION, Refused, ask

#: A restart is answered when the worker is ready again, a look when the worker has answered.
_PATIENCE_S = 120.0

_Answer = TypeVar("_Answer")


class Bus(TypedDict, total=False):
    """lanes: {lane: its numbers}. stuck: a sentence for each call that hangs."""

    lanes: dict[str, dict[str, Any]]
    stuck: list[str]


class Vitals(TypedDict, total=False):
    """What a worker says of itself; empty until it has said something. problems: sentences."""

    problems: list[str]
    bus: Bus


class Worker(TypedDict):
    """One row of the process table."""

    pid: int | None
    state: str
    uptime_s: float | None
    restarts: int
    degraded: bool
    last_death: str | None
    last_death_ago_s: NotRequired[float | None]
    next_start_in_s: NotRequired[float]
    last_heartbeat_ago_s: float | None
    loop_late_s: NotRequired[float]
    rss_kib: int
    pss_kib: int
    vitals: Vitals


class Child(TypedDict):
    """A process for one file domain, or one that was written off."""

    kind: str
    name: str
    pid: int


class LogWriter(TypedDict):
    stuck: bool


class ReadConfig(TypedDict):
    """Which configuration the agent has read."""

    file: str
    digest: str


class House(TypedDict):
    """The answer to `status` (`house/status.py`). What may be missing came with a later version."""

    version: str
    pid: int
    state: str
    verdict: str
    uptime_s: float
    rss_kib: int
    pss_kib: int
    workers: dict[str, Worker]
    children: list[Child]
    lost: list[Child]
    log: NotRequired[LogWriter]
    premises_problem: NotRequired[str]
    abandoned: NotRequired[bool]
    program: NotRequired[str]
    build: NotRequired[str]
    config: NotRequired[ReadConfig]


class Restarted(TypedDict):
    worker: str
    ready_after_s: float


def status(run_dir: str) -> House:
    """All that the master tells of its house. Raises: as `ask`, so do the others here."""
    return _checked(ask(run_dir, "status"), House)


def restart(run_dir: str, worker: str) -> Restarted:
    """When the worker is ready again."""
    return _checked(ask(run_dir, "restart", timeout_s=_PATIENCE_S, worker=worker), Restarted)


def stop(run_dir: str) -> str:
    return _checked(ask(run_dir, "stop"), str)


def look(run_dir: str, do: str, **more: Any) -> str:
    """do: "stacks", "profile" or "trace". more: worker, seconds."""
    return _checked(ask(run_dir, do, timeout_s=_PATIENCE_S, **more), str)


def _checked(answer: Any, shape: type[_Answer]) -> _Answer:
    """The answer as it came, with all that it told."""
    try:
        msgspec.convert(answer, shape)
    except msgspec.ValidationError as error:
        raise Refused(f"{OTHER_VERSION} ({error})") from error
    return cast(_Answer, answer)
