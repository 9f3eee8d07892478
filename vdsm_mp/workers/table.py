# SPDX-License-Identifier: Apache-2.0
"""The process table: who is forked, what each may call, and in which order they leave. Pure data.

Read by the master (which forks), by the runner (which gives a worker its place on the bus) and by nobody else.
"""

import msgspec

#: Imported by the master right before its first fork, so that workers share these pages and start in milliseconds:
#: what every worker needs, the rooms that are large, and what each I/O child needs. Modules only: importing one of them
#: opens no socket, starts no thread and makes no zmq or TLS object (a test looks). libvirt is left out: importing it
#: initialises the library.
PRELOAD = (
    "asyncio",
    "concurrent.futures.thread",
    "encodings.ascii",
    "faulthandler",
    "xml.etree.ElementTree",
    "vdsm_mp.api.catalogue",
    "vdsm_mp.workers.runner",
    "vdsm_mp.workers.network",
    "vdsm_mp.workers.scheduler",
    "vdsm_mp.workers.storage",
    "vdsm_mp.workers.clientif",
    "vdsm_mp.storage.ioproc_server",
)


class WorkerSpec(msgspec.Struct, frozen=True):
    """One row.

    main: module with `build(config, ports) -> Room`, imported after the fork. calls: workers it may call.
    stage: order of leaving; a stage is told to leave when all before it are gone or overdue. grace_s: from being
    told to leave until SIGKILL. start_s: from the fork until ready. inherits: names of sockets the master holds.
    confined: never needs sudo, so it gives up gaining privileges for good; and holds the host's key, so it leaves no
    core file.
    """

    name: str
    main: str
    calls: tuple[str, ...] = ()
    stage: int = 0
    grace_s: float = 10.0
    start_s: float = 60.0
    inherits: tuple[str, ...] = ()
    confined: bool = False


class ChildSpec(msgspec.Struct, frozen=True):
    """A kind of process that a worker asks the master to fork: one for each `per`, ended with its owner.

    main: module with `main(sock) -> exit code`. most: how many may run at once. most_lost: how many may hang in the
    kernel, written off, before no more are made.
    """

    kind: str
    main: str
    owner: str
    per: str
    most: int = 200
    most_lost: int = 10


#: In the order of their forks: virt takes longest to be ready.
WORKERS = (
    WorkerSpec("virt", "vdsm_mp.workers.virt", calls=("storage", "network"), stage=2, grace_s=5.0),
    WorkerSpec("storage", "vdsm_mp.workers.storage", stage=3, grace_s=8.0),
    WorkerSpec("network", "vdsm_mp.workers.network", stage=2, grace_s=5.0),
    WorkerSpec("scheduler", "vdsm_mp.workers.scheduler", calls=("virt", "storage", "network"), stage=1, grace_s=3.0),
    WorkerSpec(
        "clientif",
        "vdsm_mp.workers.clientif",
        calls=("virt", "storage", "network", "scheduler"),
        stage=0,
        grace_s=4.0,
        inherits=("public",),
        confined=True,
    ),
)

CHILDREN = (ChildSpec("storage-io", "vdsm_mp.storage.ioproc_server", owner="storage", per="storage domain"),)
