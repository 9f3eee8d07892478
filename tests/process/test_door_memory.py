# SPDX-License-Identifier: Apache-2.0
"""What a client leaves behind: nothing, without waiting for the garbage collector, which may come minutes later."""

import gc
import json
import weakref
from collections.abc import Iterator

import pytest

from tests.support.door import always, open_door
from tests.support.eventually import eventually
from vdsm_mp.wire.client import Client


@pytest.fixture
def no_collector() -> Iterator[None]:
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


@pytest.mark.parametrize("road", ["gone", "dropped"])
def test_a_session_is_freed_when_its_client_has_left(no_collector: None, road: str) -> None:
    with open_door(None, answers={"Host.getStats": always({"a": 1})}) as door:
        client = Client("127.0.0.1", door.port, context=None)
        client.subscribe()
        assert client.call("Host.ping2") is True
        assert json.loads(client.call_raw("Host.getStats", b"{}")) == {"a": 1}
        (known,) = door.call(lambda: [weakref.ref(session) for session in door.server._stomp_sessions()])
        assert known() is not None and known()._heartbeats._beat is not None, "a timer that could keep it"
        if road == "dropped":
            door.call(lambda: known().drop("the test wants it"))
        client.close()
        eventually(lambda: known() is None)
