# SPDX-License-Identifier: Apache-2.0
"""What an engine reads of storage and of tasks. See `tests.support.decode`."""

from typing import Any

from tests.support.decode_host import DOMAIN_REPORT
from tests.support.decoding import Table, check
from tests.support.rules import (
    bare_integer,
    integer,
    list_of,
    map_of,
    obj,
    one_of,
    record,
    text,
    text_integer,
    uuid,
)


def check_connections(answer: Any) -> Any:
    """`StoragePool.connectStorageServer` and disconnect: an entry for every connection asked for."""
    wrong = list_of(record({"id": uuid, "status": bare_integer}))(answer)
    return check("connection list", {}, {}, {}, [wrong] if wrong else []) or answer


def check_domain_info(answer: Any) -> Any:
    """`StorageDomain.getInfo`."""
    must: Table = {
        "uuid": uuid,
        "name": text,
        "type": text,
        "class": one_of("Data", "Iso", "Backup"),
        "role": one_of("Master", "Regular"),
        "version": text_integer,
        "pool": list_of(uuid),
    }
    may: Table = {"remotePath": text, "block_size": bare_integer, "alignment": bare_integer, "vguuid": text}
    return check("domain info", answer, must, may)


def check_domain_stats(answer: Any) -> Any:
    """`StorageDomain.getStats`."""
    must: Table = {"disktotal": text_integer, "diskfree": text_integer}
    return check("domain statistics", answer, must, {"alerts": list_of(record({"code": bare_integer}))})


def check_pool_info(answer: Any) -> Any:
    """`StoragePool.getInfo`. Whether every attached domain is listed, the caller must compare."""
    info = record(
        {"master_uuid": uuid, "master_ver": bare_integer, "name": text, "type": text, "version": integer,
         "lver": integer, "spm_id": bare_integer, "pool_status": text, "domains": text},
        {"isoprefix": text},
    )  # fmt: skip
    domain = record(
        {"status": one_of("Active", "Attached", "Unknown", "Locked")},
        {
            "diskfree": text_integer,
            "disktotal": text_integer,
            "alerts": list_of(obj),
            "version": bare_integer,
            "isoprefix": text,
        },
    )
    return check("pool info", answer, {"info": info, "dominfo": map_of(domain, uuid)})


def check_spm_status(answer: Any) -> Any:
    """`StoragePool.getSpmStatus`: all three are required."""
    must: Table = {"spmStatus": one_of("SPM", "Contend", "Free"), "spmLver": integer, "spmId": bare_integer}
    return check("SPM status", answer, must)


def check_volume_info(answer: Any) -> Any:
    """`Volume.getInfo`: one value that does not parse makes the volume not retrievable."""
    must: Table = {
        "uuid": uuid, "parent": uuid, "description": text, "status": one_of("OK", "ILLEGAL", "LOCKED", "INVALID"),
        "capacity": text_integer, "truesize": text_integer, "apparentsize": text_integer, "ctime": text_integer,
        "domain": uuid, "image": uuid, "type": one_of("SPARSE", "PREALLOCATED"), "format": one_of("COW", "RAW"),
        "voltype": one_of("LEAF", "INTERNAL", "SHARED"), "disktype": text,
        "legality": one_of("LEGAL", "ILLEGAL", "FAKE"),
        "children": list_of(uuid), "pool": text, "generation": bare_integer,
    }  # fmt: skip
    extra = []
    lease = answer.get("lease") if isinstance(answer, dict) else None
    if lease is not None:
        wrong = record({"owners": list_of(bare_integer)})(lease)
        extra = [f"lease: {wrong}"] if wrong else []
    return check("volume info", answer, must, {"sequence": bare_integer, "mtime": text_integer}, extra)


_TASK_STATUS: Table = {
    "taskState": one_of("unknown", "init", "running", "finished", "aborting", "cleaning"),
    "taskResult": one_of("", "success", "cleanSuccess", "cleanFailure"),
    "code": bare_integer,
    "message": text,
}


def check_task_status(answer: Any) -> Any:
    """`Task.getStatus`; `code` as a string throws."""
    return check("task status", answer, {**_TASK_STATUS, "taskID": uuid})


def check_all_task_statuses(answer: Any) -> Any:
    """`Host.getAllTasksStatuses`: all four members are mandatory in each."""
    wrong = map_of(record(_TASK_STATUS), uuid)(answer)
    return check("task list", answer, {}, {}, [wrong] if wrong else [])


TASK_VERBS = (
    "createVolume", "deleteVolume", "deleteImage", "copyImage", "moveImage", "reduceImage", "mergeSnapshots",
    "cloneImageStructure", "syncImageData", "extendImageSize", "downloadImage", "uploadImageToStream",
    "downloadImageFromStream", "prepareMerge", "finalizeMerge", "addLease", "removeLease", "switchMaster",
)  # fmt: skip


def check_all_tasks_info(answer: Any) -> Any:
    """`Host.getAllTasksInfo`: other verbs are unknown to the engine."""
    wrong = map_of(record({"verb": one_of(*TASK_VERBS, "spmStart"), "id": uuid}), uuid)(answer)
    return check("task list", answer, {}, {}, [wrong] if wrong else [])


def check_measure(answer: Any) -> Any:
    """`Volume.measure`."""
    return check("measure", answer, {"required": integer}, {"fully-allocated": integer, "bitmaps": integer})


def check_prepared(answer: Any) -> Any:
    """`Image.prepare`."""
    return check("prepared image", answer, {"path": text})


def check_qemu_info(answer: Any) -> Any:
    """`Volume.getQemuImageInfo`."""
    may: Table = {"clustersize": integer, "compat": text, "backingfile": text, "bitmaps": list_of(obj)}
    return check("QEMU's information", answer, {"format": text, "virtualsize": integer}, may)


def check_lease(answer: Any) -> Any:
    """`Lease.info`."""
    return check("lease", answer, {"sd_id": uuid, "lease_id": uuid, "path": text, "offset": integer})


def check_lease_status(answer: Any) -> Any:
    """`Lease.status`."""
    return check("lease status", answer, {"owners": list_of(bare_integer)}, {"metadata": obj})


def check_repo_stats(answer: Any) -> Any:
    """`Host.getStorageRepoStats`."""
    wrong = map_of(DOMAIN_REPORT, uuid)(answer)
    return check("domain health", answer, {}, {}, [wrong] if wrong else [])
