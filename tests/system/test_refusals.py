# SPDX-License-Identifier: Apache-2.0
"""What is asked for something that is not there, or of the wrong host, through TLS: whole classes of verbs at a time.

Each class is derived from the declarations, so a new verb is tried as soon as it is declared. What is answered must be
a number that the declaration names; what a verb declares for its class must be answered.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import libvirt
import msgspec
import pytest
from msgspec import inspect

from demonstration import sequences
from tests.support import decode
from tests.support.eventually import eventually
from tests.support.house import RunningHouse
from tests.support.libvirtd import PrivateLibvirtd
from tests.support.needs import needs_program, needs_root
from tests.system.test_sequences import boot_vm, house, libvirtd, put_boot_sector, storage
from vdsm_mp.api.catalogue import VERBS
from vdsm_mp.api.errors import RemoteError
from vdsm_mp.api.errors_storage import NotSpm, PoolNotConnected
from vdsm_mp.api.errors_virt import NoSuchVm, VmIsDown
from vdsm_mp.api.verb import VerbSpec
from vdsm_mp.tool import failures
from vdsm_mp.wire.client import Client

pytestmark = [
    pytest.mark.system,
    pytest.mark.timeout(240),
    needs_root(),
    needs_program("libvirtd", "qemu-system-x86_64", "qemu-img", "sudo", "unshare", "nsenter"),
]

__all__ = ["house", "libvirtd", "storage"]  # fixtures of the day of an engine

NOBODY = "deadbeef-0000-4000-8000-00000000dead"
BUILT = [spec for spec in VERBS.values() if not spec.planned and not spec.internal]
IMAGE, VOLUME = ("imageID", "img_id"), ("volumeID", "vol_id", "top_id", "base_id", "leafVolID")
POOL, DOMAIN = ("storagepoolID",), ("storagedomainID", "sd_id")

#: What a verb looks at before it looks for the thing that is not there.
MORE: dict[str, dict[str, Any]] = {
    "VM.getExternalData": {"kind": "tpm"},
    "VM.hibernate": {"hibernationVolHandle": ",".join([NOBODY] * 6)},
    "VM.migrate": {"params": {"dst": "127.0.0.1:54321"}},
    "VM.updateDevice": {"params": {"deviceType": "graphics", "graphicsType": "vnc", "password": "x", "ttl": 1}},
    "Image.move": {"operation": 1},
    "Image.syncData": {"syncType": "ALL"},
    "Image.download": {"methodArgs": {"method": "http", "url": "http://127.0.0.1:9/"}},
    "Image.upload": {"methodArgs": {"method": "http", "url": "http://127.0.0.1:9/"}},
    "SDM.amend_volume": {"qcow2_attr": {"compat": "1.1"}},
    "Volume.copy": {"volType": 8, "volFormat": 4, "preallocate": 2},
    "Volume.create": {"volFormat": 4, "preallocate": 2, "diskType": "DATA", "size": "1048576"},
    "Volume.measure": {"dstVolFormat": 4},
    "Volume.setLegality": {"legality": "LEGAL"},
    "Volume.extendSize": {"newSize": "33554432"},
    "StoragePool.upgrade": {"targetDomVersion": 5},
}  # fmt: skip
#: What a verb answers on a host that lacks the program it needs.
NO_PROGRAM = {"SDM.sparsify_volume": (250,)}
#: They would end or change what the others need, whatever they are given.
NOT_HERE = {"StoragePool.destroy", "StorageDomain.format", "StoragePool.spmStop", "Host.setupNetworks"}


@dataclass
class World:
    """One house with a pool, two disks and a VM; what was answered is kept for the comparison with what is declared."""

    client: Client
    good: dict[str, Any]
    more: dict[str, dict[str, Any]]
    seen: dict[str, set[int]] = field(default_factory=dict)

    def params(self, spec: VerbSpec) -> dict[str, Any]:
        info = inspect.type_info(spec.message)
        assert isinstance(info, inspect.StructType)
        wanted = {f.encode_name for f in info.fields if f.required}
        whole = {f.encode_name: self._value(f.type, f.encode_name) for f in info.fields if f.encode_name in wanted}
        return whole | json.loads(json.dumps(self.more.get(spec.name, {})))

    def _value(self, info: inspect.Type, name: str) -> Any:
        if name in self.good:
            return self.good[name]
        match info:
            case inspect.StructType():
                return {f.encode_name: self._value(f.type, f.encode_name) for f in info.fields if self._needed(f)}
            case inspect.UnionType():
                return self._value(next(t for t in info.types if not isinstance(t, inspect.NoneType)), name)
            case inspect.ListType():
                return [self._value(info.item_type, name)]
            case inspect.IntType():
                return 1
            case inspect.BoolType():
                return False
            case inspect.StrType():
                return sequences.new_id() if info.pattern else "1"
            case inspect.Metadata():
                return self._value(info.type, name)
            case _:
                return {}

    def _needed(self, one: inspect.Field) -> bool:
        return one.required or one.encode_name in self.good

    def ask(self, spec: VerbSpec, params: dict[str, Any]) -> int:
        """The number that a call, or the task or job it began, ended with; 0 = it worked."""
        code = self._ask(spec, params)
        self.seen.setdefault(spec.name, set()).add(code)
        return code

    def _ask(self, spec: VerbSpec, params: dict[str, Any]) -> int:
        try:
            result = self.client.call(spec.name, params, timeout_s=60)
        except RemoteError as error:
            return error.code
        judged(spec, result)
        if spec.later and "job_id" in params:
            return self._job(params["job_id"])
        return self._task(result) if spec.later and isinstance(result, str) else 0

    def _task(self, task_id: str) -> int:
        def over() -> Any:
            status = self.client.call("Task.getStatus", {"taskID": task_id}, timeout_s=10)
            return status if status["taskState"] == "finished" else None

        status = eventually(over, within_s=30)
        self.client.call("Task.clear", {"taskID": task_id}, timeout_s=10)
        return int(status["code"])

    def _job(self, job_id: str) -> int:
        def over() -> Any:
            job = self.client.call("Host.getJobs", {"job_ids": [job_id]}, timeout_s=10).get(job_id)
            return job if job and job["status"] in ("done", "failed", "aborted") else None

        return int(eventually(over, within_s=30).get("error", {}).get("code", 0))

    def without(self, names: tuple[str, ...]) -> Iterator[tuple[VerbSpec, str, int]]:
        """Every verb that takes one of these parameters, asked with an id that nobody has."""
        for spec in BUILT:
            if spec.name.startswith("ManagedVolume."):
                continue  # their volumes are of no pool and no domain, and not looked for
            whole = self.params(spec)
            for path in places(whole, names) if spec.name not in NOT_HERE else ():
                if "job_id" in whole:
                    whole["job_id"] = sequences.new_id()
                yield spec, path[-1], self.ask(spec, with_nobody(whole, path))


def judged(spec: VerbSpec, result: Any) -> Any:
    """The result, which is what the declaration says and what an engine can read."""
    if spec.reply is None:
        decode.check_true(result)
    else:
        msgspec.convert(result, spec.reply)
    return decode.CHECKS.get(spec.name, lambda fine: fine)(result)


def places(whole: dict[str, Any], names: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    for name, value in whole.items():
        if name in names:
            yield (name,)
        if isinstance(value, dict):
            yield from ((name, *rest) for rest in places(value, names))


def with_nobody(whole: dict[str, Any], path: tuple[str, ...]) -> dict[str, Any]:
    changed: dict[str, Any] = json.loads(json.dumps(whole))
    at = changed
    for step in path[:-1]:
        at = at[step]
    at[path[-1]] = NOBODY
    return changed


@pytest.fixture
def world(house: RunningHouse, libvirtd: PrivateLibvirtd, storage: sequences.Storage) -> World:
    client = house.client()

    def ask(verb: str, /, **params: Any) -> Any:
        return client.call(verb, params, timeout_s=120)

    sequences.from_nothing(ask, storage, "refusals")
    sequences.wait_for_domain(ask, storage.sd_id)
    disk = sequences.Disk(storage, size_bytes=1 << 20, form=sequences.RAW)
    other = sequences.Disk(storage, size_bytes=1 << 24)
    for one in (disk, other):
        sequences.create_disk(ask, one)
    put_boot_sector(storage, disk)
    vm = boot_vm(type("Asks", (), {"ask": staticmethod(ask)}), disk, libvirtd.root / f"c-{disk.image_id[:8]}.log")  # type: ignore[arg-type]
    sequences.wait_for_status(ask, vm.vm_id, "Powering up", "Up")
    good = {"vmID": vm.vm_id, **dict.fromkeys(POOL, storage.pool_id), **dict.fromkeys(DOMAIN, storage.sd_id)}
    good["connectionParams"] = [{"id": sequences.new_id(), "connection": "/nowhere"}]
    good |= dict.fromkeys(IMAGE, other.image_id) | dict.fromkeys(VOLUME, other.volume_id)
    more = MORE | {"Volume.copy": MORE["Volume.copy"] | {"dstSdUUID": storage.sd_id}}
    return World(client, more=more, good=good | {"masterSdUUID": storage.sd_id, "masterVersion": 1, "hostID": 1})


def test_who_asks_for_what_is_not_there_is_told_so_by_number(world: World, libvirtd: PrivateLibvirtd) -> None:
    unknown_vm(world)
    unknown_pool(world)
    unknown_domain(world)
    unknown_image_or_volume(world)
    unknown_task(world)
    not_the_spm(world)
    a_vm_that_is_down(world, libvirtd)
    undeclared = {
        name: sorted(codes - {0} - {cls.code for cls in numbers_of(VERBS[name])}) for name, codes in world.seen.items()
    }
    assert {name: codes for name, codes in undeclared.items() if codes} == {}


def numbers_of(spec: VerbSpec) -> set[Any]:
    return {*spec.raises, *spec.later, *failures.ANY_VERB, *(failures.ON_STORAGE if spec.owner == "storage" else ())}


def unknown_vm(world: World) -> None:
    # They make one, or look at disks of one that is not here.
    elsewhere = {"VM.create", "VM.migrationCreate", "VM.seal", "VM.getDiskAlignment"}
    for spec, _, code in world.without(("vmID",)):
        if spec.name not in elsewhere:
            assert (spec.name, code) == (spec.name, NoSuchVm.code)


def unknown_pool(world: World) -> None:
    instead = {
        "StoragePool.connect": 323,  # this host is in a pool
        "StoragePool.create": 358,  # what it is to be made of is not there either
        "StoragePool.reconstructMaster": 656,
        "StoragePool.disconnect": 0,
        "StoragePool.connectStorageServer": 0,
        "StoragePool.disconnectStorageServer": 0,
        "StorageDomain.getVolumes": 0,
    }
    world.good["domainList"] = [NOBODY]
    for spec, _, code in world.without(POOL):
        if spec.name == "StoragePool.create":
            continue
        assert (spec.name, code) == (spec.name, instead.get(spec.name, PoolNotConnected.code))


def unknown_domain(world: World) -> None:
    """358, or 353 where it is looked for in the pool."""
    for spec, name, code in world.without(DOMAIN):
        if spec.name in ("StorageDomain.create", "Image.teardown") or (name == "sd_id" and spec.name.startswith("VM.")):
            continue
        assert code in (353, 358, *NO_PROGRAM.get(spec.name, ())), (spec.name, code)


def unknown_image_or_volume(world: World) -> None:
    """268 or 201; what only names a new volume, or is undone, is not looked for."""
    fine = {"Image.teardown": {0}, "Volume.teardown": {0}, "StoragePool.getDomainsContainingImage": {0}}
    new = {"Volume.create": {268}, "StorageDomain.getVolumes": {0}}  # its parent's image is not there
    elsewhere = {"Image.move": {353}, "Image.cloneStructure": {353}, "Image.syncData": {353}}  # to no known domain
    for names, codes in ((IMAGE, {201, 268}), (VOLUME, {201})):
        for spec, name, code in world.without(names):
            expected = {**fine, **new, **elsewhere}.get(spec.name, codes)
            assert code in {*expected, *NO_PROGRAM.get(spec.name, ())}, (spec.name, name, code)


def unknown_task(world: World) -> None:
    for spec, _, code in world.without(("taskID",)):
        assert (spec.name, code) == (spec.name, 401)


def not_the_spm(world: World) -> None:
    """654 from each verb that declares it, and from no other."""
    world.client.call("StoragePool.spmStop", {"storagepoolID": world.good["storagepoolID"]}, timeout_s=30)
    for spec in BUILT:
        if NotSpm in spec.raises:
            assert (spec.name, world.ask(spec, world.params(spec))) == (spec.name, NotSpm.code)
        elif NotSpm.code in world.seen.get(spec.name, ()):
            assert NotSpm in spec.raises, spec.name


def a_vm_that_is_down(world: World, libvirtd: PrivateLibvirtd) -> None:
    """6 from each verb that declares it."""
    with libvirt.open(libvirtd.uri) as conn:
        conn.lookupByUUIDString(world.good["vmID"]).destroy()
    ask = {"vmID": world.good["vmID"]}
    eventually(lambda: world.client.call("VM.getStats", ask, timeout_s=10)[0]["status"] == "Down", within_s=20)
    for spec in BUILT:
        if VmIsDown in spec.raises:
            assert (spec.name, world.ask(spec, world.params(spec))) == (spec.name, VmIsDown.code)
