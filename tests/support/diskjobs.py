# SPDX-License-Identifier: Apache-2.0
"""More that a client does with disks of its own: cold merges, jobs, bitmaps, exports, transfers, backups, leases."""

import copy
import json
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from tests.support.diskwork import COW, SPARSE, Failed, Worker, anew, new_id
from tests.support.ledger import JOB_OVER, Storage, View, content, leaf_of, run
from vdsm_mp.api.types import BLANK

_PATIENCE_S = 120.0
_COPY = 1
_NO_JOB = "the job is gone"


class ImageServer(ThreadingHTTPServer):
    """files: what is served, and what was put. Slow enough that something may die meanwhile."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files: dict[str, bytes] = {}
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def url(self, name: str) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/{name}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Who asked has died."""

    def stop(self) -> None:
        self.shutdown()
        self.server_close()


class _Handler(BaseHTTPRequestHandler):
    server: ImageServer

    def log_message(self, *args: Any) -> None:
        """Quiet."""

    def do_GET(self) -> None:
        data = self.server.files[self.path[1:]]
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        for at in range(0, len(data), 1 << 18):
            self.wfile.write(data[at : at + (1 << 18)])
            self.wfile.flush()
            time.sleep(0.02)

    def do_PUT(self) -> None:
        length, data = int(self.headers["Content-Length"]), b""
        while len(data) < length and (piece := self.rfile.read1(1 << 18)):
            data += piece
            time.sleep(0.02)
        self.server.files[self.path[1:]] = data
        self.send_response(201)
        self.end_headers()


