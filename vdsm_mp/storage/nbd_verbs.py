# SPDX-License-Identifier: Apache-2.0
"""Handlers of NBD.*: a volume for a local backup program."""

from vdsm_mp.api.errors_volume import BitmapDoesNotExist
from vdsm_mp.api.nbd import StartNbdServer, StopNbdServer
from vdsm_mp.api.verb import handles
from vdsm_mp.storage import bitmaps, qemuimg
from vdsm_mp.storage.image_prepare import check_chain
from vdsm_mp.storage.qemunbd import Export, NbdServers
from vdsm_mp.storage.volume_access import Volumes
from vdsm_mp.storage.volume_file import read_image, volume_path
from vdsm_mp.storage.volume_spec import QEMU_FORMAT


@handles(StartNbdServer)
def start(volumes: Volumes, servers: NbdServers, ask: StartNbdServer) -> str:
    config = ask.config
    domain = volumes.domains.find(config.sd_id)
    with volumes.using(f"nbd {ask.server_id}", domain, config.image_id):
        image = read_image(domain, config.image_id)
        chain = image.chain_to(config.volume_id)
        check_chain(domain, image, chain)
        layers = [
            (domain.io.path_of(volume_path(config.image_id, one)), QEMU_FORMAT[image.metadata(one).format])
            for one in (chain if config.backing_chain else [config.volume_id])
        ]
        if config.bitmap is not None:
            path, fmt = layers[-1]
            if fmt != "qcow2" or config.bitmap not in bitmaps.usable(qemuimg.info(path, fmt).bitmaps):
                raise BitmapDoesNotExist(config.bitmap, config.volume_id)
        export = Export(layers, config.readonly, config.discard, config.detect_zeroes, config.bitmap)
        return servers.start(ask.server_id, export)


@handles(StopNbdServer)
def stop(servers: NbdServers, ask: StopNbdServer) -> None:
    servers.stop(ask.server_id)
