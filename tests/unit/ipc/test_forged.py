# SPDX-License-Identifier: Apache-2.0
"""What comes over the wire and is not a call of this house is not served."""

import time
from pathlib import Path
from typing import Any

import pytest
import zmq

from tests.support.bus import TOKEN, bus, eventually, run, served
from tests.support.bus_verbs import Change
from vdsm_mp.ipc.envelope import BUS_VERSION, Request, Seal


def raw_dealer(context: "zmq.Context[zmq.Socket[bytes]]", path: Path) -> "zmq.Socket[bytes]":
    dealer = context.socket(zmq.DEALER)
    dealer.setsockopt(zmq.LINGER, 0)
    dealer.connect(f"ipc://{path}/bustest.1.call")
    return dealer


def request(**changes: Any) -> Request:
    until = time.monotonic() + 10
    fields: dict[str, Any] = {
        "version": BUS_VERSION,
        "kind": "call",
        "id": 1,
        "sender": "clientif",
        "epoch": 1,
        "to": "bustest",
        "verb": "bustest.change",
        "deadline": until,
        "flow": "",
        "peer": "",
    }
    return Request(**{**fields, **changes})


def test_forged_and_misdirected_messages_are_not_served(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    body = b'{"token":"forged"}'
    good = Seal(TOKEN)

    async def main() -> None:
        async with served(tmp_path) as (client, server):
            with zmq.Context() as context:
                dealer = raw_dealer(context, tmp_path)
                dealer.send_multipart([Seal("guessed").close(request(), body), body])
                dealer.send_multipart([good.close(request(), b'{"token":"another"}'), body])
                dealer.send_multipart([good.close(request(to="storage"), body), body])
                dealer.send_multipart([b"", b""])
                dealer.send_multipart([b"one frame"])
                dealer.send_multipart([b"far", b"too", b"many", b"frames"] * 50)
                await eventually(lambda: server.vitals().get("refused") == 5)
                assert await client.ask(Change(token="forged")) == 1
                dealer.close()

    run(main())
    assert "wrong seal" in caplog.text


def test_a_worker_of_another_bus_version_is_answered_by_name(tmp_path: Path) -> None:
    async def main() -> None:
        async with served(tmp_path):
            with zmq.Context() as context:
                dealer = raw_dealer(context, tmp_path)
                dealer.send_multipart([Seal(TOKEN).close(request(version=2, id=77), b""), b""])
                await eventually(lambda: dealer.poll(0))
                frame, body = dealer.recv_multipart()
                assert b",77," in frame
                assert b"bus version 2, ours is 1" in body
                dealer.close()

    run(main())


def test_an_expired_request_is_not_run(tmp_path: Path) -> None:
    body = b'{"token":"late"}'

    async def main() -> None:
        async with served(tmp_path) as (client, server):
            with zmq.Context() as context:
                dealer = raw_dealer(context, tmp_path)
                frame = Seal(TOKEN).close(request(deadline=time.monotonic() - 1), body)
                dealer.send_multipart([frame, body])
                await eventually(lambda: server.vitals().get("expired") == 1)
                assert await client.ask(Change(token="late")) == 1
                dealer.close()

    run(main())


def test_a_directory_that_others_may_enter_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)

    async def main() -> None:
        with pytest.raises(PermissionError, match="0700"):
            async with bus(tmp_path):
                raise AssertionError

    run(main())
