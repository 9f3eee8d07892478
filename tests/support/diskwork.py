# SPDX-License-Identifier: Apache-2.0
"""One client that works on disks of its own, at random, and writes down what it does and is told (`ledger`)."""

import copy
import json
import random
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from tests.support.ledger import Ledger, Storage, View, content, is_image, leaf_of, run
from vdsm_mp.api.types import BLANK

MIB = 2**20
COW, RAW, PREALLOCATED, SPARSE = 4, 5, 1, 2
TEMPLATE, LEAF = 6, 8
_PATIENCE_S = 120.0
_NOT_UNDONE = ("Volume.extendSize", "Image.delete")
#: In the first MiB, 64 KiB apart.
_OFFSETS = [n * 65536 for n in range(16)]


def new_id() -> str:
    return str(uuid.uuid4())


class Failed(Exception):
    """A task ended, but not well."""


@dataclass
class Worker:
    """most: images at a time. depth: longest chain. Keys of `own` are images of the ledger that nobody else touches."""

    name: str
    storage: Storage
    ledger: Ledger
    rng: random.Random
    most: int = 4
    depth: int = 5
    ovfs: bool = True
    own: set[str] = field(default_factory=set)
    templates: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.vm_id = str(uuid.uuid5(uuid.NAMESPACE_OID, self.name))

    def step(self) -> str:
        """One operation to its end; what it was. Raises: what the calls raise (it is open then), Failed."""
        images = sorted(key for key in self.own if key.partition("/")[0] in self.storage.domains)
        if len(images) < 2:
            return self.create()
        key = self.rng.choice(images)
        acts: list[Callable[[], str]] = [lambda: self.describe(key), *self.more(key)]
        acts += [self.ovf] if self.ovfs else []
        if len(images) < self.most:
            acts += [self.create, lambda: self.duplicate(key)]
        if self.is_template(key):
            acts += [lambda: self.clone(key)] if len(images) < self.most else []
        else:
            acts += [lambda: self.snapshot(key)] * 3 if len(self.view(key)) < self.depth else []
            acts += [lambda: self.extend(key), lambda: self.write(key)]
        if len(images) > self.most // 2 and not self.users(key):
            acts += [lambda: self.delete(key)] * 2
        if len(self.storage.domains) > 1 and not self.is_template(key) and not self.on_template(key):
            acts.append(lambda: self.move(key))
        return self.rng.choice(acts)()

    def more(self, key: str) -> list[Callable[[], str]]:
        """Whatever else could be done with an image of one's own, or without one."""
        return []

    # What is known

    def view(self, key: str) -> View:
        found = self.ledger.things[key]
        assert found is not None
        return copy.deepcopy(found)

    def take_up(self) -> None:
        """Go on with what is there of one's own, by the ledger; what became of open operations is known."""
        mine = [one for one in self.ledger.operations.values() if one.what.startswith(f"{self.name}:")]
        there = {key for one in mine for key in one.after if self.ledger.things.get(key) is not None}
        self.own = {key for key in there if is_image(key)}
        self.templates = {key for one in mine if one.what.endswith("template") for key in one.after} & self.own

    def is_template(self, key: str) -> bool:
        return key in self.templates

    def on_template(self, key: str) -> str:
        """The template that an image stands on."""
        return next((one for one in self.templates if one != key and set(self.view(one)) & set(self.view(key))), "")

    def users(self, key: str) -> list[str]:
        return [one for one in self.own if one != key and self.on_template(one) == key] if self.is_template(key) else []

    # Operations

    def create(self) -> str:
        sd_id, volume_id = self.rng.choice(list(self.storage.domains)), new_id()
        form, kind = self.rng.choice([(COW, SPARSE), (COW, SPARSE), (RAW, SPARSE), (RAW, PREALLOCATED)])
        key = f"{sd_id}/{new_id()}"
        view = {volume_id: self._new(BLANK, form, 2 * MIB)}
        self._create(key, None, view, volume_id, form, kind, BLANK, BLANK)
        self.own.add(key)
        return "create"

    def snapshot(self, key: str) -> str:
        before, volume_id = self.view(key), new_id()
        leaf = leaf_of(before)
        after = before | {volume_id: self._new(leaf, COW, int(before[leaf]["capacity"]))}
        self._create(key, before, after, volume_id, COW, SPARSE, key.partition("/")[2], leaf)
        return "snapshot"

    def clone(self, key: str) -> str:
        """A thin one, which has links of the template's volume."""
        template, volume_id = self.view(key), new_id()
        [base] = template
        target = f"{key.partition('/')[0]}/{new_id()}"
        after = template | {volume_id: self._new(base, COW, int(template[base]["capacity"]))}
        self._create(target, None, after, volume_id, COW, SPARSE, key.partition("/")[2], base)
        self.own.add(target)
        return "clone"

    def duplicate(self, key: str) -> str:
        """The chain as one volume of a new image, sometimes a template."""
        before, volume_id = self.view(key), new_id()
        leaf, template = leaf_of(before), self.rng.random() < 0.3
        sd_id = self.rng.choice(list(self.storage.domains))
        target = f"{sd_id}/{new_id()}"
        made = anew(before[leaf]) | {"parent": BLANK, "format": "COW", "writes": content(before, leaf)}
        params = {
            **self.storage.names(key, leaf),
            "dstSdUUID": sd_id,
            "dstImgUUID": target.partition("/")[2],
            "dstVolUUID": volume_id,
            "desc": "",
            "volType": TEMPLATE if template else LEAF,
            "volFormat": COW,
            "preallocate": SPARSE,
            "postZero": False,
            "force": False,
        }
        what = "template" if template else "copy"
        self._task(what, {target: None}, {target: {volume_id: made}}, "Volume.copy", **params)
        self.own.add(target)
        self.templates |= {target} if template else set()
        return what

    def extend(self, key: str) -> str:
        before = self.view(key)
        leaf = leaf_of(before)
        size = int(before[leaf]["capacity"]) + MIB
        after = before | {leaf: before[leaf] | {"capacity": str(size)}}
        names = self.storage.names(key, leaf)
        self._task("extend", {key: before}, {key: after}, "Volume.extendSize", **names, newSize=str(size))
        return "extend"

    def describe(self, key: str) -> str:
        before = self.view(key)
        if self.users(key) or self.on_template(key):
            return "nothing"
        leaf, text = leaf_of(before), json.dumps({"DiskAlias": new_id()})
        after = before | {leaf: before[leaf] | {"description": text}}
        names = self.storage.names(key, leaf)
        self._at_once("describe", {key: before}, {key: after}, "Volume.setDescription", **names, description=text)
        return "describe"

    def ovf(self) -> str:
        key = f"vm/{self.vm_id}"
        before = self.ledger.things.get(key)
        pool = {"storagepoolID": self.storage.pool_id}
        if before is not None and self.rng.random() < 0.3:
            self._at_once("remove OVF", {key: before}, {key: None}, "StoragePool.removeVM", **pool, vmUUID=self.vm_id)
            return "remove OVF"
        text = f"<ovf>{new_id() * self.rng.randrange(1, 400)}</ovf>"
        rows = [{"vm": self.vm_id, "ovf": text, "imglist": ""}]
        self._at_once("update OVF", {key: before}, {key: {"ovf": text}}, "StoragePool.updateVMs", **pool, vmList=rows)
        return "update OVF"

    def write(self, key: str) -> str:
        """As a guest that syncs."""
        before = self.view(key)
        leaf, at, byte = leaf_of(before), self.rng.choice(_OFFSETS), self.rng.randrange(1, 256)
        after = copy.deepcopy(before)
        after[leaf]["writes"][str(at)] = byte
        number = self.ledger.begin(f"{self.name}: write", {key: before}, {key: after})
        form = "qcow2" if before[leaf]["format"] == "COW" else "raw"
        run(
            "qemu-io",
            "-f",
            form,
            "-c",
            f"write -P {byte} {at} 4096",
            "-c",
            "flush",
            str(self.storage.image(key) / leaf),
        )
        self.ledger.note(number, result="success")
        return "write"

    def delete(self, key: str) -> str:
        params = {**self.storage.names(key), "postZero": self.rng.random() < 0.5, "force": False}
        self._task("delete", {key: self.view(key)}, {key: None}, "Image.delete", **params)
        self.own.discard(key)
        self.templates.discard(key)
        return "delete"

    def move(self, key: str) -> str:
        """To another domain; the source goes after its copy is told of."""
        sd_id, _, image_id = key.partition("/")
        to = self.rng.choice([one for one in self.storage.domains if one != sd_id])
        target = f"{to}/{image_id}"
        if target in self.own:
            return "nothing"
        view = self.view(key)
        params = {**self.storage.names(key), "dstSdUUID": to, "operation": 2, "postZero": False, "force": False}
        moved = {volume_id: anew(one) for volume_id, one in view.items()}
        self._task("move", {key: view, target: None}, {key: None, target: moved}, "Image.move", **params)
        self.own.discard(key)
        self.own.add(target)
        return "move"

    # Ways

    def _new(self, parent: str, form: int, capacity: int) -> View:
        text = json.dumps({"DiskAlias": self.name})
        return {
            "parent": parent,
            "capacity": str(capacity),
            "format": "COW" if form == COW else "RAW",
            "description": text,
            "legality": "LEGAL",
            "generation": 0,
            "bitmaps": [],
            "writes": {},
        }

    def _create(
        self, key: str, before: View | None, after: View, volume_id: str, form: int, kind: int, image: str, parent: str
    ) -> None:
        params = {
            **self.storage.names(key, volume_id),
            "size": after[volume_id]["capacity"],
            "volFormat": form,
            "preallocate": kind,
            "diskType": "DATA",
            "desc": after[volume_id]["description"],
            "srcImgUUID": image,
            "srcVolUUID": parent,
            "sequence": 1,
        }
        self._task("create", {key: before}, {key: after}, "Volume.create", **params)

    def task_of(self, number: int, verb: str, **params: Any) -> dict[str, Any]:
        """Its last status, written down as far as it is certain; cleared."""
        task_id = self.storage.call(verb, **params)
        self.ledger.note(number, task=task_id)
        until = time.monotonic() + _PATIENCE_S
        while (status := self.storage.call("Task.getStatus", taskID=task_id))["taskState"] != "finished":
            assert time.monotonic() < until, (verb, status)
            time.sleep(0.01)
        one = self.ledger.operations[number]
        # What cannot be undone is done when it was done and its success could not be stored; asking again is harmless.
        if status["taskResult"] == "success" or not (one.again or verb in _NOT_UNDONE):
            self.ledger.note(number, result=status["taskResult"])
        self.ledger.note(number, cleared="clearing")
        self.storage.call("Task.clear", taskID=task_id)
        self.ledger.note(number, cleared="cleared")
        if status["taskResult"] != "success":
            raise Failed(f"{one.what}: {status}")
        return status

    def _at_once(self, what: str, before: dict[str, Any], after: dict[str, Any], verb: str, **params: Any) -> None:
        number = self.ledger.begin(f"{self.name}: {what}", before, after)
        self.storage.call(verb, **params)
        self.ledger.note(number, result="success")

    def _task(self, what: str, before: dict[str, Any], after: dict[str, Any], verb: str, **params: Any) -> None:
        number = self.ledger.begin(f"{self.name}: {what}", before, after)
        self.task_of(number, verb, **params)


def anew(volume: dict[str, Any]) -> dict[str, Any]:
    """What a copy of a volume has of its own."""
    return volume | {"generation": 0, "bitmaps": []}
