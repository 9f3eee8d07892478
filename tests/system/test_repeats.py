# SPDX-License-Identifier: Apache-2.0
"""Every change is asked for twice, as after an answer that was lost: the second answer is the first one, or a number
that says it is done. Through TLS, with real storage and a real VM.
"""

import shutil
from typing import Any

from demonstration import sequences
from tests.support.house import RunningHouse
from tests.system.test_refusals import World, house, judged, libvirtd, numbers_of, pytestmark, storage, world
from vdsm_mp.api.catalogue import VERBS

__all__ = ["house", "libvirtd", "pytestmark", "storage", "world"]


class Client:
    """Asks by name, and judges the second answer."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.tried: set[str] = set()

    def once(self, verb: str, **params: Any) -> int:
        """The number that the call, or its task or job, ended with; 0 = it worked."""
        self.tried.add(verb)
        if "job_id" in params:
            params = params | {"job_id": sequences.new_id()}
        return self.world.ask(VERBS[verb], params)

    def answer(self, verb: str, **params: Any) -> Any:
        self.tried.add(verb)
        return judged(VERBS[verb], self.world.client.call(verb, params, timeout_s=60))

    def twice(self, verb: str, **params: Any) -> None:
        assert (verb, self.once(verb, **params), self.once(verb, **params)) == (verb, 0, 0)

    def then(self, code: int, verb: str, **params: Any) -> None:
        """Done once; asked again, it says so by this number."""
        assert (verb, self.once(verb, **params), self.once(verb, **params)) == (verb, 0, code)


def test_what_was_done_may_be_asked_for_again(world: World, house: RunningHouse, storage: sequences.Storage) -> None:
    client = Client(world)
    on_volumes(client, world)
    on_a_vm(client, world)
    on_domains(client, house, storage)
    on_the_role(client, storage)
    print(f"{len(client.tried)} verbs")


def on_volumes(client: Client, world: World) -> None:
    volume = {name: world.good[name] for name in ("storagepoolID", "storagedomainID", "imageID", "volumeID")}
    image = {name: volume[name] for name in ("storagepoolID", "storagedomainID", "imageID")}
    div = {"sd_id": volume["storagedomainID"], "img_id": volume["imageID"], "vol_id": volume["volumeID"]}
    first = client.answer("Image.prepare", **volume)
    assert client.answer("Image.prepare", **volume) == first
    client.twice("Image.teardown", **image)
    client.twice("Volume.setDescription", **volume, description="twice")
    client.twice("Volume.setLegality", **volume, legality="LEGAL")
    client.twice("Volume.refresh", **volume)
    client.twice("Volume.extendSize", **volume, newSize=str(1 << 25))
    client.twice("SDM.clear_bitmaps", job_id="", vol_info=div)
    client.twice("SDM.update_volume", job_id="", vol_info=div, vol_attr={"description": "thrice"})
    server = {"server_id": sequences.new_id(), "config": div | {"readonly": True}}
    assert client.answer("NBD.start_server", **server) == client.answer("NBD.start_server", **server)
    client.twice("NBD.stop_server", server_id=server["server_id"])
    pool = {"storagepoolID": volume["storagepoolID"]}
    vm_id = sequences.new_id()
    client.twice("StoragePool.updateVMs", **pool, vmList=[{"vm": vm_id, "ovf": "<ovf/>"}])
    client.twice("StoragePool.removeVM", **pool, vmUUID=vm_id)
    new = {"imageID": sequences.new_id(), "volumeID": sequences.new_id(), "size": str(1 << 20), "volFormat": 5}
    blank = dict.fromkeys(("srcImgUUID", "srcVolUUID"), sequences.BLANK)
    create = volume | new | blank | {"preallocate": 2, "diskType": "DATA", "desc": ""}
    client.then(212, "Volume.create", **create)
    gone = image | {"imageID": new["imageID"], "postZero": False, "force": False}
    client.then(268, "Image.delete", **gone)


def on_a_vm(client: Client, world: World) -> None:
    vm = {"vmID": world.good["vmID"]}
    ticket = {"deviceType": "graphics", "graphicsType": "vnc", "password": "secret12", "ttl": 120, "params": {}}
    for verb, params in (
        ("VM.pause", {}),
        ("VM.cont", {}),
        ("VM.changeCD", {"driveSpec": ""}),
        ("VM.updateDevice", {"params": ticket}),
        ("VM.setTicket", {"password": "secret12", "ttl": 120, "existingConnAction": "keep", "params": {}}),
        ("VM.setBalloonTarget", {"target": 16384}),
        ("VM.updateVmPolicy", {"params": {"vcpuLimit": 50}}),
        ("VM.stop_backup", {"backup_id": sequences.new_id()}),
        ("VM.delete_checkpoints", {"checkpoint_ids": [sequences.new_id()]}),
        ("VM.setDestroyOnReboot", {}),
        ("VM.shutdown", {"delay": 0}),
    ):
        client.twice(verb, **vm, **params)
    xml = client.answer("Host.dumpxmls", vmList=[vm["vmID"]])[vm["vmID"]]
    assert client.once("VM.create", **vm, vmParams={"vmId": vm["vmID"], "xml": xml}) == 4
    client.then(1, "VM.destroy", **vm)


def on_domains(client: Client, house: RunningHouse, storage: sequences.Storage) -> None:
    path = house.root / "second"
    path.mkdir()
    shutil.chown(path, "vdsm", "kvm")
    second = sequences.Storage(str(path), pool_id=storage.pool_id)
    server = {"storagepoolID": sequences.BLANK, "domainType": 4, "connectionParams": [second.connection()]}
    assert client.answer("StoragePool.connectStorageServer", **server)[0]["status"] == 0
    assert client.answer("StoragePool.connectStorageServer", **server)[0]["status"] == 0
    create = {"storagedomainID": second.sd_id, "domainType": 4, "typeArgs": str(path), "name": "n", "domainClass": 1}
    client.then(365, "StorageDomain.create", **create, version="5")
    both = {"storagedomainID": second.sd_id, "storagepoolID": storage.pool_id}
    master = {"masterSdUUID": sequences.BLANK, "masterVersion": storage.master_version}
    client.twice("StorageDomain.attach", **both)
    client.twice("StorageDomain.activate", **both)
    client.twice("StorageDomain.setDescription", storagedomainID=second.sd_id, description="renamed")
    client.twice("StorageDomain.deactivate", **both, **master)
    client.then(353, "StorageDomain.detach", **both, **master)
    client.twice("Host.startMonitoringDomain", sdUUID=second.sd_id, hostID=1)
    client.twice("Host.stopMonitoringDomain", sdUUID=second.sd_id)
    client.then(358, "StorageDomain.format", storagedomainID=second.sd_id, autoDetach=False)
    assert client.answer("StoragePool.disconnectStorageServer", **server)[0]["status"] == 0
    assert client.answer("StoragePool.disconnectStorageServer", **server)[0]["status"] == 0


def on_the_role(client: Client, storage: sequences.Storage) -> None:
    pool = {"storagepoolID": storage.pool_id}
    host = {"hostID": storage.host_id, "scsiKey": storage.pool_id}
    master = {"masterSdUUID": storage.sd_id, "masterVersion": storage.master_version}
    client.twice("StoragePool.connect", **pool, **host, **master, domainDict={storage.sd_id: "active"})
    client.twice("StoragePool.refresh", **pool, **master)
    start = {"prevID": -1, "prevLver": "-1", "enableScsiFencing": "false", "maxHostID": 250}
    assert client.once("StoragePool.spmStart", **pool, **start) == 656
    client.then(654, "StoragePool.spmStop", **pool)
    client.then(656, "StoragePool.spmStart", **pool, **start)
    assert client.once("StoragePool.disconnect", **pool, **host) == 656
    assert client.once("StoragePool.spmStop", **pool) == 0
    client.twice("StoragePool.disconnect", **pool, **host)
    assert client.once("Task.clear", taskID=sequences.new_id()) == 401


def test_all_that_only_tells_something_tells_it_in_the_form_that_engines_read(world: World) -> None:
    """Every verb that changes nothing, with parameters that fit; a refusal is a number that it declares."""
    told = set()
    for spec in VERBS.values():
        if spec.safe and not spec.planned and not spec.internal:
            code = world.ask(spec, world.params(spec))
            assert code in {0, *(cls.code for cls in numbers_of(spec))}, spec.name
            told |= {spec.name} if code == 0 else set()
    assert len(told) > 30
