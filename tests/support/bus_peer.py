# SPDX-License-Identifier: Apache-2.0
"""A worker process for bus tests: the real bus and the handlers of `bus_verbs`, without a master.

    python -m tests.support.bus_peer RUN_DIR EPOCH TOKEN [MAX_MESSAGE_BYTES]

Writes "ready" to stdout; leaves when stdin ends.
"""

import asyncio
import sys
from pathlib import Path

from tests.support import bus_verbs
from tests.support.load import Journal
from vdsm_mp.common import log
from vdsm_mp.ipc.dispatch import Dispatch
from vdsm_mp.ipc.node import Bus


async def serve(run_dir: Path, epoch: int, token: str, max_message_bytes: int) -> None:
    bus = Bus(
        "bustest",
        run_dir,
        epoch=epoch,
        token=token,
        calls=(),
        callers=("clientif", "bustest2"),
        max_message_bytes=max_message_bytes,
    )
    world = bus_verbs.World(epoch, bus.publisher, Journal(run_dir / "journal"))
    await bus.start()
    bus.set_handlers(Dispatch("bustest", [bus_verbs.module(*bus_verbs.BUSTEST)], [world]))
    print("ready", flush=True)
    gone = asyncio.Event()
    asyncio.get_running_loop().add_reader(sys.stdin.fileno(), gone.set)
    await gone.wait()
    await bus.drain(1.0)
    await bus.stop()


def main() -> None:
    log.to_stderr()
    run_dir, epoch, token, *most = sys.argv[1:]
    asyncio.run(serve(Path(run_dir), int(epoch), token, int(most[0]) if most else 16 * 1024 * 1024))


if __name__ == "__main__":
    main()