@dataclass
class BusyWorker(Worker):
    """server: for transfers, None = there are none. leases: domains that have them. nbd: servers that may run.

    one_host: all calls go to the same, so that what is done on a host can be undone there. modern: every qcow2 file has
    compat 1.1, and so room for bitmaps.
    """

    server: ImageServer | None = None
    leases: tuple[str, ...] = ()
    one_host: bool = True
    modern: bool = True
    nbd: set[str] = field(default_factory=set)
    prepared: set[str] = field(default_factory=set)

    def step(self) -> str:
        merged = [key for key in sorted(self.own) if illegal(self.view(key))]
        return self.drop_merged(merged[0]) if merged else super().step()

    def more(self, key: str) -> list[Callable[[], str]]:
        view = self.view(key)
        alone = not self.is_template(key) and not self.on_template(key)
        acts: list[Callable[[], str]] = self._exports(key)
        if len(self.own) < self.most and self.storage.jobs:
            acts.append(lambda: self.copy_data(key))
        if alone and len(self.storage.domains) > 1:
            acts.append(lambda: self.migrate(key))
        if self.one_host:
            acts += [lambda: self.prepare(key), lambda: self.serve(key)]
        if self.storage.jobs and self.merges(key):
            acts += [lambda: self.merge(key)] * 3
        if self.storage.jobs and not self.is_template(key):
            acts.append(lambda: self.update(key))
            if self.modern and view[leaf_of(view)]["format"] == "COW":
                acts += [lambda: self.add_bitmap(key), lambda: self.remove_bitmap(key), lambda: self.clear_bitmaps(key)]
                acts.append(lambda: self.amend(key))
        if alone and len(view) == 1 and self.server is not None:
            acts += [lambda: self.download(key), lambda: self.upload(key)]
        return acts + ([self.lease] * 2 if self.leases else [])

    def tidy(self, storage: Storage) -> None:
        """As an engine: end what may be in use on the host for a client that was cut short."""
        for server_id in sorted(self.nbd):
            storage.call("NBD.stop_server", server_id=server_id)
        for key in sorted(self.prepared):
            storage.call("Image.teardown", **storage.names(key, new_id()))
        self.nbd.clear()
        self.prepared.clear()

    # Cold merge

    def merges(self, key: str) -> list[tuple[str, str]]:
        """[(base, top)] that could be merged."""
        if self.is_template(key):
            return []
        view, template = self.view(key), self.on_template(key)
        fixed = set(self.view(template)) if template else set()
        return [
            (one["parent"], top) for top, one in view.items() if one["parent"] != BLANK and one["parent"] not in fixed
        ]

    def merge(self, key: str) -> str:
        """All steps of an engine, the deletion of what was merged included."""
        base, top = self.rng.choice(self.merges(key))
        sd_id, _, image_id = key.partition("/")
        chain = {"sd_id": sd_id, "img_id": image_id, "base_id": base, "top_id": top}
        pool = {"storagepoolID": self.storage.pool_id}

        before, after = self.view(key), self.view(key)
        size = max(int(before[base]["capacity"]), int(before[top]["capacity"]))
        kept = sorted(set(before[base]["bitmaps"]) & set(before[top]["bitmaps"]))
        after[base] |= {"capacity": str(size), "bitmaps": kept}
        self.again("prepare merge", key, before, after, "StoragePool.prepareMerge", **pool, subchainInfo=chain)

        before, after = self.view(key), self.view(key)
        marked = sorted({*before[base]["bitmaps"], *before[top]["bitmaps"]}) if before[base]["format"] == "COW" else []
        after[base] |= {"generation": before[base]["generation"] + 1, "bitmaps": marked}
        subchain = chain | {"base_generation": before[base]["generation"]}
        self.job("merge", key, before, after, "SDM.merge", again=True, subchain_info=subchain, merge_bitmaps=True)

        before, after = self.view(key), self.view(key)
        after[top]["legality"] = "ILLEGAL"
        after[base]["writes"] |= before[top]["writes"]
        for one in after.values():
            if one["parent"] == top:
                one["parent"] = base
        self.again("finalize merge", key, before, after, "StoragePool.finalizeMerge", **pool, subchainInfo=chain)
        self.drop_merged(key)
        return "merge"

    def drop_merged(self, key: str) -> str:
        before = self.view(key)
        gone = illegal(before)
        after = {one: other for one, other in before.items() if one not in gone}
        params = {**self.storage.names(key), "volumeList": gone}
        self.again("delete merged", key, before, after, "Image.deleteVolumes", **params)
        return "delete merged"

    # Copies

    def copy_data(self, key: str) -> str:
        """As engines copy disks: a new volume, then a job that fills it."""
        before, volume_id = self.view(key), new_id()
        leaf, sd_id = leaf_of(before), self.rng.choice(list(self.storage.domains))
        target = f"{sd_id}/{new_id()}"
        made: View = {volume_id: self._new(BLANK, COW, int(before[leaf]["capacity"]))}
        self._create(target, None, made, volume_id, COW, SPARSE, BLANK, BLANK)
        self.own.add(target)
        filled = copy.deepcopy(made)
        filled[volume_id] |= {"writes": content(before, leaf), "generation": 1}
        ends = {
            "source": {"endpoint_type": "div", **self.ref(key, leaf)},
            "destination": {"endpoint_type": "div", **self.ref(target, volume_id)},
        }
        self.job("copy data", target, made, filled, "SDM.copy_data", again=True, **ends)
        return "copy data"

    def migrate(self, key: str) -> str:
        """To another domain as under a running VM: the empty chain, then its data, then the source goes."""
        sd_id, _, image_id = key.partition("/")
        to = self.rng.choice([one for one in self.storage.domains if one != sd_id])
        target, view = f"{to}/{image_id}", self.view(key)
        if target in self.own:
            return "nothing"
        empty: View = {volume_id: anew(one) | {"writes": {}} for volume_id, one in view.items()}
        params = {**self.storage.names(key), "dstSdUUID": to}
        both = {key: view, target: None}
        self._task("clone structure", both, {key: view, target: empty}, "Image.cloneStructure", **params)
        self.own.add(target)
        full = {volume_id: anew(one) for volume_id, one in view.items()}
        self.again("sync data", target, empty, full, "Image.syncData", **params, syncType="ALL")
        return self.delete(key)

    # Jobs on one volume

    def update(self, key: str) -> str:
        before, after = self.view(key), self.view(key)
        if self.users(key) or self.on_template(key):
            return "nothing"
        leaf, text = leaf_of(before), json.dumps({"DiskAlias": new_id()})
        after[leaf] |= {"description": text, "generation": self.rng.randrange(900)}
        wanted = {name: after[leaf][name] for name in ("description", "generation")}
        self.job("update", key, before, after, "SDM.update_volume", vol_info=self.ref(key, leaf), vol_attr=wanted)
        return "update"

    def add_bitmap(self, key: str) -> str:
        name = new_id()
        return self._change("add bitmap", key, lambda names: [*names, name], "SDM.add_bitmap", again=True, bitmap=name)

    def remove_bitmap(self, key: str) -> str:
        view = self.view(key)
        names = view[leaf_of(view)]["bitmaps"]
        if not names:
            return "nothing"
        name = self.rng.choice(names)
        rest = [one for one in names if one != name]
        return self._change("remove bitmap", key, lambda _: rest, "SDM.remove_bitmap", again=True, bitmap=name)

    def clear_bitmaps(self, key: str) -> str:
        return self._change("clear bitmaps", key, lambda _: [], "SDM.clear_bitmaps", again=True)

    def amend(self, key: str) -> str:
        return self._change(
            "amend", key, lambda names: names, "SDM.amend_volume", again=True, qcow2_attr={"compat": "1.1"}
        )

    def _change(
        self,
        what: str,
        key: str,
        bitmaps: Callable[[list[str]], list[str]],
        verb: str,
        *,
        again: bool = False,
        **params: Any,
    ) -> str:
        """One that counts the generation on after it."""
        before = self.view(key)
        leaf = leaf_of(before)
        between = copy.deepcopy(before)
        between[leaf]["bitmaps"] = sorted(bitmaps(before[leaf]["bitmaps"]))
        after = copy.deepcopy(between)
        after[leaf]["generation"] += 1
        more = {"vol_info": self.ref(key, leaf), **params}
        self.job(what, key, before, after, verb, between=between, again=again, **more)
        return what

    # To and from elsewhere

    def _exports(self, key: str) -> list[Callable[[], str]]:
        acts: list[Callable[[], str]] = []
        for sd_id in self.storage.exports:
            there = f"{sd_id}/{key.partition('/')[2]}"
            if there not in self.own and not self.is_template(key) and not self.on_template(key):
                acts.append(partial(self.copy_image, "export", key, there))
        for exported in sorted(one for one in self.own if one.partition("/")[0] in self.storage.exports):
            image_id = exported.partition("/")[2]
            acts.append(partial(self.delete, exported))
            if not any(one.endswith(image_id) for one in self.own if one != exported):
                target = f"{self.rng.choice(list(self.storage.domains))}/{image_id}"
                acts += [partial(self.copy_image, "import", exported, target)] * 2
        return acts

    def copy_image(self, what: str, key: str, target: str) -> str:
        view = self.view(key)
        to = target.partition("/")[0]
        params = {**self.storage.names(key), "dstSdUUID": to, "operation": _COPY, "postZero": False, "force": False}
        made = {volume_id: anew(one) for volume_id, one in view.items()}
        self._task(what, {key: view, target: None}, {key: view, target: made}, "Image.move", **params)
        self.own.add(target)
        return what

    def download(self, key: str) -> str:
        """A new disk from a server; half of it is no disk."""
        assert self.server is not None
        before, after = self.view(key), self.view(key)
        [(volume_id, one)] = after.items()
        byte, at = self.rng.randrange(1, 256), self.rng.randrange(16) * 65536
        form = "qcow2" if one["format"] == "COW" else "raw"
        folder = Path(tempfile.mkdtemp(prefix="vdsm-mp-up-"))
        try:
            made = folder / "disk"
            options = ["-o", "compat=1.1"] if form == "qcow2" else []
            run("qemu-img", "create", "-q", "-f", form, *options, str(made), one["capacity"])
            run("qemu-io", "-f", form, "-c", f"write -P {byte} {at} 4096", "-c", "flush", str(made))
            self.server.files[volume_id] = made.read_bytes()
        finally:
            shutil.rmtree(folder)
        one |= {"writes": {str(at): byte}, "bitmaps": []}
        self._share("download", key, before, after, "Image.download", volume_id)
        return "download"

    def upload(self, key: str) -> str:
        assert self.server is not None
        view = self.view(key)
        [volume_id] = view
        self.server.files.pop(volume_id, None)
        self._share("upload", key, view, view, "Image.upload", volume_id)
        assert self.server.files[volume_id] == (self.storage.image(key) / volume_id).read_bytes()
        return "upload"

    def _share(self, what: str, key: str, before: View, after: View, verb: str, volume_id: str) -> None:
        assert self.server is not None
        how = {"method": "http", "url": self.server.url(volume_id), "headers": {}}
        self.again(what, key, before, after, verb, **self.storage.names(key, volume_id), methodArgs=how)

    def prepare(self, key: str) -> str:
        view = self.view(key)
        leaf = leaf_of(view)
        names = self.storage.names(key, leaf)
        self.prepared.add(key)
        found = self.storage.call("Image.prepare", **names)
        assert os.path.samefile(found["path"], self.storage.image(key) / leaf), found
        self.storage.call("Image.teardown", **names)
        self.prepared.discard(key)
        return "prepare"

    def serve(self, key: str) -> str:
        """A backup reads the disk over NBD."""
        view, server_id = self.view(key), new_id()
        leaf, (sd_id, _, image_id) = leaf_of(view), key.partition("/")
        config = {"sd_id": sd_id, "img_id": image_id, "vol_id": leaf, "readonly": True, "discard": False}
        self.nbd.add(server_id)
        url = self.storage.call("NBD.start_server", server_id=server_id, config=config)
        reads = [word for at, byte in content(view, leaf).items() for word in ("-c", f"read -P {byte} {at} 4096")]
        done = run("qemu-io", "-r", "-f", "raw", *(reads or ["-c", "read 0 512"]), url)
        assert "verification failed" not in done, (key, done)
        self.storage.call("NBD.stop_server", server_id=server_id)
        self.nbd.discard(server_id)
        return "serve"

    # Leases

    def lease(self) -> str:
        held = sorted(key for key, view in self.ledger.things.items() if view is not None and key in self._lease_keys())
        key = self.rng.choice(self._lease_keys())
        _, sd_id, lease_id = key.split("/")
        name = {"lease": {"sd_id": sd_id, "lease_id": lease_id}}
        if key in held:
            view = self.view(key)
            self.again("remove lease", key, view, None, "Lease.delete", **name)
            return "remove lease"
        job = new_id() if self.rng.random() < 0.5 else None
        metadata = {"type": "JOB", "generation": 0, "job_id": job, "job_status": "PENDING"}
        params = name | ({"metadata": metadata} if job else {})
        self._task("add lease", {key: None}, {key: {"job": job}}, "Lease.create", **params)
        return "add lease"

    def _lease_keys(self) -> list[str]:
        return [f"lease/{sd_id}/{self.vm_id}" for sd_id in self.leases]

    # Ways

    def ref(self, key: str, volume_id: str) -> dict[str, Any]:
        sd_id, _, image_id = key.partition("/")
        found = {"sd_id": sd_id, "img_id": image_id, "vol_id": volume_id}
        return found | {"generation": self.view(key)[volume_id]["generation"]}

    def again(self, what: str, key: str, before: View | None, after: View | None, verb: str, **params: Any) -> None:
        """A task that is asked for again when it was cut short."""
        number = self.ledger.begin(f"{self.name}: {what}", {key: before}, {key: after}, again=[verb, params])
        self.task_of(number, verb, **params)

    def job(
        self,
        what: str,
        key: str,
        before: View,
        after: View,
        verb: str,
        *,
        between: View | None = None,
        again: bool = False,
        **params: Any,
    ) -> None:
        more: dict[str, Any] = {"again": [verb, params]} if again else {}
        if between is not None:
            more["between"] = {key: between}
        number = self.ledger.begin(f"{self.name}: {what}", {key: before}, {key: after}, **more)
        job_id = new_id()
        self.storage.call(verb, job_id=job_id, **params)
        until = time.monotonic() + _PATIENCE_S
        while (job := self.storage.job_list().get(job_id)) is None or job["status"] not in JOB_OVER:
            assert job is not None, (what, _NO_JOB)
            assert time.monotonic() < until, (what, job)
            time.sleep(0.01)
        if job["status"] != "done":
            raise Failed(f"{what}: {job}")
        self.ledger.note(number, result="success")


def illegal(view: View) -> list[str]:
    return sorted(one for one, other in view.items() if other.get("legality") == "ILLEGAL")
