# SPDX-License-Identifier: Apache-2.0
"""What the tests of the door share: an authority, a host's certificate, and a door with clients; and root's helpers."""

from collections.abc import Iterator

import pytest

from tests.support.certificates import Authority, make_authority
from tests.support.door import Door, open_door
from tests.support.door_answers import ANSWERS
from tests.support.roothelpers import Place, installed_helpers
from tests.support.wirepeers import EngineReader
from vdsm_mp.priv.call import SudoRoot
from vdsm_mp.wire.client import Client
from vdsm_mp.wire.tls import Files


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return make_authority(tmp_path_factory.mktemp("pki") / "ca")


@pytest.fixture(scope="module")
def files(authority: Authority) -> Files:
    return authority.issue("host", "127.0.0.1")


@pytest.fixture(scope="module")
def door(files: Files) -> Iterator[Door]:
    with open_door(files, answers=ANSWERS) as door:
        yield door


@pytest.fixture
def client(door: Door, files: Files) -> Iterator[Client]:
    with door.client(files) as client:
        yield client


@pytest.fixture
def engine(door: Door, files: Files) -> Iterator[EngineReader]:
    with EngineReader(door.address, files) as engine:
        yield engine


@pytest.fixture(scope="module")
def _installation() -> Iterator[Place]:
    with installed_helpers() as made:
        yield made


@pytest.fixture
def place(_installation: Place) -> Iterator[Place]:
    """Root's helpers, installed once a module; no test leaves anything to the next one."""
    yield _installation
    _installation.reset()


@pytest.fixture
def storage_root(place: Place) -> SudoRoot:
    return place.root_of("storage")
