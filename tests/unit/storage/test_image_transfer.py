# SPDX-License-Identifier: Apache-2.0
"""Image tickets, against a small daemon that keeps them as ovirt-imageio's control socket does (`imagedaemon`)."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import imagedaemon
from vdsm_mp.api.errors_volume import ImageDaemonRefused, ImageDaemonUnreachable
from vdsm_mp.api.image_transfer import AddImageTicket, ExtendImageTicket, GetImageTicket, RemoveImageTicket, Ticket
from vdsm_mp.storage import image_transfer
from vdsm_mp.storage.image_transfer import ImageDaemon

ID = "11111111-aaaa-4bbb-8ccc-111111111111"


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[ImageDaemon]:
    server = imagedaemon.ImageDaemon(tmp_path / "sock")
    yield ImageDaemon(str(server.path))
    server.stop()


TICKET = Ticket(uuid=ID, url="file:///a", size=1 << 20, ops=["read"], timeout=300, sparse=True)


def test_a_ticket_is_added_seen_prolonged_and_taken_back(daemon: ImageDaemon) -> None:
    image_transfer.add(daemon, AddImageTicket(ticket=TICKET))
    assert image_transfer.get(daemon, GetImageTicket(uuid=ID)) == {
        "uuid": ID,
        "url": "file:///a",
        "size": 1 << 20,
        "ops": ["read"],
        "timeout": 300,
        "sparse": True,
        "active": False,
    }
    image_transfer.extend(daemon, ExtendImageTicket(uuid=ID, timeout=600))
    assert image_transfer.get(daemon, GetImageTicket(uuid=ID))["timeout"] == 600
    for _ in range(2):
        image_transfer.remove(daemon, RemoveImageTicket(uuid=ID))
    with pytest.raises(ImageDaemonRefused) as e:
        image_transfer.get(daemon, GetImageTicket(uuid=ID))
    assert (e.value.code, "404" in str(e.value)) == (482, True)


def test_without_the_daemon_that_is_what_is_said(tmp_path: Path) -> None:
    with pytest.raises(ImageDaemonUnreachable) as e:
        image_transfer.add(ImageDaemon(str(tmp_path / "nobody")), AddImageTicket(ticket=TICKET))
    assert e.value.code == 481
