# SPDX-License-Identifier: Apache-2.0
"""The storage worker of a house under test: its ovirt-imageio is who listens on `imageio` in its state directory."""

from msgspec.structs import replace

from vdsm_mp.api.ports import Ports
from vdsm_mp.common.options import Config
from vdsm_mp.storage.image_transfer import ImageDaemon
from vdsm_mp.workers import storage
from vdsm_mp.workers.base import Room

SOCKET = "imageio"


def build(config: Config, ports: Ports) -> Room:
    room = storage.build(config, ports)
    daemon = ImageDaemon(f"{config.vdsm_mp.state_dir}/{SOCKET}")
    return replace(room, state=tuple(daemon if isinstance(one, ImageDaemon) else one for one in room.state))
